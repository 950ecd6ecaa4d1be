// What manifest.json says, as far as a runtime needs it. export/bundle/writer.py writes it.
#pragma once

#include <xfer/xfer.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace xfer::core {

struct Tensor {
  std::string name;
  xfer_dtype dtype = XFER_FLOAT32;
  std::vector<std::int64_t> shape;
  std::vector<std::string> elements;
  std::string unit;
  std::string color_order;
  std::vector<double> low, high;  // of a continuous action

  std::size_t row_bytes() const;
};

std::size_t item_bytes(xfer_dtype dtype);

struct FileFact {
  std::string name;  // path in its folder
  std::uint64_t size = 0;
  std::string sha256;
};

struct Build {
  std::string variant;
  std::string status;
  std::string reason;
  std::string folder;
  std::vector<FileFact> files;
  std::int64_t max_batch = 0;  // 0: no limit
};

struct Spec {
  std::string task;
  double control_hz = 0;
  std::string score_kind;
  std::vector<Tensor> observations;
  std::vector<Tensor> states;
  Tensor action;
  Tensor scores;
};

struct Manifest {
  Spec spec;
  FileFact golden;
  std::vector<Build> builds;
};

// Read and check a manifest; FILE stands in messages. Throws Error (XFER_BUNDLE) if it is empty, not JSON, edited, of
// another schema, or does not make sense.
Manifest parse_manifest(std::string_view data, const std::string &file);

}  // namespace xfer::core
