// Opening and closing again and again, two policies at once, and many calls: memory does not grow.
//
//   lifetime_test                              a tiny bundle, with a backend of the test's own
//   lifetime_test BUNDLE VARIANT OPENS CALLS
#include <malloc.h>

#include <xfer/policy.hpp>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "tiny_bundle.hpp"

extern "C" void *__libc_malloc(std::size_t);
extern "C" void *__libc_calloc(std::size_t, std::size_t);
extern "C" void *__libc_realloc(void *, std::size_t);
extern "C" void *__libc_memalign(std::size_t, std::size_t);
extern "C" void __libc_free(void *);

namespace {

// What is allocated and not yet freed, by us and by every library: what the allocator itself calls "in use" also has
// what it keeps back for the next request, which moves by some 50 bytes an open though nothing is lost.
std::atomic<long> blocks{0}, bytes{0};

#if !defined(XFER_SANITIZED)  // a sanitizer brings its own malloc, and looks for leaks itself
void *counted(void *block) {
  if (block != nullptr) {
    ++blocks;
    bytes += static_cast<long>(malloc_usable_size(block));
  }
  return block;
}

void forgotten(void *block) {
  if (block == nullptr) return;
  --blocks;
  bytes -= static_cast<long>(malloc_usable_size(block));
}
#endif

}  // namespace

#if !defined(XFER_SANITIZED)
extern "C" {
void *malloc(std::size_t size) { return counted(__libc_malloc(size)); }
void *calloc(std::size_t items, std::size_t size) { return counted(__libc_calloc(items, size)); }
void *memalign(std::size_t alignment, std::size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(std::size_t alignment, std::size_t size) { return counted(__libc_memalign(alignment, size)); }
int posix_memalign(void **result, std::size_t alignment, std::size_t size) {
  *result = counted(__libc_memalign(alignment, size));
  return *result == nullptr ? ENOMEM : 0;
}
void *realloc(void *old, std::size_t size) {
  forgotten(old);
  void *block = counted(__libc_realloc(old, size));
  if (block == nullptr && size != 0) counted(old);
  return block;
}
void free(void *block) {
  forgotten(block);
  __libc_free(block);
}
}
#endif

namespace {

struct Heap {
  long blocks, bytes;
};

Heap heap() { return {blocks, bytes}; }

// As many blocks. The same block may be some bytes longer elsewhere; the smallest leak of each open would be 16,000.
void check_not_grown(const Heap &before, const Heap &after) {
  CHECK(after.blocks == before.blocks);
  CHECK(after.bytes <= before.bytes + 1024);
}

std::size_t kilobytes(const std::string &key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == key) {
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
  CHECK(argc == 1 || argc == 5);
  const xfer::tests::TinyBundle tiny;
  const std::string bundle = argc == 5 ? argv[1] : tiny.path().string();
  const std::string variant = argc == 5 ? argv[2] : "counting-fp32";
  const long opens = argc == 5 ? std::atol(argv[3]) : 1000, calls = argc == 5 ? std::atol(argv[4]) : 100000;
  const auto open_and_act = [&] {
    xfer::Policy policy(bundle, variant);
    return drive(policy, 3);
  };

  const std::vector<float> wanted = open_and_act();
  for (long i = 0; i < opens / 10; ++i) open_and_act();
  const Heap before = heap();
  for (long i = 0; i < opens; ++i) open_and_act();
  const Heap after = heap();
  std::printf("%ld times opened and closed: heap %ld -> %ld bytes in %ld -> %ld blocks\n", opens, before.bytes,
              after.bytes, before.blocks, after.blocks);
  check_not_grown(before, after);

  std::thread other([&] {
    for (int i = 0; i < 20; ++i) CHECK(open_and_act() == wanted);
  });
  for (int i = 0; i < 20; ++i) CHECK(open_and_act() == wanted);
  other.join();

  xfer::Policy policy(bundle, variant);
  // Twice: a backend may remember the buffers of two runners.
  for (int i = 0; i < 2; ++i) drive(policy, calls / 10);
  const Heap warm = heap();
  const std::size_t resident = kilobytes("VmHWM:"), mapped = kilobytes("VmPeak:");
  drive(policy, calls);
  const Heap driven = heap();
  std::printf("%ld calls: heap %ld -> %ld bytes in %ld -> %ld blocks, peak memory %zu -> %zu kB, mapped %zu -> %zu kB\n",
              calls, warm.bytes, driven.bytes, warm.blocks, driven.blocks, resident, kilobytes("VmHWM:"), mapped,
              kilobytes("VmPeak:"));
  check_not_grown(warm, driven);
#if !defined(XFER_SANITIZED)
  CHECK(kilobytes("VmPeak:") == mapped);
  // A page of a library's code may be touched for the first time. A leak of 16 bytes a call would be 16 MB in a million.
  CHECK(kilobytes("VmHWM:") <= resident + 256);
#endif
}
