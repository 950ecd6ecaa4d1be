// AOTInductor's machine code, run by LibTorch; checked as export/targets/aotinductor.py does before it is loaded.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <sys/utsname.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "backend.hpp"
#include "torch_tensors.hpp"

namespace xfer::backend {
namespace {

// The loader wants a path: a copy of the bytes that were checked, gone again when they are loaded.
class TemporaryFile {
 public:
  TemporaryFile(const void *data, std::size_t size, const std::string &suffix) {
    std::string path = (std::filesystem::temp_directory_path() / ("xfer-XXXXXX" + suffix)).string();
    const int file = mkstemps(path.data(), static_cast<int>(suffix.size()));
    if (file < 0) throw Refusal(XFER_FAILED, "No file can be written to " + path + ".");
    path_ = path;
    const auto *bytes = static_cast<const char *>(data);
    while (size > 0) {
      const ssize_t written = ::write(file, bytes, size);
      if (written <= 0) break;
      bytes += written;
      size -= static_cast<std::size_t>(written);
    }
    ::close(file);
    if (size > 0) {
      ::unlink(path_.c_str());
      throw Refusal(XFER_FAILED, "No space for " + path_ + ".");
    }
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile &) = delete;
  TemporaryFile &operator=(const TemporaryFile &) = delete;

  const std::string &path() const { return path_; }

 private:
  std::string path_;
};

// Whether a processor of one of PyTorch's capabilities runs code for another.
bool runs(const std::string &here, const std::string &wanted) {
  if (here == wanted) return true;
  if (wanted == "AVX2") return here == "AVX512";
  return wanted == "DEFAULT" && (here == "AVX2" || here == "AVX512");
}

// The processor's flags as Linux names them, each between spaces; nothing where the system does not say.
std::string processor_flags() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) return line.substr(line.find(':') + 1) + " ";
  }
  return "";
}

void check_needs(const xfer_plugin_file &file) {
  const auto *text = static_cast<const char *>(file.data);
  const auto needs = nlohmann::json::parse(text, text + file.size, nullptr, false);
  const auto of = [&needs](const char *key) {
    return needs.is_object() && needs.contains(key) && needs[key].is_string() ? needs[key].get<std::string>() : "?";
  };
  utsname machine{};
  ::uname(&machine);
  const std::string capability = at::get_cpu_capability();
  std::string missing;
  if (of("torch") != TORCH_VERSION) {
    missing = "it was built by PyTorch " + of("torch") + ", and this is " TORCH_VERSION;
  } else if (of("machine") != machine.machine) {
    missing = "it was built for " + of("machine") + ", and this is " + machine.machine;
  } else if (!runs(capability, of("capability"))) {
    missing = "it was built for " + of("capability") + ", and this processor has " + capability;
  }
  const std::string flags = processor_flags();
  const auto features = needs.is_object() ? needs.value("features", nlohmann::json::array()) : nlohmann::json::array();
  for (const auto &feature : features) {
    if (missing.empty() && feature.is_string() && !flags.empty() && flags.find(" " + feature.get<std::string>() + " ") == std::string::npos) {
      missing = "it was built for a processor with " + feature.get<std::string>() + ", which this one lacks";
    }
  }
  if (!missing.empty()) throw Refusal(XFER_UNAVAILABLE, "aotinductor: " + missing + ". Export it there.");
}

class Session {
 public:
  explicit Session(const xfer_plugin_request &request)
      : threads_(request.threads), tensors_(request), library_("torch " TORCH_VERSION) {
    if (*request.place != '\0') throw Refusal(XFER_USAGE, "aotinductor runs on the CPU only: leave out the @.");
    check_needs(file_named(request, "needs.json"));
    const xfer_plugin_file &package = file_named(request, "policy.pt2");
    const TemporaryFile copy(package.data, package.size, ".pt2");
    at::set_num_threads(threads_);
    try {
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(copy.path());
    } catch (const c10::Error &error) {
      throw Refusal(XFER_BUNDLE, std::string("PyTorch cannot load it: ") + error.what_without_backtrace());
    }
  }

  const char *library() const { return library_.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    const c10::InferenceMode guard;
    // PyTorch has one setting for all modules of a process.
    if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
    tensors_.copy(loader_->run(tensors_.inputs(batch, inputs)), batch, outputs);
  }

 private:
  int threads_;
  TorchTensors tensors_;
  std::string library_;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("aotinductor", xfer::backend::Session)
