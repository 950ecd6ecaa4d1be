// Writes bundles as export/bundle/writer.py does, for the backend in counting_backend.cpp: a test of the core needs neither
// Python nor an inference library.
#pragma once

#include <zlib.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "../src/sha256.hpp"
#include "check.hpp"

namespace xfer::tests {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

inline std::string read(const fs::path &path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

inline void write(const fs::path &path, const std::string &content) {
  fs::create_directories(path.parent_path());
  fs::remove(path);  // overwriting in place makes some file systems wait for the disk
  std::ofstream file(path, std::ios::binary);
  file << content;
  CHECK(file.flush().good());
}

inline Json fact(const std::string &content) {
  return {{"size", content.size()}, {"sha256", xfer::core::sha256(content)}};
}

inline std::string gzip(const std::string &data) {
  z_stream stream{};
  CHECK(deflateInit2(&stream, 1, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string result(deflateBound(&stream, data.size()), '\0');
  stream.next_in = reinterpret_cast<unsigned char *>(const_cast<char *>(data.data()));
  stream.avail_in = static_cast<unsigned>(data.size());
  stream.next_out = reinterpret_cast<unsigned char *>(result.data());
  stream.avail_out = static_cast<unsigned>(result.size());
  CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

// Two steps from late in an episode: frame uint8 [4], speed float32 [1], count 7 -> action 1, scores {0.5, 2}.
inline std::string golden() {
  std::string body;
  Json header;
  const auto add = [&](const std::string &name, const char *dtype, Json shape, const void *data, std::size_t size) {
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {body.size(), body.size() + size}}};
    body.append(static_cast<const char *>(data), size);
  };
  const unsigned char resets[2] = {1, 0}, frames[8] = {2, 0, 0, 0, 3, 0, 0, 0};
  const float speeds[2] = {0.5F, -0.5F}, scores[4] = {0.5F, 2, 0.5F, 3}, counts[1] = {7};
  const std::int64_t actions[2] = {1, 1};
  add("resets", "BOOL", {2}, resets, sizeof(resets));
  add("observations.frame", "U8", {2, 4}, frames, sizeof(frames));
  add("observations.speed", "F32", {2, 1}, speeds, sizeof(speeds));
  add("actions", "I64", {2}, actions, sizeof(actions));
  add("scores", "F32", {2, 2}, scores, sizeof(scores));
  add("starts.count", "F32", {1, 1}, counts, sizeof(counts));
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[static_cast<std::size_t>(i)] = static_cast<char>(text.size() >> (8 * i));
  return gzip(length + text + body);
}

inline Json tensor(const char *name, const char *dtype, Json shape) {
  return {{"name", name},  {"dtype", dtype},       {"shape", shape},        {"elements", Json::array()},
          {"unit", ""},    {"color_order", ""},    {"value_range", nullptr}};
}

// The manifest as JSON, to be changed and sealed.
inline Json manifest(const std::string &graph) {
  Json spec;
  spec["task"] = "tiny";
  spec["control_hz"] = 100.0;
  spec["observations"] = {tensor("frame", "uint8", {4}), tensor("speed", "float32", {1})};
  spec["states"] = Json::array({tensor("count", "float32", {1})});
  spec["action"] = {{"kind", "discrete"}, {"elements", {"left", "right"}}, {"unit", ""}, {"low", Json::array()},
                    {"high", Json::array()}};
  spec["score_kind"] = "values";
  spec["reward"] = nullptr;
  Json build = {{"variant", "counting-fp32"},
                {"status", "built"},
                {"reason", ""},
                {"folder", "variants/counting-fp32-000000"},
                {"files", {{"policy.txt", fact(graph)}}},
                {"max_batch", nullptr}};
  Json second = build;
  second["variant"] = "counting_runner-fp32";
  return {{"schema", {1, 0}}, {"digest", std::string(64, '0')}, {"spec", spec}, {"golden", fact(golden())},
          {"builds", Json::array({build, second})}};
}

// Enter the digest, as Manifest.encode does.
inline std::string sealed(const Json &manifest) {
  std::string text = manifest.dump(2) + "\n";
  const std::string key = "\"digest\": \"" + std::string(64, '0');
  const auto at = text.find(key);
  if (at != std::string::npos) text.replace(at + key.size() - 64, 64, xfer::core::sha256(text));
  return text;
}

class TinyBundle {
 public:
  TinyBundle() {
    std::string folder = (fs::temp_directory_path() / "xfer-test-XXXXXX").string();
    CHECK(mkdtemp(folder.data()) != nullptr);
    root_ = folder;
    write(graph_path(), graph());
    write(path() / "golden.safetensors.gz", golden());
    seal(manifest(graph()));
  }
  TinyBundle(const TinyBundle &) = delete;
  ~TinyBundle() { fs::remove_all(root_); }

  static std::string graph() { return "count the steps\n"; }
  fs::path path() const { return root_ / "tiny.bundle"; }
  fs::path graph_path() const { return path() / "variants/counting-fp32-000000/policy.txt"; }
  void seal(const Json &changed) const { write(path() / "manifest.json", sealed(changed)); }

 private:
  fs::path root_;
};

}  // namespace xfer::tests
