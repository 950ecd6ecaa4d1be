#include "tensorrt_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "backend.hpp"

namespace xfer::backend {
namespace {

class Collector : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char *message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::snprintf(last_, sizeof(last_), "%s", message);
  }
  std::string last() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_;
  }

 private:
  std::mutex mutex_;
  char last_[512] = "no reason given";
};

Collector &collector() {
  static auto &made = *new Collector();
  return made;
}

void *open_first(const std::vector<std::string> &names, const std::string &hint) {
  std::string reason;
  for (const std::string &name : names) {
    if (void *library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
    reason = dlerror();
  }
  throw Refusal(XFER_UNAVAILABLE, reason + ". " + hint);
}

template <class Function>
void find(void *library, const char *name, Function &function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw Refusal(XFER_UNAVAILABLE, std::string("the library has no ") + name + ".");
}

Cuda open_cuda() {
  // Without a driver nothing else is worth saying.
  open_first({"libcuda.so.1"}, "TensorRT needs an NVIDIA GPU with its driver.");
  void *library = open_first({"libcudart.so.13", "libcudart.so.12", "libcudart.so"}, "Install the CUDA runtime.");
  Cuda cuda{};
  find(library, "cudaGetErrorString", cuda.error_string);
  find(library, "cudaGetDeviceCount", cuda.device_count);
  find(library, "cudaMalloc", cuda.malloc);
  find(library, "cudaFree", cuda.free);
  find(library, "cudaMallocHost", cuda.malloc_host);
  find(library, "cudaFreeHost", cuda.free_host);
  find(library, "cudaMemcpyAsync", cuda.copy);
  find(library, "cudaMemsetAsync", cuda.set);
  find(library, "cudaStreamCreateWithFlags", cuda.stream_create);
  find(library, "cudaStreamDestroy", cuda.stream_destroy);
  find(library, "cudaStreamSynchronize", cuda.stream_wait);
  find(library, "cudaStreamBeginCapture", cuda.begin_capture);
  find(library, "cudaStreamEndCapture", cuda.end_capture);
  find(library, "cudaGraphInstantiateWithFlags", cuda.graph_instantiate);
  find(library, "cudaGraphDestroy", cuda.graph_destroy);
  find(library, "cudaGraphExecDestroy", cuda.graph_exec_destroy);
  find(library, "cudaGraphLaunch", cuda.graph_launch);
  int count = 0;
  const cudaError_t status = cuda.device_count(&count);
  if (status != cudaSuccess || count == 0) {
    throw Refusal(XFER_UNAVAILABLE, std::string("TensorRT needs an NVIDIA GPU with its driver (") +
                                        cuda.error_string(status) + ").");
  }
  return cuda;
}

TensorRt open_library(const std::string &path) {
  TensorRt opened{open_cuda(), "", nullptr};
  std::vector<std::string> names{"libnvinfer.so.11", "libtensorrt_rtx.so.1"};
  if (!path.empty()) names = {path};
  void *library = open_first(names, "Name TensorRT's library in XFER_TENSORRT_LIBRARY.");
  int (*version)() = nullptr, (*major)() = nullptr, (*minor)() = nullptr, (*patch)() = nullptr;
  void *(*create)(void *, int) = nullptr;
  find(library, "getInferLibVersion", version);
  find(library, "getInferLibMajorVersion", major);
  find(library, "getInferLibMinorVersion", minor);
  find(library, "getInferLibPatchVersion", patch);
  find(library, "createInferRuntime_INTERNAL", create);
  // The library's own version, since TensorRT and TensorRT for RTX count differently and share their interfaces.
  opened.runtime.reset(static_cast<nvinfer1::IRuntime *>(create(&collector(), version())));
  if (!opened.runtime) throw Refusal(XFER_UNAVAILABLE, "TensorRT does not start: " + collector().last());
  opened.name = (major() < 8 ? "tensorrt_rtx " : "tensorrt ") + std::to_string(major()) + "." +
                std::to_string(minor()) + "." + std::to_string(patch());
  return opened;
}

}  // namespace

void Cuda::check(cudaError_t status, const char *what) const {
  if (status != cudaSuccess) throw Refusal(XFER_FAILED, std::string(what) + ": " + error_string(status) + ".");
}

std::string TensorRt::complaint() { return collector().last(); }

TensorRt &tensorrt(const char *path) {
  static std::mutex mutex;
  static auto &loaded = *new std::map<std::string, TensorRt>();  // never destroyed: the driver may go first
  const char *set = std::getenv("XFER_TENSORRT_LIBRARY");
  const std::string name = path != nullptr && *path != '\0' ? path : set != nullptr ? set : "";
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = loaded.find(name);
  return found != loaded.end() ? found->second : loaded.emplace(name, open_library(name)).first->second;
}

}  // namespace xfer::backend
