// README's ten lines: a policy that acts on one frame.
#include <xfer/policy.hpp>

#include <iostream>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  xfer::Policy policy(argv[1], argv[2]);  // checks the manifest's digest and the SHA-256 of what it loads
  xfer::Runner runner = policy.runner();  // keeps the state between two frames
  std::vector<std::uint8_t> frame(policy.observation(0).row_bytes);  // raw, as the camera gives it
  const xfer::Action &action = runner.act({frame});
  std::cout << policy.action().elements[action.discrete[0]] << '\n';
}
