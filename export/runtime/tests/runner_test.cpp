// Steps, states, resets and errors of the core, through the public headers.
#include <xfer/policy.hpp>

#include <cstring>
#include <limits>
#include <thread>

#include "tiny_bundle.hpp"

namespace {

using xfer::tests::TinyBundle;

// Once with states that the core keeps, once with a backend that keeps them itself.
std::string variant = "counting-fp32";

xfer::Policy open(const TinyBundle &bundle) { return {bundle.path().string(), variant}; }

void test_the_spec_is_what_the_manifest_says() {
  const TinyBundle bundle;
  const xfer::Policy policy = open(bundle);
  CHECK(policy.task() == "tiny" && policy.control_hz() == 100 && policy.score_kind() == "values");
  CHECK(policy.library() == "counting 1" && policy.observation_count() == 2);
  const xfer_tensor &frame = policy.observation(0);
  CHECK(std::string(frame.name) == "frame" && frame.dtype == XFER_UINT8 && frame.rank == 1 && frame.shape[0] == 4);
  CHECK(policy.action().dtype == XFER_INT64 && policy.action().rank == 0 && policy.action().row_bytes == 8);
  CHECK(std::string(policy.action().elements[1]) == "right" && policy.scores().row_bytes == 8);
  CHECK(xfer_policy_observation(policy.handle(), 2) == nullptr && xfer_policy_state(policy.handle(), 1) == nullptr);
}

void test_a_runner_counts_each_row_and_resets_those_of_the_mask() {
  const TinyBundle bundle;
  xfer::Policy policy = open(bundle);
  xfer::Runner runner = policy.runner(3);
  const std::vector<std::uint8_t> frames(12, 1);
  const std::vector<float> speeds{0, 0.25F, 0.5F};
  for (int step = 0; step < 4; ++step) {
    const xfer::Action &action = runner.act({frames, speeds});
    for (std::size_t row = 0; row < 3; ++row) {
      CHECK(action.scores[2 * row] == static_cast<float>(step) + speeds[row]);
      CHECK(action.discrete[row] == (1 > action.scores[2 * row] ? 1 : 0));
    }
  }
  runner.reset({0, 1, 0});
  const xfer::Action &after = runner.act({frames, speeds});
  CHECK(after.scores[0] == 4 && after.scores[2] == 0.25F && after.scores[4] == 4.5F);
  runner.reset();
  runner.act({frames, speeds});
  CHECK(after.scores[0] == 0 && after.scores[2] == 0.25F && after.scores[4] == 0.5F);
  CHECK_REFUSED(XFER_OBSERVATION, "mask has 2 rows, expected 3", [&] {
    try {
      runner.reset({1, 0});
    } catch (const xfer::Error &error) {
      return error.code;
    }
    return XFER_OK;
  }());
}

void test_a_row_goes_on_from_given_states() {
  const TinyBundle bundle;
  xfer::Policy policy = open(bundle);
  xfer::Runner runner = policy.runner(3);
  const std::vector<std::uint8_t> frames(12, 1);
  const std::vector<float> speeds{0, 0.25F, 0.5F};
  runner.act({frames, speeds});
  const xfer::Golden golden = policy.golden();
  CHECK(*golden.start(0, 0) == 7 && golden.start(1, 0) == nullptr && golden.start(0, 1) == nullptr);
  runner.reset({0, 1, 1}, golden, {1, 0, 0});
  const xfer::Action &after = runner.act({frames, speeds});
  CHECK(after.scores[0] == 1 && after.scores[2] == 7.25F && after.scores[4] == 7.5F);
  xfer_runner *handle = nullptr;
  CHECK(xfer_runner_open(policy.handle(), 1, &handle) == XFER_OK);
  const float count = 1;
  const xfer_input state{&count, 4}, longer{&count, 8};
  CHECK_REFUSED(XFER_USAGE, "no row 1", xfer_runner_start(handle, 1, &state));
  CHECK_REFUSED(XFER_USAGE, "states are missing", xfer_runner_start(handle, 0, nullptr));
  CHECK_REFUSED(XFER_OBSERVATION, "'count_out' has 8 bytes", xfer_runner_start(handle, 0, &longer));
  xfer_runner_close(handle);
}

void test_scores_that_are_not_finite_leave_buffers_and_states_as_they_were() {
  const TinyBundle bundle;
  const xfer::Policy policy = open(bundle);
  xfer_runner *runner = nullptr;
  CHECK(xfer_runner_open(const_cast<xfer_policy *>(policy.handle()), 1, &runner) == XFER_OK);
  const std::uint8_t good[4] = {1, 0, 0, 0}, bad[4] = {255, 0, 0, 0};
  const float speed = 0;
  std::int64_t action = -7;
  float scores[2] = {-7, -7};
  const auto act = [&](const std::uint8_t *frame) {
    const xfer_input observations[2] = {{frame, 4}, {&speed, 4}};
    return xfer_runner_act(runner, observations, {&action, 8}, {scores, 8});
  };
  CHECK_REFUSED(XFER_NOT_FINITE, "not finite", act(bad));
  CHECK(action == -7 && scores[0] == -7 && scores[1] == -7);
  CHECK(act(good) == XFER_OK && scores[0] == 0);
  CHECK(act(bad) == XFER_NOT_FINITE);
  CHECK(act(good) == XFER_OK && scores[0] == 1);  // the failed step did not count
  const float none = std::numeric_limits<float>::quiet_NaN();
  const xfer_input broken[2] = {{good, 4}, {&none, 4}};
  CHECK_REFUSED(XFER_OBSERVATION, "Observation 'speed' holds nan, of which",
                xfer_runner_act(runner, broken, {&action, 8}, {scores, 8}));
  xfer_runner_close(runner);
}

void test_a_step_has_no_memory() {
  const TinyBundle bundle;
  xfer::Policy policy = open(bundle);
  const std::uint8_t frames[8] = {1, 0, 0, 0, 9, 0, 0, 0};
  const float speeds[2] = {0, 0}, counts[2] = {5, 2};
  const xfer_input observations[2] = {{frames, 8}, {speeds, 8}}, states[1] = {{counts, 8}};
  for (int i = 0; i < 3; ++i) {
    std::int64_t actions[2];
    float scores[4], next[2];
    const xfer_output nexts[1] = {{next, 8}};
    CHECK(xfer_policy_step(policy.handle(), 2, observations, states, {actions, 16}, {scores, 16}, nexts) == XFER_OK);
    CHECK(actions[0] == 0 && actions[1] == 1 && scores[0] == 5 && scores[2] == 2 && next[0] == 6 && next[1] == 3);
    CHECK_REFUSED(XFER_OBSERVATION, "'count' has 4 bytes, expected 8", [&] {
      const xfer_input few[1] = {{counts, 4}};
      return xfer_policy_step(policy.handle(), 2, observations, few, {actions, 16}, {scores, 16}, nexts);
    }());
  }
}

void test_wrong_arguments_are_refused_with_a_sentence() {
  const TinyBundle bundle;
  const std::string path = bundle.path().string();
  xfer_policy *policy = nullptr;
  CHECK_REFUSED(XFER_USAGE, "bundle is NULL", xfer_policy_open(nullptr, "counting-fp32", nullptr, &policy));
  CHECK_REFUSED(XFER_USAGE, "policy is NULL", xfer_policy_open(path.c_str(), "counting-fp32", nullptr, nullptr));
  CHECK_REFUSED(XFER_USAGE, "Choose from: counting-fp32",
                xfer_policy_open(path.c_str(), "counting-int8", nullptr, &policy));
  CHECK_REFUSED(XFER_USAGE, "not a variant", xfer_policy_open(path.c_str(), "../counting-fp32", nullptr, &policy));
  CHECK_REFUSED(XFER_USAGE, "not a variant", xfer_policy_open(path.c_str(), "", nullptr, &policy));
  CHECK_REFUSED(XFER_BUNDLE, "not a bundle", xfer_policy_open("/nowhere", "counting-fp32", nullptr, &policy));
  xfer_options options = XFER_OPTIONS_INIT;
  options.threads = 0;
  CHECK_REFUSED(XFER_USAGE, "threads", xfer_policy_open(path.c_str(), "counting-fp32", &options, &policy));
  options.threads = 1;
  options.plugin_dir = "/nowhere";
  CHECK_REFUSED(XFER_UNAVAILABLE, "xfer_counting.so in /nowhere",
                xfer_policy_open(path.c_str(), "counting-fp32", &options, &policy));
  options.size = 0;
  CHECK_REFUSED(XFER_USAGE, "XFER_OPTIONS_INIT", xfer_policy_open(path.c_str(), "counting-fp32", &options, &policy));
  CHECK(policy == nullptr);
  xfer_policy_close(nullptr);

  xfer::Policy opened = open(bundle);
  xfer_runner *runner = nullptr;
  CHECK_REFUSED(XFER_USAGE, "batch of 0", xfer_runner_open(opened.handle(), 0, &runner));
  CHECK_REFUSED(XFER_USAGE, "does not fit", xfer_runner_open(opened.handle(), std::size_t{1} << 60, &runner));
  xfer::Runner acting = opened.runner();
  const std::vector<std::uint8_t> frame(4), short_frame(3);
  const std::vector<float> speed(1);
  const auto code_of = [&](const std::vector<xfer::Input> &observations) {
    try {
      acting.act(observations);
    } catch (const xfer::Error &error) {
      return error.code;
    }
    return XFER_OK;
  };
  CHECK(code_of({frame, speed}) == XFER_OK);
  CHECK_REFUSED(XFER_OBSERVATION, "'frame' has 3 bytes, expected 4", code_of({short_frame, speed}));
  CHECK(code_of({frame}) == XFER_OBSERVATION);
}

void test_golden_is_read() {
  const TinyBundle bundle;
  const xfer::Policy policy = open(bundle);
  const xfer::Golden golden = policy.golden();
  CHECK(golden.steps() == 2 && golden.begins(0) && !golden.begins(1) && !golden.begins(2));
  CHECK(std::memcmp(golden.observation(1, 0), "\3\0\0\0", 4) == 0);
  CHECK(*static_cast<const float *>(golden.observation(1, 1)) == -0.5F);
  CHECK(*static_cast<const std::int64_t *>(golden.action(1)) == 1 && golden.scores(1)[1] == 3);
  CHECK(golden.observation(2, 0) == nullptr && golden.observation(0, 2) == nullptr && golden.action(2) == nullptr);
}

void test_a_runner_may_outlive_its_policy() {
  const TinyBundle bundle;
  auto policy = std::make_unique<xfer::Policy>(open(bundle));
  xfer::Runner runner = policy->runner();
  policy.reset();
  const std::vector<std::uint8_t> frame(4);
  const std::vector<float> speed(1);
  CHECK(runner.act({frame, speed}).scores[0] == 0);
}

void test_two_policies_in_two_threads() {
  const TinyBundle bundle;
  const auto drive = [&bundle](float speed) {
    for (int opened = 0; opened < 20; ++opened) {
      xfer::Policy policy = open(bundle);
      xfer::Runner runner = policy.runner();
      const std::vector<std::uint8_t> frame(4), bad(4, 255);
      const std::vector<float> speeds{speed};
      for (int step = 0; step < 200; ++step) {
        CHECK(runner.act({frame, speeds}).scores[0] == static_cast<float>(step) + speed);
        try {
          runner.act({bad, speeds});
          CHECK(false);
        } catch (const xfer::Error &error) {  // each thread sees its own message
          CHECK(std::string(error.what()).find("not finite") != std::string::npos);
        }
      }
    }
  };
  std::thread other(drive, 1000.0F);
  drive(0.0F);
  other.join();
}

void test_open_and_close_a_thousand_times() {
  const TinyBundle bundle;
  for (int i = 0; i < 1000; ++i) open(bundle).runner();
}

}  // namespace

int main() {
  for (const char *each : {"counting-fp32", "counting_runner-fp32"}) {
    variant = each;
    test_the_spec_is_what_the_manifest_says();
    test_a_runner_counts_each_row_and_resets_those_of_the_mask();
    test_a_row_goes_on_from_given_states();
    test_scores_that_are_not_finite_leave_buffers_and_states_as_they_were();
    test_a_step_has_no_memory();
    test_wrong_arguments_are_refused_with_a_sentence();
    test_golden_is_read();
    test_a_runner_may_outlive_its_policy();
    test_two_policies_in_two_threads();
    test_open_and_close_a_thousand_times();
  }
}
