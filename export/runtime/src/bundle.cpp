#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>

#include "error.hpp"
#include "sha256.hpp"

namespace fs = std::filesystem;

namespace xfer::core {
namespace {

constexpr std::uintmax_t MOST_MANIFEST_BYTES = 64u << 20;
const char *const AGAIN = " Copy the bundle again, or export again.";

std::string read_file(const fs::path &path, std::uintmax_t size) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw bundle_error(path.string() + " cannot be read: " + std::strerror(errno) + ".");
  std::string data(static_cast<std::size_t>(size), '\0');
  // One byte more than there should be, so that a file that grew meanwhile is noticed.
  char more = 0;
  if (std::fread(data.data(), 1, data.size(), file.get()) != data.size() || std::fread(&more, 1, 1, file.get()) != 0) {
    throw bundle_error(path.string() + " changed while it was read." + AGAIN);
  }
  return data;
}

Manifest read_manifest(const fs::path &folder) {
  const fs::path path = folder / "manifest.json";
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw bundle_error(folder.string() + " is not a bundle: it has no manifest.json.");
  }
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size > MOST_MANIFEST_BYTES) {
    throw bundle_error(path.string() + " is not a manifest: it has " + std::to_string(size) + " bytes." + AGAIN);
  }
  return parse_manifest(read_file(path, size), path.string());
}

}  // namespace

Bundle::Bundle(const std::string &path) : path_(path), manifest_(read_manifest(path_)) {}

const Build &Bundle::build(const std::string &variant) const {
  const std::string name = variant.substr(0, variant.find('@'));
  std::string known;
  for (const Build &build : manifest_.builds) {
    if (build.variant != name) {
      known += (known.empty() ? "" : ", ") + build.variant;
      continue;
    }
    if (build.status != "built") {
      throw bundle_error(name + " was not built (" + build.status + "): " + build.reason);
    }
    return build;
  }
  throw usage_error("Unknown variant '" + name + "'. Choose from: " + known + ".");
}

std::vector<CheckedFile> Bundle::read(const Build &build) const {
  const fs::path folder = inside(build.folder);
  std::vector<CheckedFile> files;
  std::set<std::string> known;
  for (const FileFact &fact : build.files) {
    files.push_back({fact.name, read_checked(inside(build.folder + "/" + fact.name), fact)});
    known.insert(fs::path(fact.name).lexically_normal().generic_string());
  }
  if (files.empty()) throw bundle_error("The manifest names no files of " + build.variant + ". Export again.");
  for (const auto &entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && !known.count(entry.path().lexically_relative(folder).generic_string())) {
      throw bundle_error(entry.path().string() + " is not in the manifest. Export again.");
    }
  }
  return files;
}

std::string Bundle::read_golden() const {
  return read_checked(inside(manifest_.golden.name), manifest_.golden);
}

fs::path Bundle::inside(const std::string &relative) const {
  const fs::path path(relative);
  const bool climbs = std::find(path.begin(), path.end(), fs::path("..")) != path.end();
  const bool control = std::any_of(relative.begin(), relative.end(), [](unsigned char c) { return c < 0x20; });
  if (relative.empty() || path.is_absolute() || climbs || control) {
    throw bundle_error("The manifest names '" + relative + "', which is not inside the bundle.");
  }
  // A symbolic link may lead out of the bundle too.
  const fs::path root = fs::canonical(path_), found = fs::weakly_canonical(path_ / path);
  const auto [end, at] = std::mismatch(root.begin(), root.end(), found.begin(), found.end());
  if (end != root.end()) throw bundle_error((path_ / path).string() + " leads out of the bundle.");
  return path_ / path;
}

std::string Bundle::read_checked(const fs::path &path, const FileFact &fact) const {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw bundle_error(path.string() + " is missing." + AGAIN);
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size != fact.size) {
    throw bundle_error(path.string() + " has " + std::to_string(size) + " bytes, expected " +
                       std::to_string(fact.size) + ": truncated or exchanged." + AGAIN);
  }
  std::string data = read_file(path, size);
  if (sha256(data) != fact.sha256) {
    throw bundle_error(path.string() + " is not the file that was exported (its SHA-256 differs)." + AGAIN);
  }
  return data;
}

}  // namespace xfer::core
