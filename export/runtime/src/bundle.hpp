// A bundle on disk: its manifest, and files whose bytes were checked before anybody sees them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace xfer::core {

struct CheckedFile {
  std::string name;
  std::string data;
};

class Bundle {
 public:
  // Throws Error (XFER_BUNDLE) if there is no manifest or it is not whole.
  explicit Bundle(const std::string &path);

  const Manifest &manifest() const { return manifest_; }

  // The build that VARIANT (with or without @PLACE) runs. Throws XFER_USAGE if there is none, XFER_BUNDLE if it failed.
  const Build &build(const std::string &variant) const;

  // Every file of a build. Throws XFER_BUNDLE on a missing, truncated, exchanged or extra file, or a path that leaves
  // the bundle.
  std::vector<CheckedFile> read(const Build &build) const;

  // golden.safetensors.gz.
  std::string read_golden() const;

 private:
  std::filesystem::path inside(const std::string &relative) const;
  std::string read_checked(const std::filesystem::path &path, const FileFact &fact) const;

  std::filesystem::path path_;
  Manifest manifest_;
};

}  // namespace xfer::core
