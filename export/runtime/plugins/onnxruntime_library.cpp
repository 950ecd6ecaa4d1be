#include "onnxruntime_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <regex>

#include "backend.hpp"

namespace xfer::backend {
namespace {

// What is called here exists since version 1.16, so an older library than the headers will do.
constexpr uint32_t OLDEST_API = 16;

OnnxRuntime open_library(const std::string &path) {
  // The official builds (seen in 1.32) send usage to Microsoft from threads of their own, and keep what was not sent yet
  // (Privacy.md in the wheel). A control loop has none of that unless the user sets it to 0.
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  setenv("NVIDIA_TF32_OVERRIDE", "0", 0);  // fp32 means fp32, on a GPU too
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Refusal(XFER_UNAVAILABLE, std::string("ONNX Runtime's library cannot be loaded (") + dlerror() +
                                        "). Name it in XFER_ONNXRUNTIME_LIBRARY.");
  }
  using GetBase = const OrtApiBase *(*)();
  const auto base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) throw Refusal(XFER_UNAVAILABLE, path + " is not ONNX Runtime.");
  const std::string version = base()->GetVersionString();
  const OrtApi *api = base()->GetApi(OLDEST_API);
  if (api == nullptr) throw Refusal(XFER_UNAVAILABLE, path + " is ONNX Runtime " + version + ", too old: 1.16 is needed.");
  OnnxRuntime runtime{api, nullptr, version};
  runtime.check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "xfer", &runtime.env), XFER_UNAVAILABLE);
  return runtime;
}

// Says which version a graph needs, where this one is too old for it, else nothing: too_old in export/targets/onnx.py.
std::string too_old(const std::string &message, const std::string &version) {
  struct Known {
    const char *what, *pattern;
    std::map<int, std::string> needed;
  };
  static const Known all[] = {
      {"IR version", "Unsupported model IR version: ([0-9]{1,9})", {{10, "1.18"}, {11, "1.22"}}},
      {"opset", "Opset ([0-9]{1,9}) is under development",
       {{19, "1.15"}, {20, "1.17"}, {21, "1.18"}, {22, "1.21"}, {23, "1.22"}}}};
  for (const Known &known : all) {
    std::smatch found;
    if (!std::regex_search(message, found, std::regex(known.pattern))) continue;
    const auto needed = known.needed.find(std::stoi(found[1]));
    const std::string newer =
        needed != known.needed.end() ? needed->second : std::string("one that knows ") + known.what + " " + found[1].str();
    return "this is " + version + ", and it needs " + newer + "; or export with a lower --opset";
  }
  return "";
}

}  // namespace

void OnnxRuntime::check(OrtStatus *status, int code) const {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  const std::string older = too_old(message, version);
  if (!older.empty()) throw Refusal(XFER_UNAVAILABLE, "ONNX Runtime cannot load the graph: " + older);
  throw Refusal(code == 0 ? XFER_FAILED : static_cast<xfer_code>(code), "ONNX Runtime: " + message);
}

const OnnxRuntime &onnxruntime(const char *path) {
  static std::mutex mutex;
  // Never destroyed: other threads may still act while the process ends.
  static auto &loaded = *new std::map<std::string, OnnxRuntime>();
  const char *set = std::getenv("XFER_ONNXRUNTIME_LIBRARY");
  std::string name = path != nullptr && *path != '\0' ? path : set != nullptr ? set : "";
  if (name.empty()) name = "libonnxruntime.so.1";
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = loaded.find(name);
  return found != loaded.end() ? found->second : loaded.emplace(name, open_library(name)).first->second;
}

}  // namespace xfer::backend
