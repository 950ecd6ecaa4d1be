#include "policy.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "plugins.hpp"

namespace xfer::core {
namespace {

constexpr std::size_t MOST_ROWS = 1 << 16;

std::vector<Tensor> inputs_of(const Spec &spec) {
  std::vector<Tensor> inputs = spec.observations;
  inputs.insert(inputs.end(), spec.states.begin(), spec.states.end());
  return inputs;
}

std::vector<Tensor> outputs_of(const Spec &spec) {
  std::vector<Tensor> outputs{spec.action, spec.scores};
  for (Tensor state : spec.states) {
    state.name += "_out";
    outputs.push_back(state);
  }
  return outputs;
}

// 64-bit words that hold so many bytes.
std::size_t words(std::size_t bytes) { return (bytes + sizeof(std::int64_t) - 1) / sizeof(std::int64_t); }

void *open_session(const xfer_plugin &plugin, const xfer_plugin_request &request, const std::string &variant) {
  xfer_plugin_error error{XFER_FAILED, ""};
  void *session = plugin.open(&request, &error);
  if (session == nullptr) throw Error(error.code, variant + ": " + error.text);
  return session;
}

}  // namespace

TensorViews::TensorViews(const std::vector<Tensor> &tensors) : elements_(tensors.size()) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor &tensor = tensors[i];
    for (const std::string &element : tensor.elements) elements_[i].push_back(element.c_str());
    views_.push_back({tensor.name.c_str(), tensor.dtype, tensor.shape.size(), tensor.shape.data(), tensor.row_bytes(),
                      tensor.unit.c_str(), tensor.color_order.c_str(), elements_[i].size(), elements_[i].data(),
                      tensor.low.empty() ? nullptr : tensor.low.data(),
                      tensor.high.empty() ? nullptr : tensor.high.data()});
  }
}

Policy::Policy(const std::string &bundle, const std::string &variant, const xfer_options &options)
    : bundle_(bundle),
      input_tensors_(inputs_of(bundle_.manifest().spec)),
      output_tensors_(outputs_of(bundle_.manifest().spec)),
      inputs_(input_tensors_),
      outputs_(output_tensors_),
      input_pointers_(inputs_.size()),
      output_pointers_(outputs_.size()) {
  const Choice choice = choose_plugin(variant);
  const Build &build = bundle_.build(variant);
  if (options.threads < 1) throw usage_error("threads must be at least 1.");
  const std::vector<CheckedFile> files = bundle_.read(build);
  std::vector<xfer_plugin_file> views;
  for (const CheckedFile &file : files) views.push_back({file.name.c_str(), file.data.data(), file.data.size()});
  plugin_ = &load_plugin(choice.plugin, options.plugin_dir);
  const xfer_plugin_request request{choice.place.c_str(), options.threads, options.spin,   options.library,
                                    views.size(),         views.data(),    inputs_.size(), inputs_.data(),
                                    outputs_.size(),      outputs_.data()};
  session_ = {open_session(*plugin_, request, variant), CloseSession{plugin_}};
  max_batch_ = build.max_batch;
}

void Policy::check_batch(std::size_t batch) const {
  const std::size_t most = max_batch_ > 0 ? static_cast<std::size_t>(max_batch_) : MOST_ROWS;
  if (batch < 1 || batch > most) {
    throw usage_error("A batch of " + std::to_string(batch) + " does not fit: this variant takes 1 to " +
                      std::to_string(most) + ".");
  }
}

void check_buffer(const xfer_tensor &tensor, std::size_t batch, const void *data, std::size_t bytes) {
  if (data == nullptr || bytes != batch * tensor.row_bytes) {
    throw Error(XFER_OBSERVATION, std::string("The buffer of '") + tensor.name + "' has " +
                                      std::to_string(data == nullptr ? 0 : bytes) + " bytes, expected " +
                                      std::to_string(batch * tensor.row_bytes) + ": a batch of " +
                                      std::to_string(batch) + ".");
  }
}

void Policy::check_observations(std::size_t batch, const xfer_input *observations) const {
  if (observations == nullptr) throw usage_error("observations is NULL.");
  for (std::size_t i = 0; i < observation_count(); ++i) {
    check_buffer(inputs_[i], batch, observations[i].data, observations[i].bytes);
  }
}

void Policy::run(std::size_t batch, const void *const *inputs, void *const *outputs) {
  xfer_plugin_error error{XFER_FAILED, ""};
  const xfer_code code = plugin_->step(session_.get(), batch, inputs, outputs, &error);
  if (code != XFER_OK) throw Error(code, error.text);
  check_finite(static_cast<const float *>(outputs[1]), batch, inputs);
}

void Policy::check_finite(const float *scores, std::size_t batch, const void *const *inputs) const {
  const auto bad = [batch](const xfer_tensor &tensor, const float *data) {  // index of the first, or -1
    const std::size_t count = batch * tensor.row_bytes / sizeof(float);
    const float *found = std::find_if(data, data + count, [](float value) { return !std::isfinite(value); });
    return found == data + count ? std::ptrdiff_t{-1} : found - data;
  };
  const std::ptrdiff_t score = bad(outputs_[1], scores);
  if (score < 0) return;
  for (std::size_t i = 0; i < observation_count(); ++i) {
    if (inputs_[i].dtype != XFER_FLOAT32) continue;
    const auto *data = static_cast<const float *>(inputs[i]);
    const std::ptrdiff_t at = bad(inputs_[i], data);
    if (at < 0) continue;
    throw Error(XFER_OBSERVATION, std::string("Observation '") + inputs_[i].name + "' holds " +
                                      std::to_string(data[at]) + ", of which the policy makes no action.");
  }
  const bool masks = outputs_[0].dtype == XFER_INT64 && std::isinf(scores[score]) && scores[score] < 0;
  throw Error(XFER_NOT_FINITE,
              std::string("The policy's scores are not finite: one is ") + std::to_string(scores[score]) +
                  (masks ? ". Is that a mask? Let it be a finite number: -1e8, or -6e4 where fp16 computes it."
                         : ". The fault is in the policy's weights, or in what this variant computes with them."));
}

void Policy::step(std::size_t batch, const xfer_input *observations, const xfer_input *states, xfer_output action,
                  xfer_output scores, const xfer_output *next_states) {
  check_batch(batch);
  check_observations(batch, observations);
  check_buffer(outputs_[0], batch, action.data, action.bytes);
  check_buffer(outputs_[1], batch, scores.data, scores.bytes);
  if (state_count() > 0 && (states == nullptr || next_states == nullptr)) throw usage_error("states are missing.");
  for (std::size_t i = 0; i < observation_count(); ++i) input_pointers_[i] = observations[i].data;
  for (std::size_t i = 0; i < state_count(); ++i) {
    check_buffer(inputs_[observation_count() + i], batch, states[i].data, states[i].bytes);
    check_buffer(outputs_[2 + i], batch, next_states[i].data, next_states[i].bytes);
    input_pointers_[observation_count() + i] = states[i].data;
    output_pointers_[2 + i] = next_states[i].data;
  }
  // Only what was found to be finite reaches the caller.
  action_.resize(std::max(action_.size(), words(action.bytes)));
  scores_.resize(std::max(scores_.size(), scores.bytes / sizeof(float)));
  output_pointers_[0] = action_.data();
  output_pointers_[1] = scores_.data();
  run(batch, input_pointers_.data(), output_pointers_.data());
  std::memcpy(action.data, action_.data(), action.bytes);
  std::memcpy(scores.data, scores_.data(), scores.bytes);
}

Runner::Runner(std::shared_ptr<Policy> policy, std::size_t batch)
    : policy_(std::move(policy)), batch_(batch), inputs_(policy_->inputs().size()), outputs_(policy_->outputs().size()) {
  policy_->check_batch(batch);
  if (const xfer_plugin &plugin = policy_->plugin(); plugin.runner_open != nullptr) {
    xfer_plugin_error error{XFER_FAILED, ""};
    own_ = {plugin.runner_open(policy_->session(), batch, &error), CloseRunner{&plugin}};
    if (!own_) throw Error(error.code, error.text);
  }
  for (std::size_t i = 0; !own_ && i < policy_->state_count(); ++i) {
    const std::size_t count = batch * policy_->outputs()[2 + i].row_bytes / sizeof(float);
    for (auto &set : states_) set.emplace_back(count, 0.0F);
  }
  action_.resize(words(batch * policy_->outputs()[0].row_bytes));
  scores_.resize(batch * policy_->outputs()[1].row_bytes / sizeof(float));
  outputs_[0] = action_.data();
  outputs_[1] = scores_.data();
}

void Runner::reset(const std::uint8_t *mask, std::size_t rows) {
  if (mask != nullptr && rows != batch_) {
    throw Error(XFER_OBSERVATION,
                "The reset mask has " + std::to_string(rows) + " rows, expected " + std::to_string(batch_) + ".");
  }
  if (own_) {
    xfer_plugin_error error{XFER_FAILED, ""};
    const xfer_code code = policy_->plugin().runner_reset(own_.get(), mask, &error);
    if (code != XFER_OK) throw Error(code, error.text);
  }
  for (auto &state : states_[now_]) {
    const std::size_t row = state.size() / batch_;
    for (std::size_t i = 0; i < batch_; ++i) {
      if (mask == nullptr || mask[i] != 0) std::fill_n(state.begin() + static_cast<std::ptrdiff_t>(i * row), row, 0.0F);
    }
  }
}

void Runner::start(std::size_t row, const xfer_input *states) {
  if (row >= batch_) throw usage_error("There is no row " + std::to_string(row) + ".");
  const std::size_t count = policy_->state_count();
  if (count > 0 && states == nullptr) throw usage_error("states are missing.");
  std::vector<const float *> rows;
  for (std::size_t i = 0; i < count; ++i) {
    check_buffer(policy_->outputs()[2 + i], 1, states[i].data, states[i].bytes);
    rows.push_back(static_cast<const float *>(states[i].data));
  }
  if (own_) {
    xfer_plugin_error error{XFER_FAILED, ""};
    const xfer_code code = policy_->plugin().runner_start(own_.get(), row, rows.data(), &error);
    if (code != XFER_OK) throw Error(code, error.text);
  }
  for (std::size_t i = 0; i < states_[now_].size(); ++i) {
    auto &state = states_[now_][i];
    const std::size_t size = state.size() / batch_;
    std::copy_n(rows[i], size, state.begin() + static_cast<std::ptrdiff_t>(row * size));
  }
}

void Runner::act(const xfer_input *observations, xfer_output action, xfer_output scores) {
  const std::size_t count = policy_->observation_count();
  policy_->check_observations(batch_, observations);
  check_buffer(policy_->outputs()[0], batch_, action.data, action.bytes);
  if (scores.data != nullptr) check_buffer(policy_->outputs()[1], batch_, scores.data, scores.bytes);
  for (std::size_t i = 0; i < count; ++i) inputs_[i] = observations[i].data;
  if (own_) {
    xfer_plugin_error error{XFER_FAILED, ""};
    const xfer_code code =
        policy_->plugin().runner_act(own_.get(), inputs_.data(), action_.data(), scores_.data(), &error);
    if (code != XFER_OK) throw Error(code, error.text);
    policy_->check_finite(scores_.data(), batch_, inputs_.data());
    policy_->plugin().runner_keep(own_.get());
  } else {
    for (std::size_t i = 0; i < policy_->state_count(); ++i) {
      inputs_[count + i] = states_[now_][i].data();
      outputs_[2 + i] = states_[1 - now_][i].data();
    }
    policy_->run(batch_, inputs_.data(), outputs_.data());
    now_ = 1 - now_;
  }
  std::memcpy(action.data, action_.data(), action.bytes);
  if (scores.data != nullptr) std::memcpy(scores.data, scores_.data(), scores.bytes);
}

}  // namespace xfer::core
