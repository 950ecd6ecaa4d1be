// ONNX variants, run by ONNX Runtime. The settings are those of export/targets/onnx.py, so that results are equal.
#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"
#include "onnxruntime_library.hpp"

namespace xfer::backend {
namespace {

const char *const FILE_NAME = "policy.onnx";

ONNXTensorElementDataType element_type(xfer_dtype dtype) {
  return dtype == XFER_UINT8   ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
         : dtype == XFER_INT64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                               : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// An input or output of the graph, with views of the caller's buffers. Two are kept, since a runner's states (and
// many a camera's frames) alternate between two buffers.
class Port {
 public:
  Port(const OnnxRuntime &runtime, const OrtMemoryInfo *memory, const xfer_tensor &tensor)
      : runtime_(runtime), memory_(memory), name_(tensor.name), type_(element_type(tensor.dtype)),
        row_bytes_(tensor.row_bytes), shape_{0} {
    shape_.insert(shape_.end(), tensor.shape, tensor.shape + tensor.rank);
  }
  Port(const Port &) = delete;
  Port &operator=(const Port &) = delete;
  ~Port() {
    for (const View &view : views_) runtime_.api->ReleaseValue(view.value);
  }

  const char *name() const { return name_.c_str(); }
  ONNXTensorElementDataType type() const { return type_; }

  OrtValue *view(const void *data, std::size_t batch) {
    for (const View &view : views_) {
      if (view.data == data && view.batch == batch) return view.value;
    }
    std::swap(views_[0], views_[1]);
    View &view = views_[0];
    runtime_.api->ReleaseValue(view.value);
    view = {};
    shape_[0] = static_cast<std::int64_t>(batch);
    runtime_.check(runtime_.api->CreateTensorWithDataAsOrtValue(memory_, const_cast<void *>(data), batch * row_bytes_,
                                                                shape_.data(), shape_.size(), type_, &view.value));
    view.data = data;
    view.batch = batch;
    return view.value;
  }

 private:
  struct View {
    const void *data = nullptr;
    std::size_t batch = 0;
    OrtValue *value = nullptr;
  };

  const OnnxRuntime &runtime_;
  const OrtMemoryInfo *memory_;
  std::string name_;
  ONNXTensorElementDataType type_;
  std::size_t row_bytes_;
  std::vector<std::int64_t> shape_;
  std::array<View, 2> views_{};
};

class Session {
 public:
  explicit Session(const xfer_plugin_request &request)
      : runtime_(onnxruntime(request.library)), library_("onnxruntime " + runtime_.version),
        session_(nullptr, runtime_.api->ReleaseSession), memory_(nullptr, runtime_.api->ReleaseMemoryInfo) {
    const OrtApi &api = *runtime_.api;
    OrtSessionOptions *raw = nullptr;
    runtime_.check(api.CreateSessionOptions(&raw));
    const std::unique_ptr<OrtSessionOptions, decltype(api.ReleaseSessionOptions)> options(raw, api.ReleaseSessionOptions);
    runtime_.check(api.SetIntraOpNumThreads(raw, request.threads));
    runtime_.check(api.AddSessionConfigEntry(raw, "session.intra_op.allow_spinning", request.spin != 0 ? "1" : "0"));
    runtime_.check(api.SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_ERROR));
    // Else nodes that the provider does not know would run on the CPU without a word.
    const bool placed = request.place != nullptr && *request.place != '\0';
    if (placed) runtime_.check(api.AddSessionConfigEntry(raw, "session.disable_cpu_ep_fallback", "1"));
    add_provider(raw, request.place);

    const xfer_plugin_file &graph = file_named(request, FILE_NAME);
    OrtSession *session = nullptr;
    // Given as bytes, the graph cannot make the library read other files.
    runtime_.check(api.CreateSessionFromArray(runtime_.env, graph.data, graph.size, raw, &session), XFER_BUNDLE);
    session_.reset(session);
    OrtMemoryInfo *memory = nullptr;
    runtime_.check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);

    add_ports(inputs_, request.inputs, request.input_count, api.SessionGetInputCount, api.SessionGetInputName,
              api.SessionGetInputTypeInfo);
    add_ports(outputs_, request.outputs, request.output_count, api.SessionGetOutputCount, api.SessionGetOutputName,
              api.SessionGetOutputTypeInfo);
    for (const Port &port : inputs_) input_names_.push_back(port.name());
    for (const Port &port : outputs_) output_names_.push_back(port.name());
    input_values_.resize(inputs_.size());
    output_values_.resize(outputs_.size());
  }

  const char *library() const { return library_.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) input_values_[i] = inputs_[i].view(inputs[i], batch);
    for (std::size_t i = 0; i < outputs_.size(); ++i) output_values_[i] = outputs_[i].view(outputs[i], batch);
    runtime_.check(runtime_.api->Run(session_.get(), nullptr, input_names_.data(), input_values_.data(),
                                     input_values_.size(), output_names_.data(), output_names_.size(),
                                     output_values_.data()));
  }

 private:
  // Exactly the provider that was asked for: adding one fails where the library or the device lacks it.
  void add_provider(OrtSessionOptions *options, const std::string &place) const {
    const OrtApi &api = *runtime_.api;
    if (place.empty()) return;  // the CPU is always there
    if (place == "cuda") {
      require_provider("CUDAExecutionProvider");
      OrtCUDAProviderOptionsV2 *cuda = nullptr;
      runtime_.check(api.CreateCUDAProviderOptions(&cuda), XFER_UNAVAILABLE);
      OrtStatus *status = api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda);
      api.ReleaseCUDAProviderOptions(cuda);
      runtime_.check(status, XFER_UNAVAILABLE);
    } else if (place == "tensorrt") {
      require_provider("TensorrtExecutionProvider");
      OrtTensorRTProviderOptionsV2 *tensorrt = nullptr;
      runtime_.check(api.CreateTensorRTProviderOptions(&tensorrt), XFER_UNAVAILABLE);
      OrtStatus *status = api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt);
      api.ReleaseTensorRTProviderOptions(tensorrt);
      runtime_.check(status, XFER_UNAVAILABLE);
    } else {
      throw Refusal(XFER_USAGE, "Unknown place '" + place + "'. Choose from: cuda, tensorrt, openvino.");
    }
  }

  void require_provider(const std::string &provider) const {
    char **names = nullptr;
    int count = 0;
    runtime_.check(runtime_.api->GetAvailableProviders(&names, &count), XFER_UNAVAILABLE);
    const bool found = std::find(names, names + count, provider) != names + count;
    runtime_.check(runtime_.api->ReleaseAvailableProviders(names, count));
    if (!found) throw Refusal(XFER_UNAVAILABLE, "this ONNX Runtime (" + runtime_.version + ") has no " + provider + ".");
  }

  template <class Count, class Name, class Type>
  void add_ports(std::deque<Port> &ports, const xfer_tensor *tensors, std::size_t count, Count get_count, Name get_name,
                 Type get_type) {
    std::map<std::string, ONNXTensorElementDataType> found;
    std::size_t total = 0;
    runtime_.check(get_count(session_.get(), &total));
    OrtAllocator *allocator = nullptr;
    runtime_.check(runtime_.api->GetAllocatorWithDefaultOptions(&allocator));
    for (std::size_t i = 0; i < total; ++i) {
      char *name = nullptr;
      runtime_.check(get_name(session_.get(), i, allocator, &name));
      const std::string text = name;
      runtime_.check(runtime_.api->AllocatorFree(allocator, name));
      OrtTypeInfo *type = nullptr;
      runtime_.check(get_type(session_.get(), i, &type));
      const std::unique_ptr<OrtTypeInfo, decltype(runtime_.api->ReleaseTypeInfo)> owner(type,
                                                                                       runtime_.api->ReleaseTypeInfo);
      const OrtTensorTypeAndShapeInfo *tensor = nullptr;
      runtime_.check(runtime_.api->CastTypeInfoToTensorInfo(type, &tensor));
      found[text] = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
      if (tensor != nullptr) runtime_.check(runtime_.api->GetTensorElementType(tensor, &found[text]));
    }
    for (std::size_t i = 0; i < count; ++i) {
      ports.emplace_back(runtime_, memory_.get(), tensors[i]);
      const auto port = found.find(ports.back().name());
      if (port == found.end() || port->second != ports.back().type()) {
        throw Refusal(XFER_BUNDLE, std::string(FILE_NAME) + " has no '" + tensors[i].name +
                                       "' of the type that the manifest says. Export again.");
      }
    }
  }

  const OnnxRuntime &runtime_;
  std::string library_;
  std::unique_ptr<OrtSession, decltype(OrtApi::ReleaseSession)> session_;
  std::unique_ptr<OrtMemoryInfo, decltype(OrtApi::ReleaseMemoryInfo)> memory_;
  std::deque<Port> inputs_, outputs_;
  std::vector<const char *> input_names_, output_names_;
  std::vector<const OrtValue *> input_values_;
  std::vector<OrtValue *> output_values_;
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("onnx", xfer::backend::Session)
