// xfer-bench: how long does a variant take from raw observation to action? The protocol and its numbers are those of
// benchmarks/measure/protocol.py; tests/export/runtime/test_runtime_bench.py compares the two.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <tuple>
#include <utility>

#include "arguments.hpp"
#include "turns.hpp"

using namespace xfer::programs;
using Json = nlohmann::ordered_json;

namespace {

const char HELP[] =
    "usage: xfer-bench BUNDLE --variant V [options]\n"
    "\n"
    "Times raw observation to action, batch 1, rotating through the bundle's golden observations, with the protocol of\n"
    "`xfer bench`: at least 1,024 calls and 10 s in 40 rounds, after a warm-up, of one start. Nothing is clipped.\n"
    "\n" XFER_COMMON_HELP
    "  --quick          at least 256 calls and 2 s in 20 rounds\n"
    "  --rounds N       how many rounds\n"
    "  --batch N        observations in one step (1)\n"
    "  --output FILE    write all samples as JSON: `protocol` and `measurements` as in report.json\n"
    "  --json           one JSON object on the last line\n"
    "  --worker JSON    answer the requests of `xfer bench`, which interleaves this with other variants\n";

struct Protocol {
  bool quick;
  long rounds, passes, calls;
  double seconds, warmup_limit_seconds;
  long warmup_calls = 25;
  double warmup_seconds = 0.3, lead_in_seconds = 0.015;
  long lead_in_calls = 2;
};

std::vector<int> usable_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// The number that a file of the kernel's begins with; -1 where there is none.
long number_in(const std::string &path) {
  std::ifstream file(path);
  long number = 0;
  return file >> number ? number : -1;
}

// Of the usable cores the best ones, as export/libraries/cores.py ranks them, but for NUMA nodes: the first logical CPU
// of a physical core before its siblings, then the fastest, then the last.
std::vector<int> best_cores(std::size_t count) {
  using Rank = std::tuple<bool, long, long, int>;
  std::vector<Rank> ranked;
  for (const int core : usable_cores()) {
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(core);
    const long first = number_in(folder + "/topology/thread_siblings_list");
    ranked.emplace_back(first >= 0 && first != core, -number_in(folder + "/cpu_capacity"),
                        -number_in(folder + "/cpufreq/cpuinfo_max_freq"), -core);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<int> cores;
  for (const Rank &rank : ranked) {
    if (cores.size() < count) cores.push_back(-std::get<3>(rank));
  }
  std::sort(cores.begin(), cores.end());
  return cores;
}

void bind_to(const std::vector<int> &cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  if (!cores.empty()) sched_setaffinity(0, sizeof(set), &set);
}

// Largest resident memory of this process so far.
Json peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    long kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return nullptr;
}

// "onnxruntime 1.32.0" as {"onnxruntime": "1.32.0"}.
Json libraries(const xfer::Policy &policy) {
  std::istringstream words(policy.library());
  std::string name, version;
  words >> name >> version;
  return {{"xfer (C++)", xfer_version()}, {name, version}};
}

// The smallest sample that at least SHARE of all samples do not exceed; none below the share's sample floor.
Json percentile(std::vector<double> samples, double share, std::size_t floor) {
  if (samples.size() < floor) return nullptr;
  std::sort(samples.begin(), samples.end());
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
  return samples[std::max<std::size_t>(rank, 1) - 1] * 1e3;
}

double mean(const std::vector<double> &values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Whether warm-up may end: the last three means lie within 5 % of one another.
bool settled(const std::vector<double> &means) {
  if (means.size() < 3) return false;
  std::vector<double> last(means.end() - 3, means.end());
  std::sort(last.begin(), last.end());
  return (last[2] - last[0]) / last[1] <= 0.05;
}

std::string shown(const Json &number) {
  char text[32] = "n/a";
  if (number.is_number()) std::snprintf(text, sizeof(text), "%.4g", number.get<double>());
  return text;
}

// A second process: seconds from its start to its first action, and the memory that it needs.
std::pair<Json, Json> start_fresh(int argc, char **argv) {
  int reply[2];
  if (pipe2(reply, O_CLOEXEC) != 0) return {nullptr, nullptr};
  const auto start = Clock::now();
  const pid_t child = fork();
  if (child == 0) {
    std::vector<char *> words(argv, argv + argc);
    char fresh[] = "--fresh";
    words.insert(words.end(), {fresh, nullptr});
    dup2(reply[1], 1);
    execv("/proc/self/exe", words.data());
    _exit(1);
  }
  close(reply[1]);
  char ready = 0;
  const bool acted = read(reply[0], &ready, 1) == 1;
  const double seconds = seconds_since(start);
  std::string rest;
  char part[64];
  for (ssize_t got; (got = read(reply[0], part, sizeof(part))) > 0;) rest.append(part, static_cast<std::size_t>(got));
  close(reply[0]);
  waitpid(child, nullptr, 0);
  return acted && !rest.empty() ? std::make_pair(Json(seconds), Json::parse(rest)) : std::make_pair(Json(), Json());
}

int be_fresh(xfer::Policy &policy, std::size_t batch) {
  Subject subject(policy, batch);
  subject.step(false);
  std::cout << "!" << std::flush;
  subject.take({50, 0, 0, true});
  std::cout << peak_memory_bytes() << std::flush;
  return 0;
}

int measure(const Arguments &arguments, int argc, char **argv) {
  const auto threads = static_cast<std::size_t>(arguments.number("--threads", 1, 1));
  const auto batch = static_cast<std::size_t>(arguments.number("--batch", 1, 1));
  const bool fresh = arguments.has("--fresh");
  const std::vector<int> cores = fresh ? usable_cores() : best_cores(threads);
  bind_to(cores);
  xfer::Policy policy = arguments.open();
  if (fresh) return be_fresh(policy, batch);

  const bool quick = arguments.has("--quick");
  Protocol protocol{quick, quick ? 20 : 40, 1, quick ? 256 : 1024, quick ? 2.0 : 10.0, 1.0};
  protocol.rounds = static_cast<long>(arguments.number("--rounds", static_cast<double>(protocol.rounds), 5));
  protocol.passes = ((quick ? 40 : 500) + protocol.rounds - 1) / protocol.rounds;

  Subject subject(policy, batch);
  subject.step(false);
  std::vector<double> means;
  double spent = 0;
  std::size_t warmup_calls = 0;
  while (means.size() < 5 || (!settled(means) && spent < protocol.warmup_limit_seconds)) {
    const auto window = subject.take({protocol.warmup_calls / 5, protocol.warmup_seconds / 5, 0, true});
    means.push_back(mean(window));
    spent += std::accumulate(window.begin(), window.end(), 0.0);
    warmup_calls += window.size();
  }
  std::vector<std::vector<double>> rounds;
  std::vector<std::vector<std::size_t>> turns_of;
  std::vector<double> all;
  const auto turns = static_cast<double>(protocol.rounds * protocol.passes);
  const auto calls = static_cast<long>(std::ceil(static_cast<double>(protocol.calls) / turns));
  for (long round = 0; round < protocol.rounds; ++round) {
    std::vector<double> samples;
    turns_of.emplace_back();
    for (long pass = 0; pass < protocol.passes; ++pass) {
      const auto turn = subject.take({calls, protocol.seconds / turns, protocol.lead_in_calls, true,
                                      protocol.lead_in_seconds});
      turns_of.back().push_back(turn.size());
      samples.insert(samples.end(), turn.begin(), turn.end());
    }
    all.insert(all.end(), samples.begin(), samples.end());
    rounds.push_back(std::move(samples));
  }
  const auto [cold_start, peak] = start_fresh(argc, argv);

  const std::string variant = arguments.variant();
  const Json measurement = {{"name", variant + " (C++)"}, {"variant", variant}, {"rounds", rounds},
                            {"threads", threads}, {"cores", cores}, {"libraries", libraries(policy)},
                            {"warmup_calls", warmup_calls}, {"warmup_settled", settled(means)},
                            {"cold_start_s", cold_start}, {"peak_memory_bytes", peak}, {"error", ""}, {"batch", batch},
                            {"disturbances", Json::array()}, {"turns", turns_of},
                            {"starts", Json::array({rounds.size()})}, {"spin", arguments.has("--spin")}};
  const Json written = {{"schema", {1, 1}},
                        {"protocol",
                         {{"threads", threads}, {"rounds", protocol.rounds}, {"passes", protocol.passes},
                          {"calls", protocol.calls}, {"seconds", protocol.seconds}, {"quick", quick},
                          {"warmup_calls", protocol.warmup_calls},
                          {"warmup_seconds", protocol.warmup_seconds},
                          {"warmup_limit_seconds", protocol.warmup_limit_seconds},
                          {"lead_in_calls", protocol.lead_in_calls}, {"pause_seconds", 0.0},
                          {"strict", false}, {"cores", cores}, {"starts", 1},
                          {"lead_in_seconds", protocol.lead_in_seconds}, {"spin", arguments.has("--spin")}}},
                        {"measurements", Json::array({measurement})}};
  if (const std::string path = arguments.text("--output"); !path.empty()) {
    std::ofstream file(path);
    file << written.dump(1) << "\n";
    if (!file.flush()) throw std::runtime_error(path + " cannot be written.");
  }
  const Json row = {{"variant", variant}, {"calls", all.size()}, {"p50_ms", percentile(all, 0.5, 1)},
                    {"p90_ms", percentile(all, 0.9, 64)}, {"p99_ms", percentile(all, 0.99, 662)},
                    {"max_ms", *std::max_element(all.begin(), all.end()) * 1e3}, {"cold_start_s", cold_start},
                    {"peak_memory_bytes", peak}, {"library", policy.library()}};
  std::printf("%s with %s, %zu thread(s), %zu calls: p50 %s ms, p90 %s ms, p99 %s ms, max %s ms; cold start %s s%s\n",
              variant.c_str(), policy.library().c_str(), threads, all.size(), shown(row["p50_ms"]).c_str(),
              shown(row["p90_ms"]).c_str(), shown(row["p99_ms"]).c_str(), shown(row["max_ms"]).c_str(),
              shown(row["cold_start_s"]).c_str(), quick ? " (quick)" : "");
  if (arguments.has("--json")) std::printf("%s\n", row.dump().c_str());
  return 0;
}

Json to_json(const Ticks &ticks) {
  Json after = Json::object();
  for (const auto &[gap, latencies] : ticks.after_idle) {
    std::ostringstream name;
    name << gap;
    after[name.str()] = latencies;
  }
  return {{"latencies", ticks.latencies}, {"starts", ticks.starts}, {"after_idle", after},
          {"dropped", ticks.dropped}, {"idle", ticks.idle}, {"idle_processor", ticks.idle_processor}};
}

// The other side of benchmarks/measure/worker_process.py: one line of JSON in, one out.
int serve(const Arguments &arguments) {
  const Json assignment = Json::parse(arguments.text("--worker"));
  const auto reply = [](const Json &fields) {
    Json whole = {{"error", ""}, {"seconds", Json::array()}, {"ticks", nullptr},
                  {"peak_memory_bytes", peak_memory_bytes()}, {"cores", usable_cores()}, {"libraries", Json::object()}};
    whole.update(fields);
    std::cout << whole.dump() << std::endl;
  };
  // Between its turns `xfer bench` stops this process, which would then never see that its input was closed.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    bind_to(assignment.at("cores").get<std::vector<int>>());
    const std::string library = arguments.text("--library");
    xfer::Options options;
    options.library = library.empty() ? nullptr : library.c_str();
    options.threads = assignment.at("threads").get<int>();
    options.spin = assignment.value("spin", false) ? 1 : 0;
    xfer::Policy policy(assignment.at("bundle"), assignment.at("variant"), options);
    Subject subject(policy, assignment.at("batch"));
    subject.step(false);
    reply({{"libraries", libraries(policy)}});
    for (std::string line; std::getline(std::cin, line);) {
      const Json request = Json::parse(line);
      Json answer = Json::object();
      if (const Json turn = request.value("turn", Json()); !turn.is_null()) {
        answer["seconds"] = subject.take({turn.at("calls"), turn.at("seconds"), turn.value("lead_in", 0L),
                                          turn.value("recorded", true), turn.value("lead_in_seconds", 0.0)});
      }
      if (const Json pace = request.value("pace", Json()); !pace.is_null()) {
        Pace asked{pace.at("rate_hz"), pace.at("seconds"), {}, pace.value("late", "") == "drop",
                   pace.value("lead_in", 0L)};
        for (const Json &gap : pace.value("gaps", Json::array())) asked.gaps.emplace_back(gap.at(0), gap.at(1));
        answer["ticks"] = to_json(keep_pace(subject, asked));
      }
      reply(answer);
    }
  } catch (const std::exception &error) {
    reply({{"error", error.what()}});
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  return guarded_main("xfer-bench", argc, argv, HELP, [&] {
    auto values = COMMON_VALUES;
    values.insert({"--rounds", "--batch", "--output", "--worker"});
    const Arguments arguments(argc, argv, values, {"--spin", "--quick", "--json", "--fresh"});
    return arguments.has("--worker") ? serve(arguments) : measure(arguments, argc, argv);
  });
}
