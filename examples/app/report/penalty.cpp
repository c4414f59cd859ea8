#include "report/penalty.hpp"

#include <torch/types.h>

#include <cstddef>
#include <stdexcept>

#include "report/patches.hpp"
#include "smooseg/penalty.hpp"
#include "smooseg/predictor.hpp"

namespace smooseg::app {

Tensor penalty_counts(const Tensor& a, const Tensor& b, int64_t bins) {
  return at::histc(functional::label_penalty(a, b).clamp(0, 1), bins, 0, 1).to(torch::kFloat64);
}

std::vector<double> shares_in(const Tensor& counts) {
  const Tensor shares = (counts / counts.sum()).contiguous();
  const auto* const values = shares.data_ptr<double>();
  return {values, values + shares.numel()};
}

PenaltyShares penalty_shares(const Gallery& gallery, SegmenterImpl& segmenter, double temperature, torch::Device device,
                             int64_t bins) {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> assignments;  // (1,K,N) each, on the CPU
  for (const GalleryPicture& picture : gallery.pictures) {
    const auto maps = patch_maps(segmenter, picture.pixels, device);
    if (!maps) continue;
    const Tensor logits = functional::prototype_logits(segmenter.predictor->teacher, maps->code);
    assignments.push_back(
        functional::soft_assignments(logits, temperature).flatten(2).to(torch::kCPU, torch::kFloat32));
  }
  if (assignments.empty()) throw std::runtime_error("expected pictures of at least a patch, found none");
  Tensor within = torch::zeros({bins}, torch::kFloat64), across = torch::zeros({bins}, torch::kFloat64);
  for (std::size_t i = 0; i < assignments.size(); ++i) {
    within += penalty_counts(assignments[i], assignments[i], bins);
    if (assignments.size() > 1)
      across += penalty_counts(assignments[i], assignments[(i + 1) % assignments.size()], bins);
  }
  return {shares_in(within), assignments.size() > 1 ? shares_in(across) : std::vector<double>{}};
}

}  // namespace smooseg::app
