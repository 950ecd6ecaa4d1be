// xfer-verify: does a variant do here what eager PyTorch did? The first two gates, on golden alone.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "arguments.hpp"

using namespace xfer::programs;

namespace {

const char HELP[] =
    "usage: xfer-verify BUNDLE --variant V [options]\n"
    "\n"
    "Plays the bundle's golden trajectories, with batch 1 and 3, and compares scores and actions with eager PyTorch's.\n"
    "The exit status is 0 if the variant passes, 1 if not.\n"
    "\n" XFER_COMMON_HELP
    "  --json           one JSON object on the last line\n";

using Rows = std::vector<std::vector<double>>;

// Largest difference of a score, as a share of golden's score spread; int8 is reported, not judged.
std::optional<double> score_tolerance(const std::string &precision) {
  static const std::map<std::string, double> shares{{"fp32", 0.001}, {"tf32", 0.01}, {"fp16", 0.02}, {"bf16", 0.06}};
  const auto found = shares.find(precision);
  return found == shares.end() ? std::nullopt : std::optional<double>(found->second);
}

std::vector<double> centered(const float *scores, std::size_t width, bool mean_kind) {
  std::vector<double> row(scores, scores + width);
  if (mean_kind) return row;
  const double mean = std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(width);
  for (double &score : row) score -= mean;
  return row;
}

double spread(const Rows &rows) {
  double sum = 0, squares = 0, count = 0;
  for (const auto &row : rows) {
    for (const double score : row) {
      sum += score;
      squares += score * score;
      ++count;
    }
  }
  return std::sqrt(std::max(0.0, squares / count - sum / count * (sum / count)));
}

std::vector<std::size_t> order_of(const xfer::Golden &golden, std::size_t first_episode) {
  std::vector<std::size_t> starts;
  for (std::size_t t = 0; t < golden.steps(); ++t) {
    if (golden.begins(t)) starts.push_back(t);
  }
  if (starts.empty() || starts[0] != 0) throw std::runtime_error("Golden does not begin with an episode.");
  std::vector<std::size_t> order(golden.steps());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto begin = static_cast<std::ptrdiff_t>(starts[first_episode % starts.size()]);
  std::rotate(order.begin(), order.begin() + begin, order.end());
  return order;
}

struct Played {
  double max_abs_diff = 0;
  std::size_t step = 0;
  std::vector<std::vector<char>> actions;  // of row 0
};

// Every row plays all episodes, but row i begins with episode i: rows that are mixed up cannot all be right.
Played play(xfer::Policy &policy, const xfer::Golden &golden, const Rows &wanted, std::size_t batch, bool mean_kind) {
  xfer::Runner runner = policy.runner(batch);
  std::vector<std::vector<std::size_t>> orders;
  for (std::size_t row = 0; row < batch; ++row) orders.push_back(order_of(golden, row));
  std::vector<std::vector<char>> frames;
  for (std::size_t i = 0; i < policy.observation_count(); ++i) {
    frames.emplace_back(batch * policy.observation(i).row_bytes);
  }
  std::vector<xfer::Input> inputs(frames.begin(), frames.end());
  const std::size_t width = policy.scores().element_count, action_bytes = policy.action().row_bytes;
  Played result;
  result.actions.resize(golden.steps());
  std::vector<std::uint8_t> mask(batch);
  std::vector<std::size_t> now(batch);
  for (std::size_t t = 0; t < golden.steps(); ++t) {
    for (std::size_t row = 0; row < batch; ++row) {
      now[row] = orders[row][t];
      mask[row] = golden.begins(now[row]) ? 1 : 0;
      for (std::size_t i = 0; i < frames.size(); ++i) {
        const std::size_t bytes = policy.observation(i).row_bytes;
        std::memcpy(frames[i].data() + row * bytes, golden.observation(orders[row][t], i), bytes);
      }
    }
    runner.reset(mask, golden, now);
    const xfer::Action &action = runner.act(inputs);
    const char *chosen = action.discrete.empty() ? reinterpret_cast<const char *>(action.continuous.data())
                                                 : reinterpret_cast<const char *>(action.discrete.data());
    result.actions[orders[0][t]].assign(chosen, chosen + action_bytes);
    for (std::size_t row = 0; row < batch; ++row) {
      const auto got = centered(action.scores.data() + row * width, width, mean_kind);
      for (std::size_t i = 0; i < width; ++i) {
        const double difference = std::abs(got[i] - wanted[orders[row][t]][i]);
        if (difference > result.max_abs_diff) result.max_abs_diff = difference, result.step = orders[row][t];
      }
    }
  }
  return result;
}

// How much less eager likes the action at a step than its own choice: 0 for the same choice, or at a tie.
double regret(const float *scores, std::size_t width, std::int64_t chosen, bool logits, double scale) {
  if (chosen < 0 || chosen >= static_cast<std::int64_t>(width)) return INFINITY;
  const double most = *std::max_element(scores, scores + width);
  const double own = scores[chosen];
  if (!logits) return (most - own) / scale;
  double sum = 0;
  for (std::size_t i = 0; i < width; ++i) sum += std::exp(scores[i] - most);
  return (1 - std::exp(own - most)) / sum;
}

struct Actions {
  double agreement = 0, loss = 0, allowed = 0;
};

Actions compare_actions(const xfer::Policy &policy, const xfer::Golden &golden, const Played &played, double scale,
                        const std::string &precision) {
  const xfer_tensor &action = policy.action();
  const std::size_t width = action.element_count;
  Actions result;
  const bool discrete = action.dtype == XFER_INT64, fp32 = precision == "fp32";
  result.allowed = discrete ? (fp32 ? 0.0001 : 0.005) : (fp32 ? 0.005 : 0.02);
  for (std::size_t t = 0; t < golden.steps(); ++t) {
    double loss = 0;
    if (discrete) {
      std::int64_t chosen = 0, eager = 0;
      std::memcpy(&chosen, played.actions[t].data(), sizeof(chosen));
      std::memcpy(&eager, golden.action(t), sizeof(eager));
      loss = regret(golden.scores(t), width, chosen, policy.score_kind() == "logits", scale);
      result.agreement += chosen == eager ? 1 : 0;
    } else {
      std::vector<float> chosen(width), eager(width);
      std::memcpy(chosen.data(), played.actions[t].data(), action.row_bytes);
      std::memcpy(eager.data(), golden.action(t), action.row_bytes);
      for (std::size_t i = 0; i < width; ++i) {
        loss += std::abs(chosen[i] - eager[i]) / (action.high[i] - action.low[i]) / static_cast<double>(width);
      }
      result.agreement += loss <= result.allowed ? 1 : 0;
    }
    result.loss += loss;
  }
  result.loss /= static_cast<double>(golden.steps());
  result.agreement /= static_cast<double>(golden.steps());
  return result;
}

int run(const Arguments &arguments) {
  xfer::Policy policy = arguments.open();
  const xfer::Golden golden = policy.golden();
  const std::string variant = arguments.variant(), build = variant.substr(0, variant.find('@'));
  const std::string precision = build.substr(build.find('-') + 1);
  const bool mean_kind = policy.score_kind() == "mean";
  Rows wanted;
  for (std::size_t t = 0; t < golden.steps(); ++t) {
    wanted.push_back(centered(golden.scores(t), policy.scores().element_count, mean_kind));
  }
  const double scale = spread(wanted);
  const auto share = score_tolerance(precision);
  Played worst = play(policy, golden, wanted, 1, mean_kind);
  const Actions actions = compare_actions(policy, golden, worst, std::max(scale, 1e-12), precision);
  const std::int64_t most = xfer_policy_max_batch(policy.handle());
  if (most == 0 || most >= 3) {
    const Played three = play(policy, golden, wanted, 3, mean_kind);
    if (three.max_abs_diff > worst.max_abs_diff) worst.max_abs_diff = three.max_abs_diff, worst.step = three.step;
  }
  char reason[256] = "";
  const char *rung = "actions";
  if (share && worst.max_abs_diff > *share * scale) {
    rung = "numbers";
    std::snprintf(reason, sizeof(reason), "numbers: score differs by %.3g at golden step %zu, allowed %.3g",
                  worst.max_abs_diff, worst.step, *share * scale);
  } else if (!(actions.loss <= actions.allowed)) {
    std::snprintf(reason, sizeof(reason), "actions: mean %s %.3g over %zu observations, allowed %g",
                  policy.action().dtype == XFER_INT64 ? "regret" : "difference", actions.loss, golden.steps(),
                  actions.allowed);
  }
  const bool passes = *reason == '\0';
  std::printf("%s with %s: scores differ by at most %.3g (%s), %.1f %% of %zu actions agree: %s\n", variant.c_str(),
              policy.library().c_str(), worst.max_abs_diff, share ? "judged" : "reported, not judged",
              100 * actions.agreement, golden.steps(), passes ? "passes" : reason);
  if (arguments.has("--json")) {
    std::printf("{\"variant\": \"%s\", \"status\": \"%s\", \"rung\": \"%s\", \"reason\": \"%s\", \"max_abs_diff\": %.9g,"
                " \"agreement\": %.9g, \"regret\": %.9g, \"observations\": %zu, \"library\": \"%s\"}\n",
                variant.c_str(), passes ? "provisional" : "rejected", rung, reason, worst.max_abs_diff,
                actions.agreement, actions.loss, golden.steps(), policy.library().c_str());
  }
  return passes ? 0 : 1;
}

}  // namespace

int main(int argc, char **argv) {
  return guarded_main("xfer-verify", argc, argv, HELP, [&] {
    return run(Arguments(argc, argv, COMMON_VALUES, {"--spin", "--json"}));
  });
}
