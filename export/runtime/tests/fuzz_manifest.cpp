// libFuzzer on the readers of a bundle's own formats. The first byte chooses: the manifest as it is, the manifest with
// its digest made right (else nothing gets past it), or golden trajectories under a small spec.
//
//   cmake -S export/runtime -B fuzz -DCMAKE_CXX_COMPILER=clang++ -DXFER_FUZZ=ON && cmake --build fuzz --target fuzz_manifest
//   fuzz/tests/fuzz_manifest -max_total_time=600 CORPUS
#include <cstddef>
#include <cstdint>
#include <string>

#include "../src/error.hpp"
#include "../src/golden.hpp"
#include "../src/manifest.hpp"
#include "../src/sha256.hpp"

namespace {

void seal(std::string &data) {
  const std::string key = "\"digest\": \"";
  const auto at = data.find(key);
  if (at == std::string::npos || data.size() < at + key.size() + 65) return;
  data.replace(at + key.size(), 64, 64, '0');
  data.replace(at + key.size(), 64, xfer::core::sha256(data));
}

xfer::core::Spec small_spec() {
  xfer::core::Spec spec;
  spec.observations = {{"frame", XFER_UINT8, {4}, {}, "", "", {}, {}}, {"speed", XFER_FLOAT32, {1}, {}, "", "", {}, {}}};
  spec.states = {{"count", XFER_FLOAT32, {1}, {}, "", "", {}, {}}};
  spec.action = {"action", XFER_INT64, {}, {"left", "right"}, "", "", {}, {}};
  spec.scores = {"scores", XFER_FLOAT32, {2}, {"left", "right"}, "", "", {}, {}};
  return spec;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size) {
  if (size == 0) return 0;
  std::string data(reinterpret_cast<const char *>(bytes + 1), size - 1);
  try {
    if (bytes[0] % 3 == 2) {
      static const xfer::core::Spec spec = small_spec();
      const xfer::core::Golden golden(data, spec, "golden");
      // Every row that there is can be read.
      const auto *last = static_cast<const std::uint8_t *>(golden.observation(golden.steps() - 1, 0));
      volatile std::uint8_t touched = last[3];
      for (std::size_t t = 0; t < golden.steps() && golden.states() > 0; ++t) {
        if (golden.begins(t)) touched = static_cast<std::uint8_t>(*golden.start(t, 0) > 0);
      }
      static_cast<void>(touched);
    } else {
      if (bytes[0] % 3 == 1) seal(data);
      xfer::core::parse_manifest(data, "manifest.json");
    }
  } catch (const xfer::core::Error &) {  // refused, as it should be; anything else ends the fuzzer
  }
  return 0;
}
