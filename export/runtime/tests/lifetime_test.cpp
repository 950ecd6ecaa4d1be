// Opening and closing again and again, two policies at once, and many calls: memory does not grow.
//
//   lifetime_test BUNDLE VARIANT OPENS CALLS
#include <malloc.h>

#include <xfer/policy.hpp>

#include <fstream>
#include <thread>

#include "check.hpp"

namespace {

// A sanitizer keeps freed memory for a while, and looks for leaks itself.
#if defined(XFER_SANITIZED)
constexpr bool SANITIZED = true;
#else
constexpr bool SANITIZED = false;
#endif

// Heap in use, from the allocator itself: resident memory also moves with what other threads cached.
std::size_t heap_in_use() {
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

std::size_t peak_kilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmHWM:") {
      std::size_t value = 0;
      status >> value;
      return value;
    }
  }
  return 0;
}

std::vector<float> drive(xfer::Policy &policy, long calls) {
  xfer::Runner runner = policy.runner();
  std::vector<std::vector<char>> buffers;
  for (std::size_t i = 0; i < policy.observation_count(); ++i) buffers.emplace_back(policy.observation(i).row_bytes);
  const std::vector<xfer::Input> inputs(buffers.begin(), buffers.end());
  std::vector<float> scores;
  for (long i = 0; i < calls; ++i) scores = runner.act(inputs).scores;
  return scores;
}

}  // namespace

int main(int argc, char **argv) {
  CHECK(argc == 5);
  const std::string bundle = argv[1], variant = argv[2];
  const long opens = std::atol(argv[3]), calls = std::atol(argv[4]);
  const auto open_and_act = [&] {
    xfer::Policy policy(bundle, variant);
    return drive(policy, 3);
  };

  const std::vector<float> wanted = open_and_act();
  for (long i = 0; i < opens / 10; ++i) open_and_act();
  const std::size_t before = heap_in_use();
  for (long i = 0; i < opens; ++i) open_and_act();
  const std::size_t after = heap_in_use();
  std::printf("%ld times opened and closed: heap %zu -> %zu bytes\n", opens, before, after);
  // ONNX Runtime itself keeps 30 to 80 bytes of each session that was opened and released; ours would be thousands.
  CHECK(SANITIZED || after < before + 200 * static_cast<std::size_t>(opens) + 65536);

  std::thread other([&] {
    for (int i = 0; i < 20; ++i) CHECK(open_and_act() == wanted);
  });
  for (int i = 0; i < 20; ++i) CHECK(open_and_act() == wanted);
  other.join();

  xfer::Policy policy(bundle, variant);
  drive(policy, calls / 10);
  const std::size_t peak = peak_kilobytes(), heap = heap_in_use();
  drive(policy, calls);
  std::printf("%ld calls: peak memory %zu -> %zu kB, heap %zu -> %zu bytes\n", calls, peak, peak_kilobytes(), heap,
              heap_in_use());
  // The library's buffers come and go, so the heap breathes by some 20 kB, and pages are touched for the first time now
  // and then, up to 0.9 MB in a million calls. The smallest leak, 16 bytes a call, would be 16 MB.
  CHECK(SANITIZED || heap_in_use() <= heap + 65536);
  CHECK(SANITIZED || peak_kilobytes() <= peak + 2048);
}
