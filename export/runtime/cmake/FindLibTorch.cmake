# LibTorch out of a PyTorch wheel or archive: -DXFER_TORCH_DIR=FOLDER with include/ and lib/ in it. PyTorch's own CMake
# package asks for a CUDA toolkit wherever the wheel was built with CUDA; its CPU libraries need none.
find_path(LIBTORCH_INCLUDE_DIR torch/script.h PATHS ${XFER_TORCH_DIR}/include PATH_SUFFIXES torch/csrc/api/include
          NO_DEFAULT_PATH)
find_path(LIBTORCH_ROOT_INCLUDE_DIR ATen/ATen.h PATHS ${XFER_TORCH_DIR}/include NO_DEFAULT_PATH)
find_library(LIBTORCH_CPU_LIBRARY torch_cpu PATHS ${XFER_TORCH_DIR}/lib NO_DEFAULT_PATH)
find_library(LIBTORCH_C10_LIBRARY c10 PATHS ${XFER_TORCH_DIR}/lib NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LIBTORCH_ROOT_INCLUDE_DIR LIBTORCH_CPU_LIBRARY LIBTORCH_C10_LIBRARY
  REASON_FAILURE_MESSAGE "set XFER_TORCH_DIR to the folder of PyTorch's package, which has include/ and lib/")
if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    ${LIBTORCH_ROOT_INCLUDE_DIR} ${LIBTORCH_ROOT_INCLUDE_DIR}/torch/csrc/api/include)
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LIBTORCH_CPU_LIBRARY} ${LIBTORCH_C10_LIBRARY})
  target_compile_features(LibTorch::LibTorch INTERFACE cxx_std_20)
endif()
