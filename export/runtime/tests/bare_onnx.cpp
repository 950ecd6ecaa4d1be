// ONNX Runtime without xfer, to say what xfer costs. States go back in by swapping buffers, as anyone would write it.
//
//   bare_onnx cold MODEL                       act once, on zeros: to be compared with ten_lines
//   bare_onnx compare MODEL BUNDLE VARIANT     p50 of both in this process, taking turns; JSON
#include <onnxruntime_c_api.h>

#include <xfer/policy.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "../plugins/onnxruntime_library.hpp"
#include "check.hpp"

namespace {

class Bare {
 public:
  explicit Bare(const std::string &path) : runtime_(xfer::backend::onnxruntime(nullptr)), api_(*runtime_.api) {
    std::ostringstream content;
    content << std::ifstream(path, std::ios::binary).rdbuf();
    const std::string model = content.str();
    OrtSessionOptions *options = nullptr;
    ok(api_.CreateSessionOptions(&options));
    ok(api_.SetIntraOpNumThreads(options, 1));
    ok(api_.AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
    ok(api_.CreateSessionFromArray(runtime_.env, model.data(), model.size(), options, &session_));
    api_.ReleaseSessionOptions(options);
    ok(api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    add(inputs_, input_names_, api_.SessionGetInputCount, api_.SessionGetInputName, api_.SessionGetInputTypeInfo);
    add(outputs_, output_names_, api_.SessionGetOutputCount, api_.SessionGetOutputName, api_.SessionGetOutputTypeInfo);
  }

  // Observation 0 is given; the states are the other inputs.
  const float *act(const void *frame) {
    OrtValue *value = nullptr;
    Buffer &first = inputs_[0];
    ok(api_.CreateTensorWithDataAsOrtValue(memory_, const_cast<void *>(frame), first.bytes, first.shape.data(),
                                           first.shape.size(), first.type, &value));
    std::vector<const OrtValue *> inputs{value};
    std::vector<OrtValue *> outputs;
    for (std::size_t i = 1; i < inputs_.size(); ++i) inputs.push_back(inputs_[i].value);
    for (const Buffer &output : outputs_) outputs.push_back(output.value);
    ok(api_.Run(session_, nullptr, input_names_.data(), inputs.data(), inputs.size(), output_names_.data(),
                outputs.size(), outputs.data()));
    api_.ReleaseValue(value);
    for (std::size_t i = 1; i < inputs_.size(); ++i) std::swap(inputs_[i], outputs_[1 + i]);
    return reinterpret_cast<const float *>(outputs_[1].data->data());
  }

 private:
  struct Buffer {
    std::vector<std::int64_t> shape;
    ONNXTensorElementDataType type;
    std::size_t bytes;
    std::unique_ptr<std::vector<std::int64_t>> data;
    OrtValue *value;
  };

  void ok(OrtStatus *status) const { runtime_.check(status); }

  template <class Count, class Name, class Type>
  void add(std::vector<Buffer> &buffers, std::vector<const char *> &names, Count count, Name name, Type type_info) {
    std::size_t total = 0;
    ok(count(session_, &total));
    OrtAllocator *allocator = nullptr;
    ok(api_.GetAllocatorWithDefaultOptions(&allocator));
    for (std::size_t i = 0; i < total; ++i) {
      char *text = nullptr;
      ok(name(session_, i, allocator, &text));
      names.push_back(text);
      OrtTypeInfo *info = nullptr;
      ok(type_info(session_, i, &info));
      const OrtTensorTypeAndShapeInfo *tensor = nullptr;
      ok(api_.CastTypeInfoToTensorInfo(info, &tensor));
      Buffer buffer{};
      ok(api_.GetTensorElementType(tensor, &buffer.type));
      std::size_t rank = 0;
      ok(api_.GetDimensionsCount(tensor, &rank));
      buffer.shape.resize(rank);
      ok(api_.GetDimensions(tensor, buffer.shape.data(), rank));
      buffer.shape[0] = 1;
      buffer.bytes = buffer.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8   ? 1
                     : buffer.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8
                                                                          : 4;
      for (const std::int64_t size : buffer.shape) buffer.bytes *= static_cast<std::size_t>(size);
      buffer.data = std::make_unique<std::vector<std::int64_t>>(buffer.bytes / 8 + 1);
      ok(api_.CreateTensorWithDataAsOrtValue(memory_, buffer.data->data(), buffer.bytes, buffer.shape.data(), rank,
                                             buffer.type, &buffer.value));
      api_.ReleaseTypeInfo(info);
      buffers.push_back(std::move(buffer));
    }
  }

  const xfer::backend::OnnxRuntime &runtime_;
  const OrtApi &api_;
  OrtSession *session_ = nullptr;
  OrtMemoryInfo *memory_ = nullptr;
  std::vector<Buffer> inputs_, outputs_;
  std::vector<const char *> input_names_, output_names_;
};

template <class Act>
double timed(Act &&act) {
  const auto start = std::chrono::steady_clock::now();
  act();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> samples) {
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2), samples.end());
  return samples[samples.size() / 2];
}

void compare(const std::string &model, const char *bundle, const char *variant) {
  Bare bare(model);
  xfer::Policy policy(bundle, variant);
  xfer::Runner runner = policy.runner();
  const xfer::Golden golden = policy.golden();
  const std::size_t bytes = policy.observation(0).row_bytes;
  std::vector<double> with, without;
  for (int i = 0; i < 1200; ++i) {
    const void *frame = golden.observation(static_cast<std::size_t>(i) % golden.steps(), 0);
    const float *scores = nullptr;
    const xfer::Action *action = nullptr;
    const auto act_bare = [&] { scores = bare.act(frame); };
    const auto act_xfer = [&] { action = &runner.act({xfer::Input(frame, bytes)}); };
    // Turns alternate, also who comes first, since the first one brings the frame into the cache.
    const double first = timed([&] { i % 2 == 0 ? act_bare() : act_xfer(); });
    const double second = timed([&] { i % 2 == 0 ? act_xfer() : act_bare(); });
    CHECK(std::memcmp(scores, action->scores.data(), action->scores.size() * sizeof(float)) == 0);
    if (i >= 200) {
      with.push_back(i % 2 == 0 ? second : first);
      without.push_back(i % 2 == 0 ? first : second);
    }
  }
  std::printf("{\"xfer_us\": %.2f, \"bare_us\": %.2f}\n", median(with), median(without));
}

}  // namespace

int main(int argc, char **argv) {
  CHECK(argc == 3 || argc == 5);
  if (argc == 5) {
    compare(argv[2], argv[3], argv[4]);
    return 0;
  }
  Bare bare(argv[2]);
  const std::vector<char> frame(std::size_t{1} << 22);
  CHECK(std::isfinite(bare.act(frame.data())[0]));
}
