#pragma once

#include <torch/types.h>

namespace smooseg {

using torch::Tensor;

}  // namespace smooseg
