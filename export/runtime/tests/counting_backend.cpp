// Two backends for tests of the core; both count the steps of an episode in their state: xfer_counting leaves it to the
// core, xfer_counting_runner (COUNTING_RUNNER) keeps it itself, as one does that runs on a device.
//
//   scores = {count + speed, frame[0]}, action = the larger one, next count = count + 1; frame[0] = 255 gives NaN.
#include <cmath>
#include <vector>

#include "backend.hpp"

namespace {

class Session {
 public:
  explicit Session(const xfer_plugin_request &request) {
    const xfer_plugin_file &file = xfer::backend::file_named(request, "policy.txt");
    if (std::string(static_cast<const char *>(file.data), file.size) != "count the steps\n") {
      throw xfer::backend::Refusal(XFER_BUNDLE, "not a policy");
    }
    if (request.input_count != 3 || request.output_count != 3) {
      throw xfer::backend::Refusal(XFER_BUNDLE, "not the spec of the tests");
    }
  }

  const char *library() const { return "counting 1"; }

  void step(std::size_t batch, const void *const *inputs, void *const *outputs) const {
    const auto *frame = static_cast<const std::uint8_t *>(inputs[0]);
    const auto *speed = static_cast<const float *>(inputs[1]), *count = static_cast<const float *>(inputs[2]);
    auto *action = static_cast<std::int64_t *>(outputs[0]);
    auto *scores = static_cast<float *>(outputs[1]), *next = static_cast<float *>(outputs[2]);
    for (std::size_t row = 0; row < batch; ++row) {
      scores[2 * row] = count[row] + speed[row];
      scores[2 * row + 1] = frame[4 * row] == 255 ? NAN : static_cast<float>(frame[4 * row]);
      action[row] = scores[2 * row + 1] > scores[2 * row] ? 1 : 0;
      next[row] = count[row] + 1;
    }
  }

#if defined(COUNTING_RUNNER)
  class Runner {
   public:
    Runner(Session &session, std::size_t batch) : session_(session), count_(batch), next_(batch) {}

    void reset(const std::uint8_t *mask) {
      for (std::size_t row = 0; row < count_.size(); ++row) {
        if (mask == nullptr || mask[row] != 0) count_[row] = 0;
      }
    }

    void start(std::size_t row, const float *const *states) { count_[row] = states[0][0]; }

    void act(const void *const *observations, void *action, float *scores) {
      const void *inputs[] = {observations[0], observations[1], count_.data()};
      void *outputs[] = {action, scores, next_.data()};
      session_.step(count_.size(), inputs, outputs);
    }

    void keep() noexcept { count_.swap(next_); }

   private:
    Session &session_;
    std::vector<float> count_, next_;
  };
#endif
};

}  // namespace

XFER_BACKEND("counting", Session)
