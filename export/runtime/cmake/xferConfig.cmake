# find_package(xfer CONFIG) with -Dxfer_DIR="$(xfer cmake-dir)": the runtime's sources are built as a part of the
# project that asks, with its compiler and for its chip. Gives xfer::policy (C++), xfer::xfer (C), and the backends that
# the options XFER_ONNX, ... switch on; they lie beside the core's library, where it looks for them.
cmake_minimum_required(VERSION 3.24)
if(NOT TARGET xfer)
  add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/_xfer)
endif()
