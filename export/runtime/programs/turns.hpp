// The measuring protocol of benchmarks/measure/worker.py: acting on recorded observations, and timing each action.
#pragma once

#include <xfer/policy.hpp>

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

namespace xfer::programs {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Turn {
  long calls = 0;       // fewest timed calls
  double seconds = 0;   // shortest time spent in them
  long lead_in = 0;     // fewest calls before the first timed one
  bool recorded = true; // whether to show golden observations; else zeros
  double lead_in_seconds = 0;  // shortest time in those calls: a clock needs some to rise again
};

// A policy that acts on the bundle's golden observations, BATCH consecutive ones at a time, for ever.
class Subject {
 public:
  Subject(Policy &policy, std::size_t batch) : policy_(policy), runner_(policy.runner(batch)), batch_(batch) {
    add_part(zeros_, false, 0);
  }

  // Returns how long the action took, in seconds. Resets are not timed.
  double step(bool recorded = true) {
    const Part &part = recorded ? next() : zeros_;
    if (part.begins) runner_.reset(part.mask, *golden_, part.steps);
    const auto start = Clock::now();
    runner_.act(part.inputs);
    return seconds_since(start);
  }

  std::vector<double> take(const Turn &turn) {
    std::vector<double> samples;
    double spent = 0;
    double before = 0;
    for (long i = 0; i < turn.lead_in || before < turn.lead_in_seconds; ++i) before += step(turn.recorded);
    while (static_cast<long>(samples.size()) < turn.calls || spent < turn.seconds) {
      samples.push_back(step(turn.recorded));
      spent += samples.back();
    }
    return samples;
  }

 private:
  // One step's observations, laid out before anything is timed: copying frames is not the policy's work.
  struct Part {
    bool begins = false;
    std::vector<std::uint8_t> mask;
    std::vector<std::size_t> steps;  // golden's, of each row
    std::vector<std::vector<char>> buffers;
    std::vector<Input> inputs;
  };

  void add_part(Part &part, bool recorded, std::size_t first) {
    part.mask.assign(batch_, 0);
    part.steps.assign(batch_, 0);
    for (std::size_t i = 0; i < policy_.observation_count(); ++i) {
      const std::size_t bytes = policy_.observation(i).row_bytes;
      part.buffers.emplace_back(batch_ * bytes);
      for (std::size_t row = 0; recorded && row < batch_; ++row) {
        const std::size_t step = part.steps[row] = (first + row) % golden_->steps();
        std::memcpy(part.buffers[i].data() + row * bytes, golden_->observation(step, i), bytes);
        part.mask[row] = golden_->begins(step) ? 1 : 0;
        part.begins = part.begins || golden_->begins(step);
      }
    }
    part.inputs.assign(part.buffers.begin(), part.buffers.end());
  }

  const Part &next() {
    if (parts_.empty()) {
      golden_ = policy_.golden();
      parts_.resize((golden_->steps() + batch_ - 1) / batch_);
      for (std::size_t i = 0; i < parts_.size(); ++i) add_part(parts_[i], true, i * batch_);
    }
    return parts_[at_++ % parts_.size()];
  }

  Policy &policy_;
  Runner runner_;
  std::optional<Golden> golden_;  // read when it is first shown
  std::size_t batch_, at_ = 0;
  Part zeros_;
  std::vector<Part> parts_;
};

struct Pace {
  double rate_hz = 0, seconds = 0;
  std::vector<std::pair<double, long>> gaps;  // seconds idle, and how often to act once after them
  bool drop = false;                          // whether ticks that fell due while acting are dropped, or acted on at once
  long lead_in = 0;                           // ticks before those that count
};

struct Ticks {
  std::vector<double> latencies, starts;  // of each tick, from the moment it was scheduled for
  std::vector<std::pair<double, std::vector<double>>> after_idle;
  long dropped = 0;
  double idle = 0, idle_processor = 0;  // seconds waited, and processor time that all threads took meanwhile
};

// Processor time of this process so far, with all of its threads, in seconds.
inline double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The loop of benchmarks/measure/pacing.py.
inline Ticks keep_pace(Subject &subject, const Pace &pace) {
  Ticks ticks;
  const auto act_at = [&](Clock::time_point due) {
    if (const double early = -seconds_since(due); early > 0) {
      const double before = processor_seconds();
      std::this_thread::sleep_until(due);
      ticks.idle_processor += processor_seconds() - before;
      ticks.idle += early;
    }
    const double began = seconds_since(due);
    subject.step();
    return std::make_pair(began, seconds_since(due));
  };
  const auto after = [](Clock::time_point start, double seconds) {
    return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  };
  const auto first = after(Clock::now(), static_cast<double>(1 + pace.lead_in) / pace.rate_hz);
  const auto due = [&](long tick) { return after(first, static_cast<double>(tick) / pace.rate_hz); };
  const long count = pace.seconds > 0 ? std::max(1L, std::lround(pace.rate_hz * pace.seconds)) : 0;
  for (long tick = -pace.lead_in; tick < count;) {
    const auto [start, latency] = act_at(due(tick));
    if (tick >= 0) {
      ticks.starts.push_back(start);
      ticks.latencies.push_back(latency);
    } else {
      ticks.idle = ticks.idle_processor = 0;
    }
    for (++tick; pace.drop && tick < count && due(tick) < Clock::now(); ++tick) ticks.dropped += tick >= 0 ? 1 : 0;
  }
  const double idle = ticks.idle, idle_processor = ticks.idle_processor;
  for (const auto &[gap, times] : pace.gaps) {
    ticks.after_idle.emplace_back(gap, std::vector<double>());
    for (long i = 0; i < times; ++i) ticks.after_idle.back().second.push_back(act_at(after(Clock::now(), gap)).second);
  }
  ticks.idle = idle;
  ticks.idle_processor = idle_processor;
  return ticks;
}

}  // namespace xfer::programs
