// The C interface of xfer.h for C++17: handles that close themselves, and exceptions. Header only.
#ifndef XFER_POLICY_HPP
#define XFER_POLICY_HPP

#include <xfer/xfer.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace xfer {

// What any function here throws; what() is one line that names the fix.
class Error : public std::runtime_error {
 public:
  Error(xfer_code kind, const std::string &message) : std::runtime_error(message), code(kind) {}
  const xfer_code code;
};

inline void check(xfer_code code) {
  if (code != XFER_OK) throw Error(code, xfer_error());
}

// A view of one observation; made from anything that has data() and size().
struct Input : xfer_input {
  Input(const void *address, std::size_t size) : xfer_input{address, size} {}
  template <class Container>
  Input(const Container &c) : xfer_input{c.data(), c.size() * sizeof(*c.data())} {}
};

// What a runner chose; it belongs to the runner and is overwritten by its next act.
struct Action {
  std::vector<std::int64_t> discrete;  // [batch], or empty
  std::vector<float> continuous;       // [batch * elements], or empty
  std::vector<float> scores;           // [batch * elements]
};

struct Options : xfer_options {
  Options() : xfer_options(XFER_OPTIONS_INIT) {}
};

class Policy;

// The bundle's recorded observations, with what the policy did.
class Golden {
 public:
  std::size_t steps() const { return xfer_golden_steps(handle_.get()); }
  bool begins(std::size_t step) const { return xfer_golden_begins(handle_.get(), step) != 0; }
  const void *observation(std::size_t step, std::size_t index) const {
    return xfer_golden_observation(handle_.get(), step, index);
  }
  const void *action(std::size_t step) const { return xfer_golden_action(handle_.get(), step); }
  const float *scores(std::size_t step) const { return xfer_golden_scores(handle_.get(), step); }
  // What the stretch that begins here starts from; NULL where that is zeros.
  const float *start(std::size_t step, std::size_t state) const { return xfer_golden_start(handle_.get(), step, state); }

 private:
  friend class Policy;
  struct Close {
    void operator()(xfer_golden *handle) const { xfer_golden_close(handle); }
  };
  explicit Golden(const xfer_policy *policy) {
    xfer_golden *handle = nullptr;
    check(xfer_golden_open(policy, &handle));
    handle_.reset(handle);
  }
  std::unique_ptr<xfer_golden, Close> handle_;
};

// Acts step by step and keeps the states in between.
class Runner {
 public:
  // Start a new episode in all rows, or in those whose byte is not 0.
  void reset() { check(xfer_runner_reset(handle_.get(), nullptr, batch_)); }
  void reset(const std::vector<std::uint8_t> &mask) {
    check(xfer_runner_reset(handle_.get(), mask.data(), mask.size()));
  }

  // Start a new episode in those rows, and where golden has starting states, go on from these; STEPS are the rows' own.
  void reset(const std::vector<std::uint8_t> &mask, const Golden &golden, const std::vector<std::size_t> &steps) {
    reset(mask);
    for (std::size_t row = 0; row < mask.size(); ++row) {
      if (mask[row] == 0 || states_.empty() || golden.start(steps[row], 0) == nullptr) continue;
      for (std::size_t i = 0; i < states_.size(); ++i) states_[i].data = golden.start(steps[row], i);
      check(xfer_runner_start(handle_.get(), row, states_.data()));
    }
  }

  // Observations in the spec's order. Allocates nothing after the first call.
  const Action &act(std::initializer_list<Input> observations) {
    return act(observations.begin(), observations.size());
  }
  const Action &act(const std::vector<Input> &observations) { return act(observations.data(), observations.size()); }

 private:
  friend class Policy;
  struct Close {
    void operator()(xfer_runner *handle) const { xfer_runner_close(handle); }
  };

  Runner(xfer_policy *policy, std::size_t batch)
      : batch_(batch), observations_(xfer_policy_observation_count(policy)) {
    xfer_runner *handle = nullptr;
    check(xfer_runner_open(policy, batch, &handle));
    handle_.reset(handle);
    for (std::size_t i = 0; i < xfer_policy_state_count(policy); ++i) {
      states_.push_back({nullptr, xfer_policy_state(policy, i)->row_bytes});
    }
    const xfer_tensor *action = xfer_policy_action(policy), *scores = xfer_policy_scores(policy);
    action_.scores.resize(batch * scores->row_bytes / sizeof(float));
    if (action->dtype == XFER_INT64) {
      action_.discrete.resize(batch);
      output_ = {action_.discrete.data(), batch * action->row_bytes};
    } else {
      action_.continuous.resize(batch * action->row_bytes / sizeof(float));
      output_ = {action_.continuous.data(), batch * action->row_bytes};
    }
  }

  const Action &act(const Input *observations, std::size_t count) {
    static_assert(sizeof(Input) == sizeof(xfer_input), "an Input is nothing but an xfer_input");
    if (count != observations_) {
      throw Error(XFER_OBSERVATION, "act got " + std::to_string(count) + " observations, expected " +
                                        std::to_string(observations_) + ", in the spec's order.");
    }
    check(xfer_runner_act(handle_.get(), observations, output_,
                          {action_.scores.data(), action_.scores.size() * sizeof(float)}));
    return action_;
  }

  std::size_t batch_, observations_;
  std::unique_ptr<xfer_runner, Close> handle_;
  Action action_;
  xfer_output output_{};
  std::vector<xfer_input> states_;
};

// An opened variant of a bundle.
class Policy {
 public:
  Policy(const std::string &bundle, const std::string &variant, const Options &options = Options()) {
    xfer_policy *handle = nullptr;
    check(xfer_policy_open(bundle.c_str(), variant.c_str(), &options, &handle));
    handle_.reset(handle);
  }

  Runner runner(std::size_t batch = 1) { return Runner(handle_.get(), batch); }

  std::string task() const { return xfer_policy_task(handle_.get()); }
  double control_hz() const { return xfer_policy_control_hz(handle_.get()); }
  std::string score_kind() const { return xfer_policy_score_kind(handle_.get()); }
  std::string library() const { return xfer_policy_library(handle_.get()); }
  std::size_t observation_count() const { return xfer_policy_observation_count(handle_.get()); }
  const xfer_tensor &observation(std::size_t index) const {
    const xfer_tensor *found = xfer_policy_observation(handle_.get(), index);
    if (!found) throw Error(XFER_USAGE, "There is no observation " + std::to_string(index) + ".");
    return *found;
  }
  const xfer_tensor &action() const { return *xfer_policy_action(handle_.get()); }
  const xfer_tensor &scores() const { return *xfer_policy_scores(handle_.get()); }

  Golden golden() const { return Golden(handle_.get()); }

  // The handle, for what only xfer.h offers, as stateless steps.
  xfer_policy *handle() { return handle_.get(); }
  const xfer_policy *handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(xfer_policy *handle) const { xfer_policy_close(handle); }
  };
  std::unique_ptr<xfer_policy, Close> handle_;
};

}  // namespace xfer

#endif
