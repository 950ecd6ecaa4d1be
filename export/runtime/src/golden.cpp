#include "golden.hpp"

#include <zlib.h>

#include <cstring>

#include "error.hpp"
#include "json.hpp"

namespace xfer::core {
namespace {

constexpr std::size_t MOST_BYTES = std::size_t{1} << 30;

std::string gunzip(std::string_view compressed, const std::string &file) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) throw Error(XFER_FAILED, "zlib does not start.");
  struct End {
    z_stream *stream;
    ~End() { inflateEnd(stream); }
  } end{&stream};
  stream.next_in = reinterpret_cast<unsigned char *>(const_cast<char *>(compressed.data()));
  stream.avail_in = static_cast<unsigned>(compressed.size());
  std::string data;
  std::vector<char> part(std::size_t{1} << 20);
  int status = Z_OK;
  while (status == Z_OK && data.size() <= MOST_BYTES) {
    stream.next_out = reinterpret_cast<unsigned char *>(part.data());
    stream.avail_out = static_cast<unsigned>(part.size());
    status = inflate(&stream, Z_NO_FLUSH);
    data.append(part.data(), part.size() - stream.avail_out);
  }
  if (status != Z_STREAM_END || stream.avail_in != 0) {
    throw bundle_error(file + " is not a whole gzip file of less than 1 GiB. Export again.");
  }
  return data;
}

std::uint64_t little_endian(const char *bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// The bytes of one tensor of a safetensors file: 8 bytes of header length, a JSON header, then the tensors.
struct Safetensors {
  Safetensors(std::string_view data, const std::string &file) : file_(file) {
    if (data.size() < 8 || little_endian(data.data()) > data.size() - 8) {
      throw bundle_error(file + " is not a safetensors file. Export again.");
    }
    const auto length = static_cast<std::size_t>(little_endian(data.data()));
    header_ = JsonReader::parse(data.substr(8, length), file);
    body_ = data.substr(8 + length);
  }

  bool has(const std::string &name) const { return header_.is_object() && header_.contains(name); }

  // First dimension of a tensor, for the number of steps.
  std::int64_t length(const std::string &name) const {
    const auto shape = JsonReader(header_, file_).field(name).field("shape").items();
    if (shape.empty()) throw bundle_error(file_ + "." + name + " has no steps. Export again.");
    return shape[0].integer(1, 1 << 24);
  }

  std::string_view bytes(const std::string &name, const std::string &dtype, std::vector<std::int64_t> shape,
                         std::size_t size) const {
    const JsonReader entry = JsonReader(header_, file_).field(name);
    if (entry.field("dtype").text() != dtype) entry.field("dtype").refuse(dtype);
    std::vector<std::int64_t> found;
    for (const auto &item : entry.field("shape").items()) found.push_back(item.integer(0, 1 << 30));
    if (found != shape) entry.field("shape").refuse("what the spec says");
    const auto offsets = entry.field("data_offsets").items();
    if (offsets.size() != 2) entry.field("data_offsets").refuse("two numbers");
    const auto end = offsets[1].integer(0, static_cast<std::int64_t>(body_.size()));
    const auto begin = offsets[0].integer(0, end);
    if (static_cast<std::size_t>(end - begin) != size) entry.field("data_offsets").refuse("as long as the shape");
    return body_.substr(static_cast<std::size_t>(begin), size);
  }

 private:
  std::string file_;
  nlohmann::json header_;
  std::string_view body_;
};

const char *dtype_name(xfer_dtype dtype) {
  return dtype == XFER_UINT8 ? "U8" : dtype == XFER_INT64 ? "I64" : "F32";
}

}  // namespace

Golden::Golden(std::string_view compressed, const Spec &spec, const std::string &file) {
  const std::string data = gunzip(compressed, file);
  const Safetensors tensors(data, file);
  const std::int64_t steps = tensors.length("resets");
  steps_ = static_cast<std::size_t>(steps);

  const auto copy = [&](const std::string &name, const Tensor &tensor, std::size_t rows) {
    std::vector<std::int64_t> shape{static_cast<std::int64_t>(rows)};
    shape.insert(shape.end(), tensor.shape.begin(), tensor.shape.end());
    const std::string_view bytes = tensors.bytes(name, dtype_name(tensor.dtype), shape, rows * tensor.row_bytes());
    Array array;
    array.row_bytes = tensor.row_bytes();
    array.words.resize((bytes.size() + sizeof(std::int64_t) - 1) / sizeof(std::int64_t));
    std::memcpy(array.words.data(), bytes.data(), bytes.size());
    return array;
  };
  const std::string_view resets = tensors.bytes("resets", "BOOL", {steps}, steps_);
  resets_.assign(resets.begin(), resets.end());
  for (const Tensor &tensor : spec.observations) {
    observations_.push_back(copy("observations." + tensor.name, tensor, steps_));
  }
  actions_ = copy("actions", spec.action, steps_);
  scores_ = copy("scores", spec.scores, steps_);

  std::size_t stretches = 0;
  for (const unsigned char begins : resets_) {
    stretches += begins != 0 ? 1 : 0;
    stretch_.push_back(stretches == 0 ? 0 : stretches - 1);
  }
  // All of them, or none: golden of version 0.2.0 starts from zeros everywhere.
  if (spec.states.empty() || !tensors.has("starts." + spec.states[0].name)) return;
  for (const Tensor &tensor : spec.states) starts_.push_back(copy("starts." + tensor.name, tensor, stretches));
}

}  // namespace xfer::core
