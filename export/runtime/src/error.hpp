// Errors inside the library; xfer.cpp turns them into codes at the C boundary.
#pragma once

#include <xfer/xfer.h>

#include <stdexcept>
#include <string>

namespace xfer::core {

class Error : public std::runtime_error {
 public:
  Error(xfer_code kind, const std::string &message) : std::runtime_error(message), code(kind) {}
  const xfer_code code;
};

inline Error usage_error(const std::string &message) { return {XFER_USAGE, message}; }
inline Error bundle_error(const std::string &message) { return {XFER_BUNDLE, message}; }
inline Error unavailable_error(const std::string &message) { return {XFER_UNAVAILABLE, message}; }

}  // namespace xfer::core
