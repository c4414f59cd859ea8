#pragma once

#include <torch/optim/adam.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settings/model.hpp"
#include "smooseg/exchange.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// Adam with the projector's and the predictor's learning rates.
class Optimizer {
 public:
  Optimizer(SegmenterImpl& segmenter, const ModelSettings& s)
      : adam_({group(*segmenter.projector, s.projector_rate), group(*segmenter.predictor, s.predictor_rate)},
              torch::optim::AdamOptions(s.projector_rate)) {
    for (const auto& item : segmenter.named_parameters()) {
      const bool learned = item.key().rfind("backbone.", 0) != 0 && item.value().requires_grad();
      if (learned) parameters_[item.key()] = item.value();
    }
  }

  void zero_grad() { adam_.zero_grad(); }
  void step() { adam_.step(); }

  /// Gives all processes the mean of their gradients, which travel as one tensor.
  void average_gradients(Exchange& exchange) {
    std::vector<Tensor> gradients, flat;
    for (const auto& item : parameters_) {
      if (item.second.grad().defined()) gradients.push_back(item.second.grad());
    }
    for (const Tensor& gradient : gradients) flat.push_back(gradient.flatten());
    const Tensor mean = exchange.all_reduce(torch::cat(flat)).div_(exchange.size());
    int64_t first = 0;
    for (Tensor& gradient : gradients) {
      gradient.copy_(mean.narrow(0, first, gradient.numel()).view_as(gradient));
      first += gradient.numel();
    }
  }

  /// The state for a checkpoint, under names that begin with "optimizer.".
  io::TensorMap state() {
    io::TensorMap tensors;
    for (const auto& [name, parameter] : parameters_) {
      const auto found = adam_.state().find(smooseg::detail::optimizer_key(adam_.state(), parameter));
      if (found == adam_.state().end()) continue;  // before the first step
      const auto& state = static_cast<const torch::optim::AdamParamState&>(*found->second);
      const std::string prefix = "optimizer." + name + ".";
      tensors[prefix + "step"] = torch::tensor(state.step(), torch::kInt64);
      tensors[prefix + "exp_avg"] = state.exp_avg();
      tensors[prefix + "exp_avg_sq"] = state.exp_avg_sq();
    }
    return tensors;
  }

  /// @throws c10::Error naming `source` where a parameter's state is missing or of another shape.
  void load_state(const io::TensorMap& tensors, const std::string& source) {
    for (const auto& [name, parameter] : parameters_) {
      const auto tensor = [&, &name = name, &parameter = parameter](const std::string& part) {
        const auto found = tensors.find("optimizer." + name + "." + part);
        TORCH_CHECK(found != tensors.end() && (part == "step" || found->second.sizes() == parameter.sizes()), source,
                    ": cannot resume: the optimiser's state of '", name, "' is missing or of another shape");
        return found->second;
      };
      auto state = std::make_unique<torch::optim::AdamParamState>();
      state->step(tensor("step").item<int64_t>());
      state->exp_avg(tensor("exp_avg").to(parameter.options()));
      state->exp_avg_sq(tensor("exp_avg_sq").to(parameter.options()));
      adam_.state()[smooseg::detail::optimizer_key(adam_.state(), parameter)] = std::move(state);
    }
  }

 private:
  static torch::optim::OptimizerParamGroup group(const torch::nn::Module& module, double rate) {
    return {module.parameters(), std::make_unique<torch::optim::AdamOptions>(rate)};
  }

  torch::optim::Adam adam_;
  std::map<std::string, Tensor> parameters_;  // those that learn, by their names in the segmenter
};

}  // namespace smooseg::app
