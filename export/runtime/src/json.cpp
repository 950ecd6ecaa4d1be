#include "json.hpp"

#include <algorithm>

#include "error.hpp"

namespace xfer::core {

nlohmann::json JsonReader::parse(std::string_view text, const std::string &file) {
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error &error) {
    // Not its text, which quotes the file's bytes, whatever they are.
    throw bundle_error(file + " is not JSON, at byte " + std::to_string(error.byte) +
                       ". Copy the bundle again, or export again.");
  } catch (const nlohmann::json::out_of_range &) {
    throw bundle_error(file + " holds a number that no double can. Copy the bundle again, or export again.");
  }
}

JsonReader JsonReader::field(const std::string &name) const {
  if (!value_.is_object()) refuse("an object");
  const auto found = value_.find(name);
  if (found == value_.end()) throw bundle_error(where_ + " lacks '" + name + "'. Export again.");
  return {*found, where_ + "." + name};
}

std::vector<JsonReader> JsonReader::items() const {
  if (!value_.is_array()) refuse("an array");
  std::vector<JsonReader> result;
  for (const auto &item : value_) result.emplace_back(item, where_ + "[" + std::to_string(result.size()) + "]");
  return result;
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::entries() const {
  if (!value_.is_object()) refuse("an object");
  std::vector<std::pair<std::string, JsonReader>> result;
  for (const auto &[name, item] : value_.items()) result.emplace_back(name, JsonReader(item, where_ + "." + name));
  return result;
}

std::string JsonReader::text() const {
  if (!value_.is_string()) refuse("text");
  const auto text = value_.get<std::string>();
  const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  if (std::any_of(text.begin(), text.end(), control)) refuse("text without control characters");
  return text;
}

std::vector<std::string> JsonReader::texts() const {
  std::vector<std::string> result;
  for (const auto &item : items()) result.push_back(item.text());
  return result;
}

std::int64_t JsonReader::integer(std::int64_t least, std::int64_t most) const {
  // Numbers beyond 64 bits are not integers to the parser, and unsigned ones may not fit the signed type.
  const bool fits = value_.is_number_unsigned()
                        ? value_.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::max<std::int64_t>(most, 0))
                        : value_.is_number_integer() && value_.get<std::int64_t>() <= most;
  if (!fits || value_.get<std::int64_t>() < least) {
    refuse("an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value_.get<std::int64_t>();
}

double JsonReader::number() const {
  if (!value_.is_number()) refuse("a number");
  return value_.get<double>();
}

void JsonReader::refuse(const std::string &expected) const {
  throw bundle_error(where_ + " is not " + expected + ". Export again.");
}

}  // namespace xfer::core
