// TorchScript, run by LibTorch: loaded, frozen and optimized as export/targets/torchscript.py does.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <sstream>
#include <string>

#include "backend.hpp"
#include "torch_tensors.hpp"

namespace xfer::backend {
namespace {

class Session {
 public:
  explicit Session(const xfer_plugin_request &request)
      : threads_(request.threads), tensors_(request), library_("torch " TORCH_VERSION) {
    const std::string place = request.place;
    if (place == "cuda") {
      if (!at::hasCUDA()) throw Refusal(XFER_UNAVAILABLE, "PyTorch sees no CUDA GPU.");
      device_ = at::kCUDA;
    } else if (!place.empty()) {
      throw Refusal(XFER_USAGE, "Unknown place '" + place + "'. Choose from: cuda.");
    }
    at::set_num_threads(threads_);
    const xfer_plugin_file &file = file_named(request, "policy.pt");
    std::istringstream bytes(std::string(static_cast<const char *>(file.data), file.size));
    try {
      module_ = torch::jit::load(bytes, device_);
      module_.eval();
      const torch::jit::Module frozen = torch::jit::freeze(module_);
      try {
        use(torch::jit::optimize_for_inference(module_));  // freezes first
        run(tensors_.zeros());
      } catch (const std::exception &) {  // of a right module it may make one that cannot run
        use(frozen);
      }
    } catch (const c10::Error &error) {
      throw Refusal(XFER_BUNDLE, std::string("PyTorch cannot load it: ") + error.what_without_backtrace());
    }
  }

  const char *library() const { return library_.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    const c10::InferenceMode guard;
    // PyTorch has one setting for all modules of a process.
    if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
    run(tensors_.inputs(batch, inputs));
    const auto results = stack_.back().toTuple();
    tensors_.copy(results->elements(), batch, outputs);
  }

 private:
  void use(const torch::jit::Module &module) {
    module_ = module;
    forward_ = &module_.get_method("forward").function();
  }

  void run(const std::vector<at::Tensor> &inputs) {
    const c10::InferenceMode guard;
    stack_.clear();
    stack_.emplace_back(module_._ivalue());
    for (const at::Tensor &input : inputs) stack_.emplace_back(input.to(device_));
    forward_->run(stack_);
  }

  int threads_;
  TorchTensors tensors_;
  std::string library_;
  at::Device device_ = at::kCPU;
  torch::jit::Module module_;
  torch::jit::Function *forward_ = nullptr;
  torch::jit::Stack stack_;  // kept, so that a step allocates none of its own
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("torch", xfer::backend::Session)
