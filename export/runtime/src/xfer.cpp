// The C boundary: handles around the core's objects, exceptions turned into codes and messages.
#include <xfer/xfer.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>

#include "error.hpp"
#include "policy.hpp"

using xfer::core::usage_error;

struct xfer_policy {
  std::shared_ptr<xfer::core::Policy> policy;
};

struct xfer_runner {
  xfer::core::Runner runner;
};

struct xfer_golden {
  xfer::core::Golden golden;
};

namespace {

// Of fixed size, so that reporting a lack of memory needs none.
thread_local char message[2048] = "";

xfer_code fail(xfer_code code, const char *text) {
  std::snprintf(message, sizeof(message), "%s", text);
  for (char *c = message; *c != '\0'; ++c) {
    if (*c == '\n' || *c == '\r') *c = ' ';
  }
  return code;
}

template <class Body>
xfer_code guarded(Body &&body) noexcept {
  try {
    body();
    return XFER_OK;
  } catch (const xfer::core::Error &error) {
    return fail(error.code, error.what());
  } catch (const std::filesystem::filesystem_error &error) {
    return fail(XFER_BUNDLE, error.what());
  } catch (const std::bad_alloc &) {
    return fail(XFER_FAILED, "Out of memory.");
  } catch (const std::exception &error) {
    return fail(XFER_FAILED, error.what());
  } catch (...) {
    return fail(XFER_FAILED, "An unknown error.");
  }
}

template <class Pointer>
Pointer given(Pointer pointer, const char *name) {
  if (pointer == nullptr) throw usage_error(std::string(name) + " is NULL.");
  return pointer;
}

// Options of an older caller are shorter; what it does not know keeps its default.
xfer_options complete(const xfer_options *options) {
  xfer_options result = XFER_OPTIONS_INIT;
  if (options == nullptr) return result;
  if (options->size < offsetof(xfer_options, library) + sizeof(options->library)) {
    throw usage_error("xfer_options.size is not set. Begin with XFER_OPTIONS_INIT.");
  }
  std::memcpy(&result, options, std::min(options->size, sizeof(result)));
  return result;
}

}  // namespace

extern "C" {

const char *xfer_version(void) { return XFER_VERSION; }
int32_t xfer_abi(void) { return XFER_ABI; }
const char *xfer_error(void) { return message; }

xfer_code xfer_policy_open(const char *bundle, const char *variant, const xfer_options *options, xfer_policy **policy) {
  return guarded([&] {
    *given(policy, "policy") = nullptr;
    auto opened = std::make_shared<xfer::core::Policy>(given(bundle, "bundle"), given(variant, "variant"),
                                                       complete(options));
    *policy = new xfer_policy{std::move(opened)};
  });
}

void xfer_policy_close(xfer_policy *policy) { delete policy; }

const char *xfer_policy_task(const xfer_policy *policy) { return policy->policy->spec().task.c_str(); }
double xfer_policy_control_hz(const xfer_policy *policy) { return policy->policy->spec().control_hz; }
const char *xfer_policy_score_kind(const xfer_policy *policy) { return policy->policy->spec().score_kind.c_str(); }
const char *xfer_policy_library(const xfer_policy *policy) { return policy->policy->library(); }
int64_t xfer_policy_max_batch(const xfer_policy *policy) { return policy->policy->max_batch(); }
size_t xfer_policy_observation_count(const xfer_policy *policy) { return policy->policy->observation_count(); }
size_t xfer_policy_state_count(const xfer_policy *policy) { return policy->policy->state_count(); }

const xfer_tensor *xfer_policy_observation(const xfer_policy *policy, size_t index) {
  return index < policy->policy->observation_count() ? policy->policy->inputs().at(index) : nullptr;
}

const xfer_tensor *xfer_policy_state(const xfer_policy *policy, size_t index) {
  const auto &core = *policy->policy;
  return index < core.state_count() ? core.inputs().at(core.observation_count() + index) : nullptr;
}

const xfer_tensor *xfer_policy_action(const xfer_policy *policy) { return policy->policy->outputs().at(0); }
const xfer_tensor *xfer_policy_scores(const xfer_policy *policy) { return policy->policy->outputs().at(1); }

xfer_code xfer_policy_step(xfer_policy *policy, size_t batch, const xfer_input *observations, const xfer_input *states,
                           xfer_output action, xfer_output scores, const xfer_output *next_states) {
  return guarded([&] {
    given(policy, "policy")->policy->step(batch, observations, states, action, scores, next_states);
  });
}

xfer_code xfer_runner_open(xfer_policy *policy, size_t batch, xfer_runner **runner) {
  return guarded([&] {
    *given(runner, "runner") = nullptr;
    *runner = new xfer_runner{xfer::core::Runner(given(policy, "policy")->policy, batch)};
  });
}

void xfer_runner_close(xfer_runner *runner) { delete runner; }

xfer_code xfer_runner_reset(xfer_runner *runner, const uint8_t *mask, size_t rows) {
  return guarded([&] { given(runner, "runner")->runner.reset(mask, rows); });
}

xfer_code xfer_runner_start(xfer_runner *runner, size_t row, const xfer_input *states) {
  return guarded([&] { given(runner, "runner")->runner.start(row, states); });
}

xfer_code xfer_runner_act(xfer_runner *runner, const xfer_input *observations, xfer_output action, xfer_output scores) {
  return guarded([&] { given(runner, "runner")->runner.act(observations, action, scores); });
}

xfer_code xfer_golden_open(const xfer_policy *policy, xfer_golden **golden) {
  return guarded([&] {
    *given(golden, "golden") = nullptr;
    *golden = new xfer_golden{given(policy, "policy")->policy->golden()};
  });
}

void xfer_golden_close(xfer_golden *golden) { delete golden; }
size_t xfer_golden_steps(const xfer_golden *golden) { return golden->golden.steps(); }

int32_t xfer_golden_begins(const xfer_golden *golden, size_t step) {
  return step < golden->golden.steps() && golden->golden.begins(step) ? 1 : 0;
}

const void *xfer_golden_observation(const xfer_golden *golden, size_t step, size_t index) {
  const auto &core = golden->golden;
  return step < core.steps() && index < core.observations() ? core.observation(step, index) : nullptr;
}

const void *xfer_golden_action(const xfer_golden *golden, size_t step) {
  return step < golden->golden.steps() ? golden->golden.action(step) : nullptr;
}

const float *xfer_golden_start(const xfer_golden *golden, size_t step, size_t index) {
  const auto &core = golden->golden;
  return step < core.steps() && index < core.states() ? core.start(step, index) : nullptr;
}

const float *xfer_golden_scores(const xfer_golden *golden, size_t step) {
  return step < golden->golden.steps() ? golden->golden.scores(step) : nullptr;
}

}  // extern "C"
