// xfer-run: raw observations in, actions out.
#include <cinttypes>
#include <cstring>
#include <memory>

#include "arguments.hpp"

using namespace xfer::programs;

namespace {

const char HELP[] =
    "usage: xfer-run BUNDLE --variant V [options] < observations\n"
    "\n"
    "Reads steps until the input ends: the bytes of each observation in the spec's order, one step after the other,\n"
    "dense and row-major, as NumPy's tobytes() gives them. Writes one line a step: the action.\n"
    "\n" XFER_COMMON_HELP
    "  --input FILE     read this file or named pipe (standard input)\n"
    "  --reset-every N  begin a new episode every N steps (never)\n"
    "  --scores         write the scores behind the action\n"
    "  --binary         write raw bytes instead: the action, and with --scores the scores\n";

// False at the end of the input; an end within a step is an error.
bool read_step(std::FILE *input, std::vector<std::vector<char>> &buffers) {
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const std::size_t got = std::fread(buffers[i].data(), 1, buffers[i].size(), input);
    if (got == 0 && i == 0) return false;
    if (got != buffers[i].size()) throw std::runtime_error("The input ends in the middle of a step.");
  }
  return true;
}

void write_text(const xfer::Action &action, bool scores) {
  for (const std::int64_t value : action.discrete) std::printf("%" PRId64, value);
  for (std::size_t i = 0; i < action.continuous.size(); ++i) {
    std::printf("%s%.9g", i == 0 ? "" : " ", static_cast<double>(action.continuous[i]));
  }
  if (scores) {
    for (const float score : action.scores) std::printf(" %.9g", static_cast<double>(score));
  }
  std::printf("\n");
}

template <class Values>
void write_binary(const Values &values) {
  std::fwrite(values.data(), sizeof(values[0]), values.size(), stdout);
}

int run(const Arguments &arguments) {
  xfer::Policy policy = arguments.open();
  xfer::Runner runner = policy.runner();
  std::vector<std::vector<char>> buffers;
  std::vector<xfer::Input> inputs;
  for (std::size_t i = 0; i < policy.observation_count(); ++i) buffers.emplace_back(policy.observation(i).row_bytes);
  for (const auto &buffer : buffers) inputs.emplace_back(buffer);

  std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(nullptr, std::fclose);
  std::FILE *input = stdin;
  if (const std::string path = arguments.text("--input"); !path.empty()) {
    file.reset(input = std::fopen(path.c_str(), "rb"));
    if (input == nullptr) throw std::runtime_error(path + " cannot be read: " + std::strerror(errno) + ".");
  }
  const auto every = static_cast<std::int64_t>(arguments.number("--reset-every", 0, 0));
  const bool scores = arguments.has("--scores"), binary = arguments.has("--binary");
  for (std::int64_t step = 0; read_step(input, buffers); ++step) {
    if (every > 0 && step % every == 0) runner.reset();
    const xfer::Action &action = runner.act(inputs);
    if (!binary) {
      write_text(action, scores);
    } else {
      action.discrete.empty() ? write_binary(action.continuous) : write_binary(action.discrete);
      if (scores) write_binary(action.scores);
    }
    // Whoever reads a pipe waits for this action before the next frame.
    std::fflush(stdout);
    if (std::ferror(stdout) != 0) throw std::runtime_error("The actions cannot be written.");
  }
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  return guarded_main("xfer-run", argc, argv, HELP, [&] {
    auto values = COMMON_VALUES;
    values.insert({"--input", "--reset-every"});
    return run(Arguments(argc, argv, values, {"--spin", "--scores", "--binary"}));
  });
}
