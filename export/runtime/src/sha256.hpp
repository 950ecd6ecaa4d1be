#pragma once

#include <openssl/sha.h>

#include <string>
#include <string_view>

namespace xfer::core {

// SHA-256 as 64 hexadecimal digits.
inline std::string sha256(std::string_view data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char *>(data.data()), data.size(), digest);
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace xfer::core
