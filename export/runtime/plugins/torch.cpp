// TorchScript, run by LibTorch: loaded, frozen and optimised as export/targets/torchscript.py does.
#include <ATen/Parallel.h>
#include <torch/script.h>
#include <torch/version.h>

#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "backend.hpp"

namespace xfer::backend {
namespace {

torch::ScalarType scalar_type(xfer_dtype dtype) {
  return dtype == XFER_UINT8 ? torch::kUInt8 : dtype == XFER_INT64 ? torch::kInt64 : torch::kFloat32;
}

struct TensorFact {
  std::string name;
  torch::ScalarType type;
  std::vector<std::int64_t> shape;  // the batch first
  std::size_t row_bytes;
};

std::vector<TensorFact> facts(const xfer_tensor *tensors, std::size_t count) {
  std::vector<TensorFact> result;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::int64_t> shape{0};
    shape.insert(shape.end(), tensors[i].shape, tensors[i].shape + tensors[i].rank);
    result.push_back({tensors[i].name, scalar_type(tensors[i].dtype), std::move(shape), tensors[i].row_bytes});
  }
  return result;
}

class Session {
 public:
  explicit Session(const xfer_plugin_request &request)
      : threads_(request.threads), inputs_(facts(request.inputs, request.input_count)),
        outputs_(facts(request.outputs, request.output_count)), library_("torch " TORCH_VERSION) {
    const std::string place = request.place;
    if (place == "cuda") {
      if (!torch::hasCUDA()) throw Refusal(XFER_UNAVAILABLE, "PyTorch sees no CUDA GPU.");
      device_ = torch::kCUDA;
    } else if (!place.empty()) {
      throw Refusal(XFER_USAGE, "Unknown place '" + place + "'. Choose from: cuda.");
    }
    at::set_num_threads(threads_);
    const xfer_plugin_file &file = file_named(request, "policy.pt");
    std::istringstream bytes(std::string(static_cast<const char *>(file.data), file.size));
    try {
      module_ = torch::jit::load(bytes, device_);
      module_.eval();
      module_ = torch::jit::optimize_for_inference(module_);  // freezes first
      forward_ = &module_.get_method("forward").function();
    } catch (const c10::Error &error) {
      throw Refusal(XFER_BUNDLE, std::string("PyTorch cannot load it: ") + error.what_without_backtrace());
    }
  }

  const char *library() const { return library_.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    const c10::InferenceMode guard;
    // PyTorch has one setting for all modules of a process.
    if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
    const auto rows = static_cast<std::int64_t>(batch);
    stack_.clear();
    stack_.emplace_back(module_._ivalue());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].shape[0] = rows;
      stack_.emplace_back(at::from_blob(const_cast<void *>(inputs[i]), inputs_[i].shape, inputs_[i].type).to(device_));
    }
    forward_->run(stack_);
    const auto results = stack_.back().toTuple();
    if (results->elements().size() != outputs_.size()) throw Refusal(XFER_BUNDLE, "policy.pt has other outputs.");
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      outputs_[i].shape[0] = rows;
      const torch::Tensor result = results->elements()[i].toTensor().contiguous().cpu();
      if (result.sizes() != c10::IntArrayRef(outputs_[i].shape) || result.scalar_type() != outputs_[i].type) {
        throw Refusal(XFER_BUNDLE, "policy.pt gives '" + outputs_[i].name + "' of another shape or type.");
      }
      std::memcpy(outputs[i], result.data_ptr(), batch * outputs_[i].row_bytes);
    }
  }

 private:
  int threads_;
  std::vector<TensorFact> inputs_, outputs_;
  std::string library_;
  torch::Device device_ = torch::kCPU;
  torch::jit::Module module_;
  torch::jit::Function *forward_ = nullptr;
  torch::jit::Stack stack_;  // kept, so that a step allocates none of its own
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("torch", xfer::backend::Session)
