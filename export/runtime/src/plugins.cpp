#include "plugins.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <vector>

#include "error.hpp"

namespace fs = std::filesystem;

namespace xfer::core {
namespace {

fs::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void *>(&load_plugin), &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  return fs::canonical(info.dli_fname, error).parent_path();
}

std::vector<fs::path> folders(const char *folder) {
  if (folder != nullptr && *folder != '\0') return {fs::absolute(folder)};
  if (const char *set = std::getenv("XFER_PLUGIN_DIR"); set != nullptr && *set != '\0') return {fs::absolute(set)};
  const fs::path own = own_folder();
  return {own, own / "xfer"};
}

const xfer_plugin *open_library(const fs::path &path) {
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw unavailable_error(path.string() + " cannot be loaded: " + dlerror());
  const auto get = reinterpret_cast<xfer_plugin_get_function>(dlsym(library, XFER_PLUGIN_SYMBOL));
  const xfer_plugin *plugin = get == nullptr ? nullptr : get();
  if (plugin == nullptr || plugin->abi != XFER_PLUGIN_ABI) {
    dlclose(library);
    throw unavailable_error(path.string() + " is not a backend for this xfer. Build it again.");
  }
  return plugin;
}

}  // namespace

Choice choose_plugin(const std::string &variant) {
  const auto at = variant.find('@');
  const std::string build = variant.substr(0, at);
  const std::string place = at == std::string::npos ? "" : variant.substr(at + 1);
  const std::string target = build.substr(0, build.find('-'));
  const auto known = [](const std::string &text) {
    return text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  };
  if (target.empty() || target.size() + 1 >= build.size() || !known(target) || !known(place)) {
    throw usage_error("'" + variant + "' is not a variant. Write TARGET-PRECISION, as onnx-int8, or"
                      " TARGET-PRECISION@PLACE.");
  }
  if (target == "onnx" && place == "openvino") return {"openvino", ""};
  if (target == "torchscript") return {"torch", place};
  return {target, place};
}

const xfer_plugin &load_plugin(const std::string &name, const char *folder) {
  static std::mutex mutex;
  static std::map<fs::path, const xfer_plugin *> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  std::string searched;
  for (const fs::path &candidate : folders(folder)) {
    const fs::path path = candidate / ("xfer_" + name + ".so");
    if (const auto found = loaded.find(path); found != loaded.end()) return *found->second;
    if (fs::exists(path)) return *(loaded[path] = open_library(path));
    searched += (searched.empty() ? "" : ", ") + candidate.string();
  }
  throw unavailable_error("There is no backend xfer_" + name + ".so in " + searched +
                          ". Build it, or name its folder in XFER_PLUGIN_DIR.");
}

}  // namespace xfer::core
