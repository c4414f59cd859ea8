#pragma once

#include <torch/optim/adam.h>

#include <map>
#include <string>

#include "settings/model.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// Adam with the projector's and the predictor's learning rates.
class Optimizer {
 public:
  Optimizer(SegmenterImpl& segmenter, const ModelSettings& settings);

  void zero_grad() { adam_.zero_grad(); }
  void step() { adam_.step(); }

  /// The state for a checkpoint, under names that begin with "optimizer.".
  io::TensorMap state();

  /// @throws std::runtime_error naming `source` where a parameter's state is missing or of another shape.
  void load_state(const io::TensorMap& tensors, const std::string& source);

 private:
  torch::optim::Adam adam_;
  std::map<std::string, Tensor> parameters_;
};

}  // namespace smooseg::app
