#pragma once

// How a trained model's label penalty is distributed (appendix A, Fig. 8).

#include <cstdint>
#include <vector>

#include "report/gallery.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// Shares of pairs of patches by their penalty, in bins of equal width from 0 to 1.
struct PenaltyShares {
  std::vector<double> within;  ///< of pairs in one picture
  std::vector<double> across;  ///< of a picture and the next one, of the last and the first; empty for a single picture
};

/// How many pairs of patches have a penalty in each bin: (bins) float64, since there may be more than 2^24 of them.
/// @param a, b soft assignments (B,K,N) on the CPU; each image of `a` is paired with that of `b`.
Tensor penalty_counts(const Tensor& a, const Tensor& b, int64_t bins);

/// Each bin's share of all. @param counts (bins) float64, on the CPU.
std::vector<double> shares_in(const Tensor& counts);

/// Counts every pair of patches of a gallery's pictures.
/// @param segmenter in evaluation mode, on `device`. @param temperature tau, as it was trained with.
/// @throws std::runtime_error where no picture has a whole patch.
PenaltyShares penalty_shares(const Gallery& gallery, SegmenterImpl& segmenter, double temperature, torch::Device device,
                             int64_t bins);

}  // namespace smooseg::app
