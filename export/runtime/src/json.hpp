// Reading fields of untrusted JSON: every step says where it stands when something does not fit.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace xfer::core {

class JsonReader {
 public:
  // FILE stands in messages. Throws xfer::core::Error (XFER_BUNDLE) if TEXT is not JSON.
  static nlohmann::json parse(std::string_view text, const std::string &file);

  JsonReader(const nlohmann::json &value, std::string where) : value_(value), where_(std::move(where)) {}

  JsonReader field(const std::string &name) const;
  std::vector<JsonReader> items() const;
  std::vector<std::pair<std::string, JsonReader>> entries() const;
  bool is_null() const { return value_.is_null(); }

  // Text without control characters: names and paths reach C interfaces, where a NUL would cut them.
  std::string text() const;
  std::vector<std::string> texts() const;
  std::int64_t integer(std::int64_t least, std::int64_t most) const;
  double number() const;

  [[noreturn]] void refuse(const std::string &expected) const;

 private:
  const nlohmann::json &value_;
  std::string where_;
};

}  // namespace xfer::core
