#include "model/optimizer.hpp"

#include <memory>
#include <stdexcept>
#include <utility>

namespace smooseg::app {
namespace {

torch::optim::OptimizerParamGroup group(const torch::nn::Module& module, double rate) {
  return {module.parameters(), std::make_unique<torch::optim::AdamOptions>(rate)};
}

}  // namespace

Optimizer::Optimizer(SegmenterImpl& segmenter, const ModelSettings& s)
    : adam_({group(*segmenter.projector, s.projector_rate), group(*segmenter.predictor, s.predictor_rate)},
            torch::optim::AdamOptions(s.projector_rate)) {
  for (const auto& item : segmenter.projector->named_parameters())
    parameters_["projector." + item.key()] = item.value();
  for (const auto& item : segmenter.predictor->named_parameters())
    parameters_["predictor." + item.key()] = item.value();
}

io::TensorMap Optimizer::state() {
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

void Optimizer::load_state(const io::TensorMap& tensors, const std::string& source) {
  for (const auto& [name, parameter] : parameters_) {
    const auto tensor = [&, &name = name, &parameter = parameter](const std::string& part) {
      const auto found = tensors.find("optimizer." + name + "." + part);
      if (found == tensors.end() || (part != "step" && found->second.sizes() != parameter.sizes())) {
        throw std::runtime_error(source + ": cannot resume: the optimiser's state of '" + name +
                                 "' is missing or of another shape");
      }
      return found->second;
    };
    auto state = std::make_unique<torch::optim::AdamParamState>();
    state->step(tensor("step").item<int64_t>());
    state->exp_avg(tensor("exp_avg").to(parameter.options()));
    state->exp_avg_sq(tensor("exp_avg_sq").to(parameter.options()));
    adam_.state()[smooseg::detail::optimizer_key(adam_.state(), parameter)] = std::move(state);
  }
}

}  // namespace smooseg::app
