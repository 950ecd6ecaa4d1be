// Counts the heap allocations of `act`: none may come from the core, a backend, or the headers.
//
//   allocations_test                 a tiny bundle, with a backend that allocates nothing: no allocation at all
//   allocations_test BUNDLE VARIANT  an inference library may allocate for itself; who did is read off the stack
#include <link.h>
#include <unwind.h>

#include <xfer/policy.hpp>

#include <cstring>

#include "tiny_bundle.hpp"

extern "C" void *__libc_malloc(std::size_t);
extern "C" void *__libc_calloc(std::size_t, std::size_t);
extern "C" void *__libc_realloc(void *, std::size_t);
extern "C" void *__libc_memalign(std::size_t, std::size_t);

namespace {

enum class Owner { nobody, us, others };

struct Module {
  std::uintptr_t begin, end;
  Owner owner;
};

Module modules[512];
std::size_t module_count = 0;
thread_local bool counting = false;
long ours = 0, theirs = 0;

// The C and C++ libraries allocate on behalf of whoever called them.
Owner owner_of(const char *path) {
  const char *slash = std::strrchr(path, '/');
  const std::string name = slash != nullptr ? slash + 1 : path;
  const auto begins = [&name](const char *start) { return name.rfind(start, 0) == 0; };
  if (name.empty() || begins("libxfer") || begins("xfer_")) return Owner::us;
  const bool neutral = begins("libc.") || begins("libstdc++") || begins("libgcc_s") || begins("libm.") ||
                       begins("ld-linux") || begins("linux-vdso") || begins("libpthread") || begins("libdl");
  return neutral ? Owner::nobody : Owner::others;
}

int add_module(dl_phdr_info *info, std::size_t, void *) {
  for (int i = 0; i < info->dlpi_phnum && module_count < 512; ++i) {
    const auto &segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    modules[module_count++] = {begin, begin + segment.p_memsz, owner_of(info->dlpi_name)};
  }
  return 0;
}

struct Walk {
  int skip;
  Owner owner;
};

_Unwind_Reason_Code visit(_Unwind_Context *context, void *data) {
  auto *walk = static_cast<Walk *>(data);
  if (walk->skip-- > 0) return _URC_NO_REASON;
  const std::uintptr_t address = _Unwind_GetIP(context);
  for (std::size_t i = 0; i < module_count; ++i) {
    if (address >= modules[i].begin && address < modules[i].end && modules[i].owner != Owner::nobody) {
      walk->owner = modules[i].owner;
      return _URC_END_OF_STACK;
    }
  }
  return _URC_NO_REASON;
}

// The innermost caller that is not the C or C++ library. Two frames are skipped: this function and the hook.
__attribute__((noinline)) void count() {
  if (!counting) return;
  counting = false;
  Walk walk{2, Owner::us};
  _Unwind_Backtrace(visit, &walk);
  ++(walk.owner == Owner::us ? ours : theirs);
  counting = true;
}

}  // namespace

extern "C" {
__attribute__((noinline)) void *malloc(std::size_t size) {
  count();
  return __libc_malloc(size);
}
__attribute__((noinline)) void *calloc(std::size_t items, std::size_t size) {
  count();
  return __libc_calloc(items, size);
}
__attribute__((noinline)) void *realloc(void *old, std::size_t size) {
  count();
  return __libc_realloc(old, size);
}
__attribute__((noinline)) void *memalign(std::size_t alignment, std::size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
__attribute__((noinline)) void *aligned_alloc(std::size_t alignment, std::size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
__attribute__((noinline)) int posix_memalign(void **result, std::size_t alignment, std::size_t size) {
  count();
  *result = __libc_memalign(alignment, size);
  return *result == nullptr ? 12 : 0;
}
}

int main(int argc, char **argv) {
  const xfer::tests::TinyBundle tiny;
  const bool given = argc >= 3;
  const long calls = argc >= 4 ? std::atol(argv[3]) : 10000;
  xfer::Policy policy(given ? argv[1] : tiny.path().string(), given ? argv[2] : "counting-fp32");
  xfer::Runner runner = policy.runner();
  // Two cameras' worth of buffers, since a camera alternates between them.
  std::vector<std::vector<char>> buffers;
  for (std::size_t i = 0; i < 2 * policy.observation_count(); ++i) {
    buffers.emplace_back(policy.observation(i / 2).row_bytes, static_cast<char>(i + 1));
  }
  std::vector<xfer::Input> inputs[2];
  for (std::size_t i = 0; i < buffers.size(); ++i) inputs[i % 2].emplace_back(buffers[i]);
  const std::vector<std::uint8_t> mask{1};

  dl_iterate_phdr(add_module, nullptr);
  for (int i = 0; i < 3; ++i) runner.act(inputs[i % 2]);
  counting = true;
  std::vector<char>(100).swap(buffers[0]);  // the counter counts: one allocation of ours
  CHECK(ours >= 1);
  counting = false;
  buffers[0].resize(policy.observation(0).row_bytes);
  inputs[0][0] = xfer::Input(buffers[0]);
  for (int i = 0; i < 4; ++i) runner.act(inputs[i % 2]);

  ours = theirs = 0;
  counting = true;
  for (long i = 0; i < calls; ++i) {
    if (i % 100 == 0) runner.reset(mask);
    runner.act(inputs[i % 2]);
  }
  counting = false;
  std::printf("%ld calls: %ld allocations of ours, %ld of the inference library\n", calls, ours, theirs);
  CHECK(ours == 0);
  CHECK(given || theirs == 0);
}
