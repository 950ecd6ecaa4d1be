// ONNX Runtime's C interface, from a library that is found when the program runs.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>

namespace xfer::backend {

struct OnnxRuntime {
  const OrtApi *api;
  OrtEnv *env;
  std::string version;

  // Throws XFER_FAILED, or CODE, with ONNX Runtime's own words.
  void check(OrtStatus *status, int code = 0) const;
};

// PATH, else $XFER_ONNXRUNTIME_LIBRARY, else libonnxruntime.so.1 where the system's loader finds it. Loaded once, and
// kept until the process ends. Throws XFER_UNAVAILABLE.
const OnnxRuntime &onnxruntime(const char *path);

}  // namespace xfer::backend
