// A control loop at the policy's own rate: camera -> policy -> actuator, with deadlines counted.
//
//   control_loop BUNDLE VARIANT SECONDS
#include <xfer/policy.hpp>

#include <chrono>
#include <cstdio>
#include <thread>

// Stands in for a camera: noise in the shape that the policy wants.
class Camera {
 public:
  explicit Camera(const xfer_tensor &tensor) : frame_(tensor.row_bytes) {}
  const std::vector<std::uint8_t> &grab() {
    for (auto &value : frame_) value = static_cast<std::uint8_t>((seed_ = seed_ * 1664525U + 1013904223U) >> 24U);
    return frame_;
  }

 private:
  std::vector<std::uint8_t> frame_;
  std::uint32_t seed_ = 1;
};

int main(int argc, char **argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: control_loop BUNDLE VARIANT SECONDS\n");
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  try {
    xfer::Policy policy(argv[1], argv[2]);
    xfer::Runner runner = policy.runner();
    Camera camera(policy.observation(0));
    runner.act({camera.grab()});  // the first call warms up
    runner.reset();
    const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / policy.control_hz()));
    const int ticks = static_cast<int>(std::stod(argv[3]) * policy.control_hz());
    int missed = 0;
    auto due = Clock::now();
    for (int tick = 0; tick < ticks; ++tick, due += period) {
      std::this_thread::sleep_until(due);
      const xfer::Action &action = runner.act({camera.grab()});
      if (Clock::now() > due + period) ++missed;
      static_cast<void>(action);  // here a robot would move
    }
    std::printf("%d ticks at %g Hz, %d too late\n", ticks, policy.control_hz(), missed);
  } catch (const xfer::Error &error) {
    std::fprintf(stderr, "control_loop: %s\n", error.what());
    return 1;
  }
}
