// Golden trajectories: gzipped safetensors, as xfer/trajectories/writing.py writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.hpp"

namespace xfer::core {

class Golden {
 public:
  // Throws Error (XFER_BUNDLE) if COMPRESSED is damaged or does not fit SPEC; FILE stands in messages.
  Golden(std::string_view compressed, const Spec &spec, const std::string &file);

  std::size_t steps() const { return steps_; }
  std::size_t observations() const { return observations_.size(); }
  std::size_t states() const { return starts_.size(); }  // those with starting states
  bool begins(std::size_t step) const { return resets_[step] != 0; }
  const void *observation(std::size_t step, std::size_t index) const { return observations_[index].row(step); }
  const void *action(std::size_t step) const { return actions_.row(step); }
  const float *scores(std::size_t step) const { return static_cast<const float *>(scores_.row(step)); }
  // What the stretch that begins at a step starts from, of one of states(); NULL where none begins.
  const float *start(std::size_t step, std::size_t state) const {
    return !begins(step) ? nullptr : static_cast<const float *>(starts_[state].row(stretch_[step]));
  }

 private:
  // Each array in memory of its own, aligned for its dtype (in the file it need not be).
  struct Array {
    std::vector<std::int64_t> words;
    std::size_t row_bytes = 0;
    const void *row(std::size_t step) const {
      return reinterpret_cast<const unsigned char *>(words.data()) + step * row_bytes;
    }
  };

  std::size_t steps_ = 0;
  std::vector<unsigned char> resets_;
  std::vector<std::size_t> stretch_;  // which stretch a step is in
  std::vector<Array> observations_, starts_;
  Array actions_, scores_;
};

}  // namespace xfer::core
