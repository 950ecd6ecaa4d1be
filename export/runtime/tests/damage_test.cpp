// Damaged and hostile bundles are refused with a code and a message; none crashes.
#include <random>

#include "tiny_bundle.hpp"

namespace {

using namespace xfer::tests;

int refused = 0;

// Opening, or reading golden, fails and says why.
void check_refused(const TinyBundle &bundle, const std::string &what) {
  xfer_policy *policy = nullptr;
  xfer_golden *golden = nullptr;
  xfer_code code = xfer_policy_open(bundle.path().c_str(), "counting-fp32", nullptr, &policy);
  if (code == XFER_OK) code = xfer_golden_open(policy, &golden);
  if (code == XFER_OK || std::string(xfer_error()).size() < 10) {
    std::fprintf(stderr, "not refused (%d, '%s'): %s\n", code, xfer_error(), what.c_str());
    std::exit(1);
  }
  xfer_policy_close(policy);
  ++refused;
}

void check_opens(const TinyBundle &bundle) {
  xfer_policy *policy = nullptr;
  xfer_golden *golden = nullptr;
  CHECK(xfer_policy_open(bundle.path().c_str(), "counting-fp32", nullptr, &policy) == XFER_OK);
  CHECK(xfer_golden_open(policy, &golden) == XFER_OK);
  xfer_golden_close(golden);
  xfer_policy_close(policy);
}

// Values that a manifest with a right digest may hold all the same.
void test_hostile_manifests(const TinyBundle &bundle) {
  const Json whole = manifest(TinyBundle::graph());
  const Json graph_fact = fact(TinyBundle::graph());
  const Json numbers = {-1, 0, 3.5, 1e300, -1e300, 9223372036854775807, 18446744073709551615U, "12", nullptr,
                        Json::array(), Json::object(), true};
  const auto check = [&](const std::string &pointer, const Json &value) {
    Json changed = whole;
    changed[Json::json_pointer(pointer)] = value;
    bundle.seal(changed);
    check_refused(bundle, pointer + " = " + value.dump());
  };
  for (const Json &folder : Json({"", "/etc", "..", "../tiny.bundle/variants/counting-fp32-000000", "variants/../../x",
                                  "variants", "nowhere", std::string("variants\0x", 10), 1, nullptr, "link",
                                  std::string(5000, 'x')})) {
    check("/builds/0/folder", folder);
  }
  for (const char *name : {"../policy.txt", "/etc/passwd", "", ".", "x/../policy.txt", "other", "policy.txt/"}) {
    check("/builds/0/files", {{name, graph_fact}});
  }
  check("/builds/0/files", Json::object());
  check("/builds/0/files/policy.txt/sha256", std::string(64, 'f'));
  check("/builds/0/files/policy.txt/sha256", "");
  check("/builds/0/status", "failed");
  check("/golden/sha256", std::string(64, '0'));
  for (const Json &number : numbers) {
    check("/builds/0/files/policy.txt/size", number);
    check("/golden/size", number);
    if (!number.is_null()) check("/builds/0/max_batch", number);
    check("/spec/observations/0/shape/0", number);
    check("/spec/states/0/shape", {1 << 20, 1 << 20, number});
    if (number != 3.5) check("/spec/control_hz", number == 9223372036854775807 ? Json("x") : number);
    check("/schema/0", number);
    check("/spec", number);
    check("/builds", number);
  }
  check("/schema", {2, 0});
  check("/schema", {1});
  check("/spec/observations", Json::array());
  check("/spec/observations/1/name", "frame");
  check("/spec/observations/0/name", "");
  check("/spec/observations/0/dtype", "object");
  check("/spec/observations/0/shape", {2, 2, 2, 2, 2, 2, 2, 2, 2});
  check("/spec/states/0/dtype", "uint8");
  check("/spec/action/kind", "continuous");
  check("/spec/action/elements", Json::array());
  check("/spec/score_kind", "taste");
  // Every field that is read is needed.
  for (const char *pointer : {"/schema", "/digest", "/spec", "/spec/task", "/spec/control_hz", "/spec/observations",
                              "/spec/observations/0/name", "/spec/observations/0/shape", "/spec/states", "/spec/action",
                              "/spec/action/kind", "/spec/score_kind", "/golden", "/golden/size", "/builds",
                              "/builds/0/variant", "/builds/0/folder", "/builds/0/files", "/builds/0/max_batch",
                              "/builds/0/files/policy.txt/sha256"}) {
    const Json::json_pointer at(pointer);
    Json changed = whole;
    changed[at.parent_pointer()].erase(at.back());
    bundle.seal(changed);
    check_refused(bundle, std::string("without ") + pointer);
  }
  std::string huge = sealed(whole);
  huge.replace(huge.find("100.0"), 5, "1e999");
  write(bundle.path() / "manifest.json", huge);
  check_refused(bundle, "a number beyond all doubles");
  write(bundle.path() / "manifest.json", "");
  check_refused(bundle, "an empty manifest");
  write(bundle.path() / "manifest.json", std::string(100000, '['));
  check_refused(bundle, "a deep manifest");
  bundle.seal(whole);
  check_opens(bundle);
}

void test_links_and_extra_files(const TinyBundle &bundle) {
  const fs::path outside = bundle.path().parent_path() / "policy.txt";
  fs::rename(bundle.graph_path(), outside);
  fs::create_symlink(outside, bundle.graph_path());
  check_refused(bundle, "a link that leads out");
  fs::remove(bundle.graph_path());
  fs::rename(outside, bundle.graph_path());
  write(bundle.graph_path().parent_path() / "extra", "x");
  check_refused(bundle, "an extra file");
  fs::remove(bundle.graph_path().parent_path() / "extra");
  check_opens(bundle);
}

// Any single change to any file that is read.
void test_random_damage(const TinyBundle &bundle, int count) {
  std::mt19937 random(4);
  const fs::path paths[] = {bundle.path() / "manifest.json", bundle.graph_path(),
                            bundle.path() / "golden.safetensors.gz"};
  for (int i = 0; i < count; ++i) {
    const fs::path &path = paths[random() % 3];
    const std::string whole = read(path);
    std::string damaged = whole;
    const std::size_t at = random() % whole.size();
    switch (random() % 4) {
      case 0:
      case 1:
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
        break;
      case 2:
        damaged.resize(at);
        break;
      default:
        damaged = read(paths[(&path - paths + 1) % 3]);
    }
    write(path, damaged);
    check_refused(bundle, path.string() + ", damage " + std::to_string(i));
    write(path, whole);
  }
  check_opens(bundle);
}

// Golden with a right SHA-256 and nonsense inside.
void test_random_golden(const TinyBundle &bundle, int count) {
  std::mt19937 random(5);
  const std::string whole = golden();
  for (int i = 0; i < count; ++i) {
    std::string damaged = whole;
    for (int bit = 0; bit < 3; ++bit) damaged[random() % whole.size()] ^= static_cast<char>(1 << (random() % 8));
    Json changed = manifest(TinyBundle::graph());
    changed["golden"] = fact(damaged);
    write(bundle.path() / "golden.safetensors.gz", damaged);
    bundle.seal(changed);
    // gzip's own header has bits without meaning, so some of these may be read: they must only not crash.
    xfer_policy *policy = nullptr;
    xfer_golden *opened = nullptr;
    CHECK(xfer_policy_open(bundle.path().c_str(), "counting-fp32", nullptr, &policy) == XFER_OK);
    if (xfer_golden_open(policy, &opened) == XFER_OK) xfer_golden_close(opened);
    xfer_policy_close(policy);
  }
}

}  // namespace

int main() {
  const TinyBundle bundle;
  check_opens(bundle);
  test_hostile_manifests(bundle);
  test_links_and_extra_files(bundle);
  test_random_damage(bundle, 1000);
  test_random_golden(bundle, 300);
  std::printf("%d damaged bundles refused\n", refused);
}
