// TensorRT engines. A runner's states stay on the GPU between two steps, observations and results pass through pinned
// memory, and a step is a CUDA graph: two of them, since two sets of states take turns.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "backend.hpp"
#include "tensorrt_library.hpp"

namespace xfer::backend {
namespace {

nvinfer1::DataType data_type(xfer_dtype dtype) {
  return dtype == XFER_UINT8   ? nvinfer1::DataType::kUINT8
         : dtype == XFER_INT64 ? nvinfer1::DataType::kINT64
                               : nvinfer1::DataType::kFLOAT;
}

struct TensorFact {
  std::string name;
  std::size_t row_bytes;
  nvinfer1::Dims shape;  // the batch first
};

// Memory on the GPU and, if asked for, as much pinned memory on the host.
class Buffer {
 public:
  Buffer(const Cuda &cuda, std::size_t size, bool pinned) : cuda_(cuda), bytes(size) {
    cuda_.check(cuda_.malloc(&device, bytes), "GPU memory");
    const cudaError_t status = pinned ? cuda_.malloc_host(&host, bytes) : cudaSuccess;
    if (status != cudaSuccess) cuda_.free(device);
    cuda_.check(status, "pinned memory");
  }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() {
    cuda_.free(device);
    cuda_.free_host(host);
  }

 private:
  const Cuda &cuda_;

 public:
  const std::size_t bytes;
  void *device = nullptr, *host = nullptr;
};

class Stream {
 public:
  explicit Stream(const Cuda &cuda) : cuda_(cuda) {
    cuda_.check(cuda_.stream_create(&stream_, cudaStreamNonBlocking), "a CUDA stream");
  }
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  ~Stream() {
    cuda_.stream_wait(stream_);
    cuda_.stream_destroy(stream_);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  const Cuda &cuda_;
  cudaStream_t stream_ = nullptr;
};

// What to load: the library that is asked for, else the one that built the engine, since only that one can load it.
std::string library_of(const xfer_plugin_request &request) {
  if (request.library != nullptr && *request.library != '\0') return request.library;
  if (std::getenv("XFER_TENSORRT_LIBRARY") != nullptr) return "";
  for (std::size_t i = 0; i < request.file_count; ++i) {
    const xfer_plugin_file &file = request.files[i];
    if (std::string(file.name) != "library.txt") continue;
    const std::string built_by(static_cast<const char *>(file.data), file.size);
    return built_by == "tensorrt" ? "libnvinfer.so.11" : "libtensorrt_rtx.so.1";
  }
  return "";
}

class Session {
 public:
  explicit Session(const xfer_plugin_request &request) : tensorrt_(tensorrt(library_of(request).c_str())) {
    if (*request.place != '\0') {
      throw Refusal(XFER_USAGE, std::string("Unknown place '") + request.place + "': TensorRT runs on the GPU.");
    }
    const xfer_plugin_file &file = file_named(request, "policy.engine");
    engine_.reset(tensorrt_.runtime->deserializeCudaEngine(file.data, file.size));
    if (!engine_) {  // the file is whole: the core has compared its SHA-256
      throw Refusal(XFER_UNAVAILABLE, tensorrt_.name + " cannot load policy.engine, which was built for another GPU or"
                                      " version: " + TensorRt::complaint());
    }
    add(inputs_, request.inputs, request.input_count);
    add(outputs_, request.outputs, request.output_count);
  }

  const char *library() const { return tensorrt_.name.c_str(); }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) {
    auto &runner = runners_[batch];
    if (!runner) runner = std::make_unique<Runner>(*this, batch);
    const std::size_t states = outputs_.size() - 2, observations = inputs_.size() - states;
    for (std::size_t i = 0; i < states; ++i) runner->set_state(i, inputs[observations + i]);
    runner->act(inputs, outputs[0], static_cast<float *>(outputs[1]));
    for (std::size_t i = 0; i < states; ++i) runner->get_next_state(i, outputs[2 + i]);
  }

  class Runner {
   public:
    Runner(Session &session, std::size_t batch)
        : session_(session), cuda_(session.tensorrt_.cuda), batch_(batch),
          states_(session.outputs_.size() - 2), observations_(session.inputs_.size() - states_),
          stream_(cuda_) {
      const auto buffer = [&](const TensorFact &fact, bool pinned) {
        return std::make_unique<Buffer>(cuda_, batch_ * fact.row_bytes, pinned);
      };
      for (std::size_t i = 0; i < observations_; ++i) given_.push_back(buffer(session_.inputs_[i], true));
      for (std::size_t i = 0; i < 2; ++i) results_.push_back(buffer(session_.outputs_[i], true));
      for (auto &set : kept_) {
        for (std::size_t i = 0; i < states_; ++i) set.push_back(buffer(session_.outputs_[2 + i], false));
      }
      for (Half &half : halves_) half.context.reset(session_.engine_->createExecutionContext());
      for (int now = 0; now < 2; ++now) bind(now);
      reset(nullptr);
    }
    Runner(const Runner &) = delete;
    Runner &operator=(const Runner &) = delete;
    ~Runner() {
      cuda_.stream_wait(stream_);
      for (Half &half : halves_) {
        if (half.graph != nullptr) cuda_.graph_exec_destroy(half.graph);
      }
    }

    void reset(const std::uint8_t *mask) {
      for (std::size_t i = 0; i < states_; ++i) {
        const std::size_t row = session_.outputs_[2 + i].row_bytes;
        for (std::size_t r = 0; r < batch_; ++r) {
          if (mask != nullptr && mask[r] == 0) continue;
          auto *start = static_cast<char *>(kept_[now_][i]->device) + r * row;
          cuda_.check(cuda_.set(start, 0, row, stream_), "reset");
        }
      }
    }

    void start(std::size_t row, const float *const *states) {
      for (std::size_t i = 0; i < states_; ++i) {
        const std::size_t bytes = session_.outputs_[2 + i].row_bytes;
        auto *place = static_cast<char *>(kept_[now_][i]->device) + row * bytes;
        cuda_.check(cuda_.copy(place, states[i], bytes, cudaMemcpyHostToDevice, stream_), "states");
      }
      wait();
    }

    void act(const void *const *observations, void *action, float *scores) {
      for (std::size_t i = 0; i < observations_; ++i) std::memcpy(given_[i]->host, observations[i], given_[i]->bytes);
      Half &half = halves_[now_];
      if (half.graph == nullptr) {
        enqueue(half);  // TensorRT wants one run before it is captured
        wait();
        capture(half);
      } else {
        cuda_.check(cuda_.graph_launch(half.graph, stream_), "a CUDA graph");
        wait();
      }
      std::memcpy(action, results_[0]->host, results_[0]->bytes);
      std::memcpy(scores, results_[1]->host, results_[1]->bytes);
    }

    void keep() noexcept { now_ = 1 - now_; }

    void set_state(std::size_t index, const void *data) {
      const Buffer &buffer = *kept_[now_][index];
      cuda_.check(cuda_.copy(buffer.device, data, buffer.bytes, cudaMemcpyHostToDevice, stream_), "states");
      wait();
    }

    void get_next_state(std::size_t index, void *data) {
      const Buffer &buffer = *kept_[1 - now_][index];
      cuda_.check(cuda_.copy(data, buffer.device, buffer.bytes, cudaMemcpyDeviceToHost, stream_), "states");
      wait();
    }

   private:
    // A step from one set of states to the other.
    struct Half {
      std::unique_ptr<nvinfer1::IExecutionContext> context;
      cudaGraphExec_t graph = nullptr;
    };

    void bind(int now) {
      nvinfer1::IExecutionContext *context = halves_[now].context.get();
      bool bound = context != nullptr;
      for (std::size_t i = 0; bound && i < session_.inputs_.size(); ++i) {
        TensorFact &fact = session_.inputs_[i];
        fact.shape.d[0] = static_cast<std::int64_t>(batch_);
        const Buffer &buffer = i < observations_ ? *given_[i] : *kept_[now][i - observations_];
        bound = context->setInputShape(fact.name.c_str(), fact.shape) &&
                context->setTensorAddress(fact.name.c_str(), buffer.device);
      }
      for (std::size_t i = 0; bound && i < session_.outputs_.size(); ++i) {
        const Buffer &buffer = i < 2 ? *results_[i] : *kept_[1 - now][i - 2];
        bound = context->setTensorAddress(session_.outputs_[i].name.c_str(), buffer.device);
      }
      if (!bound) throw Refusal(XFER_FAILED, "TensorRT refuses the batch: " + TensorRt::complaint());
    }

    void enqueue(Half &half) {
      for (const auto &buffer : given_) {
        cuda_.check(cuda_.copy(buffer->device, buffer->host, buffer->bytes, cudaMemcpyHostToDevice, stream_), "inputs");
      }
      if (!half.context->enqueueV3(stream_)) {
        throw Refusal(XFER_FAILED, "TensorRT could not run the engine: " + TensorRt::complaint());
      }
      for (const auto &buffer : results_) {
        cuda_.check(cuda_.copy(buffer->host, buffer->device, buffer->bytes, cudaMemcpyDeviceToHost, stream_), "outputs");
      }
    }

    void capture(Half &half) {
      cudaGraph_t graph = nullptr;
      cuda_.check(cuda_.begin_capture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
      try {
        enqueue(half);
      } catch (const Refusal &) {
        cuda_.end_capture(stream_, &graph);
        if (graph != nullptr) cuda_.graph_destroy(graph);
        throw;
      }
      cuda_.check(cuda_.end_capture(stream_, &graph), "capture");
      const cudaError_t status = cuda_.graph_instantiate(&half.graph, graph, 0);
      cuda_.graph_destroy(graph);
      cuda_.check(status, "a CUDA graph");
    }

    void wait() const { cuda_.check(cuda_.stream_wait(stream_), "the GPU"); }

    Session &session_;
    const Cuda &cuda_;
    std::size_t batch_, states_, observations_;
    std::vector<std::unique_ptr<Buffer>> given_, results_, kept_[2];
    Half halves_[2];
    Stream stream_;  // destroyed first: it waits until nothing uses the buffers
    int now_ = 0;
  };

 private:
  void add(std::vector<TensorFact> &facts, const xfer_tensor *tensors, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const xfer_tensor &tensor = tensors[i];
      if (engine_->getTensorDataType(tensor.name) != data_type(tensor.dtype)) {
        throw Refusal(XFER_BUNDLE, std::string("policy.engine has no '") + tensor.name +
                                       "' of the type that the manifest says. Export again.");
      }
      TensorFact fact{tensor.name, tensor.row_bytes, {}};
      fact.shape.nbDims = static_cast<std::int32_t>(tensor.rank + 1);
      if (fact.shape.nbDims > nvinfer1::Dims::MAX_DIMS) throw Refusal(XFER_BUNDLE, fact.name + " has too many dimensions.");
      std::copy(tensor.shape, tensor.shape + tensor.rank, fact.shape.d + 1);
      facts.push_back(fact);
    }
  }

  TensorRt &tensorrt_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<TensorFact> inputs_, outputs_;
  std::map<std::size_t, std::unique_ptr<Runner>> runners_;
};

}  // namespace
}  // namespace xfer::backend

XFER_BACKEND("tensorrt", xfer::backend::Session)
