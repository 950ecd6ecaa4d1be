# Cross-compile for the 64-bit Arm chips that robots have, with Debian's g++-aarch64-linux-gnu:
#
#   cmake --toolchain export/runtime/cmake/aarch64-linux-gnu.cmake -DXFER_SYSROOT=FOLDER ...
#
# FOLDER holds the target's libssl-dev, zlib1g-dev and nlohmann-json3-dev with what they depend on, unpacked there.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES XFER_SYSROOT)
set(CMAKE_FIND_ROOT_PATH ${XFER_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${XFER_SYSROOT}/usr/include/aarch64-linux-gnu")
