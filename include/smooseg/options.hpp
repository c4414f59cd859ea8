#pragma once

// What the losses of either linear algebra, LibTorch's and Eigen's, let their user choose. Needs neither.

namespace smooseg {

/// What is subtracted from the raw closeness W of two images' patches (the text after Eq. 2).
enum class Centering {
  kNone,         ///< W as it is.
  kRow,          ///< W[p,q] - mean_q W[p,q]: the paper's form.
  kRowKeepMean,  ///< As `kRow`, plus the mean of the whole raw W (over batch and pairs): the published program's form.
};

/// How Eq. 4 is evaluated. Both ways give the same value and gradient to rounding.
enum class Evaluation {
  kAuto,        ///< Factorised where both policies are inner products of embeddings, else pairwise.
  kFactorized,  ///< O(N C K) time, no N x N matrix.
  kPairwise,    ///< O(N^2 (C + K)) time, in blocks of bounded memory; for any policy.
};

/// Whether Eq. 4 sums over batch and pairs (the paper) or averages (the published program).
enum class Reduction { kMean, kSum };

/// Lower bound of a vector's norm wherever vectors are divided by it: a zero vector is close to nothing.
constexpr double kNormEps = 1e-10;

/// The published program's settings for Cityscapes, the defaults of the losses: b of the pairs within an image and of
/// those of an image and its partner (Eq. 4), and tau, the teacher's softmax temperature (Eq. 5).
constexpr double kWithinThreshold = -0.02, kAcrossThreshold = 0.5, kTemperature = 0.1;

/// The thresholds b of Eq. 4: closeness above which patches of one image, and of two, are pulled together.
struct Thresholds {
  double within = kWithinThreshold, across = kAcrossThreshold;
};

}  // namespace smooseg
