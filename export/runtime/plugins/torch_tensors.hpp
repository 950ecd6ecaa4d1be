// What the backends on LibTorch share: the caller's memory as tensors, and tensors into the caller's memory.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <cstring>
#include <string>
#include <vector>

#include "backend.hpp"

namespace xfer::backend {

class TorchTensors {
 public:
  explicit TorchTensors(const xfer_plugin_request &request)
      : inputs_(facts(request.inputs, request.input_count)), outputs_(facts(request.outputs, request.output_count)) {}

  // The caller's memory; kept between steps, so that one allocates no list of its own.
  std::vector<at::Tensor> &inputs(std::size_t batch, const void *const *data) {
    tensors_.clear();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].shape[0] = static_cast<std::int64_t>(batch);
      tensors_.push_back(at::from_blob(const_cast<void *>(data[i]), inputs_[i].shape, inputs_[i].type));
    }
    return tensors_;
  }

  // A batch of one, made up.
  std::vector<at::Tensor> zeros() const {
    std::vector<at::Tensor> result;
    for (Fact fact : inputs_) {
      fact.shape[0] = 1;
      result.push_back(at::zeros(fact.shape, fact.type));
    }
    return result;
  }

  // Copies results, tensors or values that hold them, to the caller. Throws XFER_BUNDLE if they are others.
  template <class Results>
  void copy(const Results &results, std::size_t batch, void *const *data) {
    if (results.size() != outputs_.size()) throw Refusal(XFER_BUNDLE, "The module has other outputs.");
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      outputs_[i].shape[0] = static_cast<std::int64_t>(batch);
      const at::Tensor result = tensor(results[i]).contiguous().cpu();
      if (result.sizes() != c10::IntArrayRef(outputs_[i].shape) || result.scalar_type() != outputs_[i].type) {
        throw Refusal(XFER_BUNDLE, "The module gives '" + outputs_[i].name + "' of another shape or type.");
      }
      std::memcpy(data[i], result.data_ptr(), batch * outputs_[i].row_bytes);
    }
  }

 private:
  struct Fact {
    std::string name;
    at::ScalarType type;
    std::vector<std::int64_t> shape;  // the batch first
    std::size_t row_bytes;
  };

  static at::ScalarType scalar_type(xfer_dtype dtype) {
    return dtype == XFER_UINT8 ? at::kByte : dtype == XFER_INT64 ? at::kLong : at::kFloat;
  }

  static std::vector<Fact> facts(const xfer_tensor *tensors, std::size_t count) {
    std::vector<Fact> result;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<std::int64_t> shape{0};
      shape.insert(shape.end(), tensors[i].shape, tensors[i].shape + tensors[i].rank);
      result.push_back({tensors[i].name, scalar_type(tensors[i].dtype), std::move(shape), tensors[i].row_bytes});
    }
    return result;
  }

  static at::Tensor tensor(const at::Tensor &result) { return result; }
  static at::Tensor tensor(const c10::IValue &result) { return result.toTensor(); }

  std::vector<Fact> inputs_, outputs_;
  std::vector<at::Tensor> tensors_;
};

}  // namespace xfer::backend
