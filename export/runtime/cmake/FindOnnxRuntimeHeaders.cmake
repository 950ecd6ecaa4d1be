# ONNX Runtime's C headers: -DONNXRUNTIME_INCLUDE_DIR=FOLDER, or wherever a package put them. The library itself is
# found when the program runs.
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h
          PATH_SUFFIXES onnxruntime onnxruntime/core/session
          DOC "Folder of onnxruntime_c_api.h")
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS ONNXRUNTIME_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set ONNXRUNTIME_INCLUDE_DIR to the folder of onnxruntime_c_api.h")
if(OnnxRuntimeHeaders_FOUND AND NOT TARGET OnnxRuntime::Headers)
  add_library(OnnxRuntime::Headers INTERFACE IMPORTED)
  target_include_directories(OnnxRuntime::Headers SYSTEM INTERFACE ${ONNXRUNTIME_INCLUDE_DIR})
endif()
