#include "manifest.hpp"

#include <algorithm>
#include <set>

#include "error.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace xfer::core {
namespace {

constexpr std::int64_t SCHEMA_MAJOR = 1;
// Far above any camera, far below what would exhaust a robot's memory.
constexpr std::int64_t MOST_ROW_BYTES = std::int64_t{1} << 28;
constexpr std::int64_t MOST_FILE_BYTES = std::int64_t{1} << 40;
constexpr std::size_t DIGEST_LENGTH = 64;

bool is_hex(std::string_view text) {
  return text.size() == DIGEST_LENGTH && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The digest is the SHA-256 of the file's own bytes with 64 zeros in the digest's place.
void check_digest(std::string_view data, const std::string &file) {
  static const std::string_view key = "\"digest\": \"";
  std::string blank(data);
  for (auto at = data.find(key); at != std::string_view::npos; at = data.find(key, at + 1)) {
    const auto digest = data.substr(at + key.size(), DIGEST_LENGTH);
    if (!is_hex(digest) || data.substr(at + key.size() + DIGEST_LENGTH, 1) != "\"") continue;
    blank.replace(at + key.size(), DIGEST_LENGTH, DIGEST_LENGTH, '0');
    if (sha256(blank) == digest) return;
    break;
  }
  throw bundle_error(file + " was edited: its digest does not match. Copy the bundle again, or export again.");
}

std::int64_t row_items(const JsonReader &where, const std::vector<std::int64_t> &shape, std::int64_t item) {
  std::int64_t items = 1;
  for (const std::int64_t size : shape) {
    if (items > MOST_ROW_BYTES / item / size) where.refuse("a shape of less than 256 MiB");
    items *= size;
  }
  return items;
}

Tensor read_tensor(const JsonReader &json) {
  Tensor tensor;
  tensor.name = json.field("name").text();
  if (tensor.name.empty()) json.field("name").refuse("a name");
  const std::string dtype = json.field("dtype").text();
  if (dtype == "uint8") {
    tensor.dtype = XFER_UINT8;
  } else if (dtype == "int64") {
    tensor.dtype = XFER_INT64;
  } else if (dtype == "float32") {
    tensor.dtype = XFER_FLOAT32;
  } else {
    json.field("dtype").refuse("uint8, int64 or float32");
  }
  const JsonReader shape = json.field("shape");
  for (const auto &size : shape.items()) tensor.shape.push_back(size.integer(1, MOST_ROW_BYTES));
  if (tensor.shape.size() > 8) shape.refuse("a shape of at most 8 dimensions");
  row_items(shape, tensor.shape, static_cast<std::int64_t>(item_bytes(tensor.dtype)));
  tensor.elements = json.field("elements").texts();
  tensor.unit = json.field("unit").text();
  tensor.color_order = json.field("color_order").text();
  return tensor;
}

Spec read_spec(const JsonReader &json) {
  Spec spec;
  spec.task = json.field("task").text();
  spec.control_hz = json.field("control_hz").number();
  if (!(spec.control_hz > 0 && spec.control_hz < 1e9)) json.field("control_hz").refuse("a rate in Hz");
  std::set<std::string> names;
  const auto once = [&names](const JsonReader &item) {
    Tensor tensor = read_tensor(item);
    if (!names.insert(tensor.name).second) item.field("name").refuse("a name of its own");
    return tensor;
  };
  for (const auto &item : json.field("observations").items()) spec.observations.push_back(once(item));
  for (const auto &item : json.field("states").items()) {
    spec.states.push_back(once(item));
    if (spec.states.back().dtype != XFER_FLOAT32) item.field("dtype").refuse("float32");
  }
  if (spec.observations.empty()) json.field("observations").refuse("at least one observation");

  const JsonReader action = json.field("action");
  const std::string kind = action.field("kind").text();
  const auto elements = action.field("elements").texts();
  if (elements.empty()) action.field("elements").refuse("at least one element");
  const auto width = static_cast<std::int64_t>(elements.size());
  if (kind == "discrete") {
    spec.action = {"action", XFER_INT64, {}, elements, "", "", {}, {}};
  } else if (kind == "continuous") {
    spec.action = {"action", XFER_FLOAT32, {width}, elements, action.field("unit").text(), "", {}, {}};
    for (const auto &bound : action.field("low").items()) spec.action.low.push_back(bound.number());
    for (const auto &bound : action.field("high").items()) spec.action.high.push_back(bound.number());
    if (spec.action.low.size() != elements.size() || spec.action.high.size() != elements.size()) {
      action.refuse("bounded: it needs low and high for each element");
    }
  } else {
    action.field("kind").refuse("discrete or continuous");
  }
  spec.scores = {"scores", XFER_FLOAT32, {width}, elements, "", "", {}, {}};
  spec.score_kind = json.field("score_kind").text();
  static const std::set<std::string> kinds{"logits", "values", "mean"};
  if (!kinds.count(spec.score_kind)) json.field("score_kind").refuse("logits, values or mean");
  return spec;
}

FileFact read_fact(const JsonReader &json, const std::string &name) {
  FileFact fact{name, 0, json.field("sha256").text()};
  fact.size = static_cast<std::uint64_t>(json.field("size").integer(0, MOST_FILE_BYTES));
  if (!is_hex(fact.sha256)) json.field("sha256").refuse("a SHA-256 of 64 hexadecimal digits");
  return fact;
}

Build read_build(const JsonReader &json) {
  Build build;
  build.variant = json.field("variant").text();
  build.status = json.field("status").text();
  build.reason = json.field("reason").text();
  build.folder = json.field("folder").text();
  for (const auto &[name, fact] : json.field("files").entries()) build.files.push_back(read_fact(fact, name));
  const JsonReader most = json.field("max_batch");
  build.max_batch = most.is_null() ? 0 : most.integer(1, 1 << 30);
  return build;
}

}  // namespace

std::size_t item_bytes(xfer_dtype dtype) { return dtype == XFER_UINT8 ? 1 : dtype == XFER_INT64 ? 8 : 4; }

std::size_t Tensor::row_bytes() const {
  std::size_t bytes = item_bytes(dtype);
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

Manifest parse_manifest(std::string_view data, const std::string &file) {
  if (data.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    throw bundle_error(file + " is empty. Copy the bundle again, or export again.");
  }
  const nlohmann::json document = JsonReader::parse(data, file);
  const JsonReader json(document, file);
  const auto schema = json.field("schema").items();
  if (schema.size() != 2) json.field("schema").refuse("two numbers");
  const std::int64_t major = schema[0].integer(0, 1 << 30), minor = schema[1].integer(0, 1 << 30);
  if (major != SCHEMA_MAJOR) {
    throw bundle_error(file + " has schema " + std::to_string(major) + "." + std::to_string(minor) +
                       "; this xfer reads " + std::to_string(SCHEMA_MAJOR) + ".x. Install a matching xfer.");
  }
  check_digest(data, file);
  Manifest manifest;
  manifest.spec = read_spec(json.field("spec"));
  manifest.golden = read_fact(json.field("golden"), "golden.safetensors.gz");
  for (const auto &item : json.field("builds").items()) manifest.builds.push_back(read_build(item));
  return manifest;
}

}  // namespace xfer::core
