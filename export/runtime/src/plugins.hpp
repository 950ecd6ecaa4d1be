// Finding and loading backends.
#pragma once

#include <xfer/plugin.h>

#include <string>

namespace xfer::core {

struct Choice {
  std::string plugin;  // name of the backend
  std::string place;   // what it is told
};

// Which backend runs TARGET-PRECISION@PLACE. Throws XFER_USAGE if it is no such name.
Choice choose_plugin(const std::string &variant);

// Load xfer_NAME.so from FOLDER if that is given, else from $XFER_PLUGIN_DIR or beside this library. A backend stays
// loaded until the process ends: inference libraries do not survive being unloaded. Throws XFER_UNAVAILABLE.
const xfer_plugin &load_plugin(const std::string &name, const char *folder);

}  // namespace xfer::core
