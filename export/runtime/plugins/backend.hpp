// Makes a backend of a C++ class, so that each one is one source file:
//
//   class Session {
//    public:
//     explicit Session(const xfer_plugin_request &request);          // throws Refusal
//     const char *library() const;
//     void step(std::size_t batch, const void *const *inputs, void *const *outputs);
//   };
//   XFER_BACKEND("name", Session)
//
// A session whose states stay on its device has a class of its own for that:
//
//   class Session::Runner {
//     Runner(Session &session, std::size_t batch);
//     void reset(const std::uint8_t *mask);                                             // NULL: all rows
//     void act(const void *const *observations, void *action, float *scores);
//     void keep() noexcept;                                                             // what act led to
//   };
#pragma once

#include <xfer/plugin.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace xfer::backend {

class Refusal : public std::runtime_error {
 public:
  Refusal(xfer_code kind, const std::string &message) : std::runtime_error(message), code(kind) {}
  const xfer_code code;
};

template <class Body>
xfer_code guarded(xfer_plugin_error *error, Body &&body) noexcept {
  const auto fail = [error](xfer_code code, const char *text) {
    error->code = code;
    std::snprintf(error->text, sizeof(error->text), "%s", text);
    return code;
  };
  try {
    body();
    return XFER_OK;
  } catch (const Refusal &refusal) {
    return fail(refusal.code, refusal.what());
  } catch (const std::exception &caught) {
    return fail(XFER_FAILED, caught.what());
  } catch (...) {
    return fail(XFER_FAILED, "an unknown error");
  }
}

// The bytes of a file of the variant. Throws XFER_BUNDLE if the variant has no such file.
inline const xfer_plugin_file &file_named(const xfer_plugin_request &request, const std::string &name) {
  const auto *end = request.files + request.file_count;
  const auto *found = std::find_if(request.files, end, [&name](const auto &file) { return name == file.name; });
  if (found == end) throw Refusal(XFER_BUNDLE, "the variant has no file " + name + ". Export again.");
  return *found;
}

template <class Session>
xfer_plugin sessions(const char *name) {
  return {
      XFER_PLUGIN_ABI,
      name,
      [](const xfer_plugin_request *request, xfer_plugin_error *error) -> void * {
        Session *session = nullptr;
        guarded(error, [&] { session = new Session(*request); });
        return session;
      },
      [](void *session) { return static_cast<Session *>(session)->library(); },
      [](void *session, std::size_t batch, const void *const *inputs, void *const *outputs, xfer_plugin_error *error) {
        return guarded(error, [&] { static_cast<Session *>(session)->step(batch, inputs, outputs); });
      },
      [](void *session) { delete static_cast<Session *>(session); },
      nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
  };
}

template <class Session, class = void>
struct HasRunner : std::false_type {};
template <class Session>
struct HasRunner<Session, std::void_t<typename Session::Runner>> : std::true_type {};

template <class Session>
void add_runner(xfer_plugin &plugin) {
  using Runner = typename Session::Runner;
  plugin.runner_open = [](void *session, std::size_t batch, xfer_plugin_error *error) -> void * {
    Runner *runner = nullptr;
    guarded(error, [&] { runner = new Runner(*static_cast<Session *>(session), batch); });
    return runner;
  };
  plugin.runner_reset = [](void *runner, const std::uint8_t *mask, xfer_plugin_error *error) {
    return guarded(error, [&] { static_cast<Runner *>(runner)->reset(mask); });
  };
  plugin.runner_start = [](void *runner, std::size_t row, const float *const *states, xfer_plugin_error *error) {
    return guarded(error, [&] { static_cast<Runner *>(runner)->start(row, states); });
  };
  plugin.runner_act = [](void *runner, const void *const *observations, void *action, float *scores,
                         xfer_plugin_error *error) {
    return guarded(error, [&] { static_cast<Runner *>(runner)->act(observations, action, scores); });
  };
  plugin.runner_keep = [](void *runner) { static_cast<Runner *>(runner)->keep(); };
  plugin.runner_close = [](void *runner) { delete static_cast<Runner *>(runner); };
}

template <class Session>
const xfer_plugin *make_backend(const char *name) {
  static const xfer_plugin plugin = [name] {
    xfer_plugin made = sessions<Session>(name);
    if constexpr (HasRunner<Session>::value) add_runner<Session>(made);
    return made;
  }();
  return &plugin;
}

}  // namespace xfer::backend

#define XFER_BACKEND(name, Session) \
  extern "C" const xfer_plugin *xfer_plugin_get(void) { return xfer::backend::make_backend<Session>(name); }
