// OpenVINO's IR and ONNX variants, run by OpenVINO on the CPU, with the settings of export/targets/openvino.py.
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "backend.hpp"

namespace xfer::backend {
namespace {

const char *const DEVICE = "CPU";

ov::element::Type element_type(xfer_dtype dtype) {
  return dtype == XFER_UINT8 ? ov::element::u8 : dtype == XFER_INT64 ? ov::element::i64 : ov::element::f32;
}

// An input or output of a compiled graph, with views of the caller's buffers. Two are kept, since a runner's states
// (and many a camera's frames) alternate between two buffers.
class Port {
 public:
  Port(ov::Output<const ov::Node> port, const xfer_tensor &tensor, std::size_t batch)
      : port_(std::move(port)), type_(element_type(tensor.dtype)), shape_{batch} {
    shape_.insert(shape_.end(), tensor.shape, tensor.shape + tensor.rank);
    if (port_.get_element_type() != type_) {
      throw Refusal(XFER_BUNDLE, std::string("'") + tensor.name + "' has another type than the manifest says.");
    }
  }

  void bind(ov::InferRequest &request, const void *data) {
    if (data == bound_) return;
    if (views_[0].first != data) std::swap(views_[0], views_[1]);
    if (views_[0].first != data) views_[0] = {data, ov::Tensor(type_, shape_, const_cast<void *>(data))};
    request.set_tensor(port_, views_[0].second);
    bound_ = data;
  }

 private:
  ov::Output<const ov::Node> port_;
  ov::element::Type type_;
  ov::Shape shape_;
  std::array<std::pair<const void *, ov::Tensor>, 2> views_{};
  const void *bound_ = nullptr;
};

struct Request {
  ov::InferRequest request;
  std::vector<Port> inputs, outputs;
};

struct TensorFact {
  std::string name;
  xfer_dtype dtype;
  std::vector<std::int64_t> shape;

  xfer_tensor view() const {
    xfer_tensor tensor{};
    tensor.name = name.c_str();
    tensor.dtype = dtype;
    tensor.rank = shape.size();
    tensor.shape = shape.data();
    return tensor;
  }
};

std::vector<TensorFact> facts(const xfer_tensor *tensors, std::size_t count) {
  std::vector<TensorFact> result;
  for (std::size_t i = 0; i < count; ++i) {
    result.push_back({tensors[i].name, tensors[i].dtype, {tensors[i].shape, tensors[i].shape + tensors[i].rank}});
  }
  return result;
}

class Session {
 public:
  explicit Session(const xfer_plugin_request &request)
      : inputs_(facts(request.inputs, request.input_count)), outputs_(facts(request.outputs, request.output_count)),
        library_(std::string("openvino ") + ov::get_openvino_version().buildNumber) {
    if (*request.place != '\0') {
      throw Refusal(XFER_USAGE, std::string("Unknown place '") + request.place + "': OpenVINO runs on the CPU here.");
    }
    config_ = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
               ov::inference_num_threads(request.threads),
               // fp32 means fp32: where the processor has bfloat16, that would be the default.
               ov::hint::inference_precision(ov::element::f32),
               // Else each process binds its threads to the first cores, and several share them while others idle.
               ov::hint::enable_cpu_pinning(false)};
    try {
      read(request);
      this->request(1);
    } catch (const ov::Exception &error) {
      throw Refusal(XFER_BUNDLE, std::string("OpenVINO cannot load it: ") + error.what());
    }
  }

  const char *library() const { return library_.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    Request &chosen = request(batch);
    for (std::size_t i = 0; i < chosen.inputs.size(); ++i) chosen.inputs[i].bind(chosen.request, inputs[i]);
    for (std::size_t i = 0; i < chosen.outputs.size(); ++i) chosen.outputs[i].bind(chosen.request, outputs[i]);
    chosen.request.infer();
  }

 private:
  // From the checked bytes, IR with its weights or ONNX.
  void read(const xfer_plugin_request &request) {
    const auto has = [&request](const std::string &name) {
      return std::any_of(request.files, request.files + request.file_count,
                         [&name](const auto &file) { return name == file.name; });
    };
    const auto text = [](const xfer_plugin_file &file) {
      return std::string(static_cast<const char *>(file.data), file.size);
    };
    if (has("policy.onnx")) {
      model_ = core_.read_model(text(file_named(request, "policy.onnx")), ov::Tensor());
      return;
    }
    const xfer_plugin_file &weights = file_named(request, "policy.bin");
    ov::Tensor copy(ov::element::u8, {weights.size});  // the graph goes on using it
    std::memcpy(copy.data(), weights.data, weights.size);
    model_ = core_.read_model(text(file_named(request, "policy.xml")), copy);
  }

  // One compiled graph a batch size, made on first use: a graph whose shapes are all known runs faster.
  Request &request(std::size_t batch) {
    const auto found = requests_.find(batch);
    if (found != requests_.end()) return found->second;
    const std::shared_ptr<ov::Model> model = model_->clone();
    std::map<std::string, ov::PartialShape> shapes;
    for (const TensorFact &input : inputs_) {
      std::vector<ov::Dimension> shape{static_cast<std::int64_t>(batch)};
      shape.insert(shape.end(), input.shape.begin(), input.shape.end());
      shapes[input.name] = shape;
    }
    model->reshape(shapes);
    ov::CompiledModel compiled = core_.compile_model(model, DEVICE, config_);
    if (compiled.get_property(ov::execution_devices) != std::vector<std::string>{DEVICE}) {
      throw Refusal(XFER_UNAVAILABLE, "CPU was asked for, but another device runs.");
    }
    Request made{compiled.create_infer_request(), {}, {}};
    for (const TensorFact &input : inputs_) made.inputs.emplace_back(compiled.input(input.name), input.view(), batch);
    for (const TensorFact &out : outputs_) made.outputs.emplace_back(compiled.output(out.name), out.view(), batch);
    return requests_.emplace(batch, std::move(made)).first->second;
  }

  std::vector<TensorFact> inputs_, outputs_;
  std::string library_;
  ov::AnyMap config_;
  ov::Core core_;
  std::shared_ptr<ov::Model> model_;
  std::map<std::size_t, Request> requests_;
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("openvino", xfer::backend::Session)
