// An opened variant, and a runner that keeps its states.
#pragma once

#include <xfer/plugin.h>
#include <xfer/xfer.h>

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "golden.hpp"

namespace xfer::core {

// xfer_tensor views of tensors, which must outlive them.
class TensorViews {
 public:
  explicit TensorViews(const std::vector<Tensor> &tensors);
  TensorViews(const TensorViews &) = delete;
  TensorViews &operator=(const TensorViews &) = delete;

  std::size_t size() const { return views_.size(); }
  const xfer_tensor *data() const { return views_.data(); }
  const xfer_tensor *at(std::size_t index) const { return index < views_.size() ? &views_[index] : nullptr; }
  const xfer_tensor &operator[](std::size_t index) const { return views_[index]; }

 private:
  std::vector<std::vector<const char *>> elements_;
  std::vector<xfer_tensor> views_;
};

class Policy {
 public:
  Policy(const std::string &bundle, const std::string &variant, const xfer_options &options);
  Policy(const Policy &) = delete;
  Policy &operator=(const Policy &) = delete;

  const Spec &spec() const { return bundle_.manifest().spec; }
  std::int64_t max_batch() const { return max_batch_; }
  const char *library() const { return plugin_->library(session_.get()); }
  const TensorViews &inputs() const { return inputs_; }    // observations, then states
  const TensorViews &outputs() const { return outputs_; }  // action, scores, next states
  std::size_t observation_count() const { return spec().observations.size(); }
  std::size_t state_count() const { return spec().states.size(); }
  Golden golden() const { return {bundle_.read_golden(), spec(), "golden.safetensors.gz"}; }

  // Throws XFER_USAGE if the variant does not take this batch.
  void check_batch(std::size_t batch) const;
  void check_observations(std::size_t batch, const xfer_input *observations) const;

  const xfer_plugin &plugin() const { return *plugin_; }
  void *session() const { return session_.get(); }

  // Throws XFER_NOT_FINITE, or XFER_OBSERVATION where an observation is not finite either.
  void check_finite(const float *scores, std::size_t batch, const void *const *inputs) const;

  // Run once on buffers of the right size, in the order of inputs() and outputs(). Throws XFER_NOT_FINITE.
  void run(std::size_t batch, const void *const *inputs, void *const *outputs);

  // What xfer_policy_step does.
  void step(std::size_t batch, const xfer_input *observations, const xfer_input *states, xfer_output action,
            xfer_output scores, const xfer_output *next_states);

 private:
  struct CloseSession {
    const xfer_plugin *plugin;
    void operator()(void *session) const { plugin->close(session); }
  };

  Bundle bundle_;
  std::int64_t max_batch_ = 0;
  std::vector<Tensor> input_tensors_, output_tensors_;
  TensorViews inputs_, outputs_;
  const xfer_plugin *plugin_ = nullptr;
  std::unique_ptr<void, CloseSession> session_;
  std::vector<const void *> input_pointers_;
  std::vector<void *> output_pointers_;
  std::vector<std::int64_t> action_;  // int64 or float32, aligned for both
  std::vector<float> scores_;
};

class Runner {
 public:
  Runner(std::shared_ptr<Policy> policy, std::size_t batch);

  void reset(const std::uint8_t *mask, std::size_t rows);
  // Let one row go on from these states, in the spec's order.
  void start(std::size_t row, const xfer_input *states);
  void act(const xfer_input *observations, xfer_output action, xfer_output scores);

 private:
  struct CloseRunner {
    const xfer_plugin *plugin;
    void operator()(void *runner) const { plugin->runner_close(runner); }
  };

  std::shared_ptr<Policy> policy_;
  std::size_t batch_;
  // The backend's own runner where it has one, else the states are kept here.
  std::unique_ptr<void, CloseRunner> own_;
  // Two sets: one is read while the next one is written.
  std::vector<std::vector<float>> states_[2];
  int now_ = 0;
  std::vector<const void *> inputs_;
  std::vector<void *> outputs_;
  std::vector<std::int64_t> action_;
  std::vector<float> scores_;
};

// Throws XFER_OBSERVATION unless a buffer has exactly the bytes of BATCH rows of TENSOR.
void check_buffer(const xfer_tensor &tensor, std::size_t batch, const void *data, std::size_t bytes);

}  // namespace xfer::core
