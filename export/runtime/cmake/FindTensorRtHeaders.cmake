# TensorRT's and CUDA's C++ headers: -DTENSORRT_INCLUDE_DIR=FOLDER and -DCUDA_INCLUDE_DIR=FOLDER, or wherever a package
# put them. The libraries themselves are found when the program runs.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h DOC "Folder of NvInferRuntime.h")
find_path(CUDA_INCLUDE_DIR cuda_runtime_api.h PATHS /usr/local/cuda/include DOC "Folder of cuda_runtime_api.h")
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRtHeaders
  REQUIRED_VARS TENSORRT_INCLUDE_DIR CUDA_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set TENSORRT_INCLUDE_DIR (of NvInferRuntime.h) and CUDA_INCLUDE_DIR (of cuda_runtime_api.h)")
if(TensorRtHeaders_FOUND AND NOT TARGET TensorRt::Headers)
  add_library(TensorRt::Headers INTERFACE IMPORTED)
  target_include_directories(TensorRt::Headers SYSTEM INTERFACE ${TENSORRT_INCLUDE_DIR} ${CUDA_INCLUDE_DIR})
endif()
