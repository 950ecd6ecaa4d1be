// TensorRT, or TensorRT for RTX, and the CUDA runtime: found when the program runs, so that one backend serves both.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

namespace xfer::backend {

struct Cuda {
  decltype(&cudaGetErrorString) error_string;
  decltype(&cudaGetDeviceCount) device_count;
  decltype(&::cudaMalloc) malloc;
  decltype(&::cudaFree) free;
  decltype(&::cudaMallocHost) malloc_host;
  decltype(&::cudaFreeHost) free_host;
  decltype(&cudaMemcpyAsync) copy;
  decltype(&cudaMemsetAsync) set;
  decltype(&cudaStreamCreateWithFlags) stream_create;
  decltype(&cudaStreamDestroy) stream_destroy;
  decltype(&cudaStreamSynchronize) stream_wait;
  decltype(&cudaStreamBeginCapture) begin_capture;
  decltype(&cudaStreamEndCapture) end_capture;
  decltype(&cudaGraphInstantiateWithFlags) graph_instantiate;
  decltype(&cudaGraphDestroy) graph_destroy;
  decltype(&cudaGraphExecDestroy) graph_exec_destroy;
  decltype(&cudaGraphLaunch) graph_launch;

  // Throws XFER_FAILED with CUDA's own words.
  void check(cudaError_t status, const char *what) const;
};

struct TensorRt {
  Cuda cuda;
  std::string name;  // "tensorrt 11.4.0"
  std::unique_ptr<nvinfer1::IRuntime> runtime;

  // What TensorRT last complained of, in this process.
  static std::string complaint();
};

// PATH, else $XFER_TENSORRT_LIBRARY, else libnvinfer.so.11, else libtensorrt_rtx.so.1. Loaded once, and kept until the
// process ends. Throws XFER_UNAVAILABLE if there is no NVIDIA driver with a GPU, or no such library.
TensorRt &tensorrt(const char *path);

}  // namespace xfer::backend
