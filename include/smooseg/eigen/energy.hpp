#pragma once

// Eqs. 2 to 7, values and gradients, in Eigen alone and for any scalar: for programs without LibTorch. Time and memory
// are linear in the number of patches.

#include <Eigen/Core>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/eigen/detail/columns.hpp"
#include "smooseg/eigen/matrix.hpp"
#include "smooseg/options.hpp"

namespace smooseg::eigen {

/// The settings of Eqs. 2 to 7, those of the LibTorch form by default.
struct EnergyOptions {
  double within_threshold = kWithinThreshold;  ///< b of the pairs within an image
  double across_threshold = kAcrossThreshold;  ///< b of the pairs of an image and its partner
  double temperature = kTemperature;           ///< tau of Eq. 5
  Centering centering = Centering::kRowKeepMean;
  Reduction reduction = Reduction::kMean;

  /// The equations as printed: rows centred, sums over batch and pairs.
  static EnergyOptions paper() {
    EnergyOptions options;
    options.centering = Centering::kRow;
    options.reduction = Reduction::kSum;
    return options;
  }
};

/// Eq. 7 and its parts: total = within + across + data.
template <class Scalar>
struct Energy {
  Scalar total, within, across, data;
};

/// The gradient of the total. The smoothness terms give that to the code (the data term takes it as it is), the data
/// term that to the student's prototypes.
template <class Scalar>
struct EnergyGradient {
  std::vector<Matrix<Scalar>> code;  ///< of each image, (D,N)
  Matrix<Scalar> student;            ///< (K,D)
};

namespace detail {

/// The inputs of `energy`.
template <class Scalar>
struct EnergyInputs {
  const std::vector<Matrix<Scalar>>& features;
  const std::vector<Matrix<Scalar>>& code;
  const Matrix<Scalar>& student;
  const Matrix<Scalar>& teacher;
  const std::vector<int>& pairing;
  const EnergyOptions& options;

  static constexpr auto kName = "energy";

  void check() const {
    const std::size_t batch = features.size();
    if (batch == 0 || code.size() != batch || pairing.size() != batch) {
      fail(kName, "expected features, code and pairing of one number of images, at least 1, got " +
                      std::to_string(batch) + ", " + std::to_string(code.size()) + " and " +
                      std::to_string(pairing.size()));
    }
    if (student.size() == 0 || teacher.rows() != student.rows() || teacher.cols() != student.cols()) {
      fail(kName, "expected student and teacher of one shape (K,D), with no dimension of size 0, got " +
                      shape_of(student) + " and " + shape_of(teacher));
    }
    const Eigen::Index channels = features[0].rows(), patches = features[0].cols();
    for (std::size_t i = 0; i < batch; ++i) {
      const std::string index = "[" + std::to_string(i) + "]";
      if (features[i].size() == 0 || features[i].rows() != channels || features[i].cols() != patches) {
        fail(kName, "expected features" + index +
                        " of shape (C,N), with no dimension of size 0 and as those of image 0 " +
                        shape_of(features[0]) + ", got " + shape_of(features[i]));
      }
      if (code[i].rows() != student.cols() || code[i].cols() != patches) {
        fail(kName, "expected code" + index + " of shape (D,N) for prototypes " + shape_of(student) + " and features " +
                        shape_of(features[i]) + ", got " + shape_of(code[i]));
      }
      if (pairing[i] < 0 || static_cast<std::size_t>(pairing[i]) >= batch) {
        fail(kName, "expected pairing" + index + " of 0 to " + std::to_string(batch - 1) + ", got " +
                        std::to_string(pairing[i]));
      }
    }
    if (!(options.temperature > 0) || !is_finite(options.temperature)) {
      fail(kName, "expected a temperature above 0, got " + std::to_string(options.temperature));
    }
    if (!is_finite(options.within_threshold) || !is_finite(options.across_threshold)) {
      fail(kName, "expected finite thresholds, got " + std::to_string(options.within_threshold) + " and " +
                      std::to_string(options.across_threshold));
    }
  }
};

/// What an image adds to the sums over pairs. With unit vectors x and a of N patches,
///
///     G = sum_p x_p a_p^T,   s = sum_p a_p,   m = (1/N) sum_p x_p,   H = G - m s^T.
template <class Scalar>
struct Moments {
  Matrix<Scalar> g;        ///< G, (C,K)
  Vector<Scalar> mean, s;  ///< m, (C), and s, (K)

  /// H, or G where W is not centred.
  Matrix<Scalar> h(bool centered) const { return centered ? Matrix<Scalar>(g - mean * s.transpose()) : g; }
};

/// What the gradient of an image's code takes from the forward pass.
template <class Scalar>
struct Patches {
  Matrix<Scalar> assignments;                                ///< a of Eq. 5, the teacher's, (K,N)
  Row<Scalar> features_scale, code_scale, assignment_scale;  ///< 1/|x|, 1/|z| and 1/|a| of each patch
};

/// The sums over all pairs of an image and itself, or its partner, of (1 - delta) W or Wc, of delta and of W.
template <class Scalar>
struct PairSums {
  Scalar close{0}, delta{0}, raw{0};

  void add(const Moments<Scalar>& i, const Moments<Scalar>& j, const Scalar& patches, bool centered) {
    close += i.g.cwiseProduct(j.h(centered)).sum();
    delta += patches * patches - i.s.dot(j.s);
    raw += patches * patches * i.mean.dot(j.mean);
  }
};

/// Eq. 7 over a batch.
template <class Scalar>
class EnergyOfBatch {
 public:
  EnergyOfBatch(const EnergyInputs<Scalar>& inputs, EnergyGradient<Scalar>* gradient)
      : in_(inputs),
        gradient_(gradient),
        centered_(inputs.options.centering != Centering::kNone),
        patches_(Scalar(static_cast<double>(inputs.features[0].cols()))),
        images_(Scalar(static_cast<double>(inputs.features.size()))),
        mean_(inputs.options.reduction == Reduction::kMean),
        sharpness_(Scalar(1) / Scalar(inputs.options.temperature)),
        student_(unit_rows(inputs.student, inputs.kName, "student")),
        teacher_(unit_rows(inputs.teacher, inputs.kName, "teacher")) {}

  Energy<Scalar> run() {
    Energy<Scalar> energy{Scalar(0), Scalar(0), Scalar(0), Scalar(0)};
    if (gradient_ != nullptr) gradient_->student.setZero(student_.rows(), student_.cols());
    for (std::size_t i = 0; i < in_.features.size(); ++i) energy.data += add_image(i);
    const Scalar of_patches = mean_ ? Scalar(1) / (images_ * patches_) : Scalar(1);
    energy.data *= of_patches;

    PairSums<Scalar> within, across;
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      within.add(moments_[i], moments_[i], patches_, centered_);
      across.add(moments_[i], partner_of(i), patches_, centered_);
    }
    // sum (Wc - b) delta; adding the mean of W back to Wc only shifts b.
    const Scalar pairs = images_ * patches_ * patches_, of_pairs = mean_ ? Scalar(1) / pairs : Scalar(1);
    const bool keeps_mean = in_.options.centering == Centering::kRowKeepMean;
    const auto shifted = [&](double threshold, const PairSums<Scalar>& sums) {
      return keeps_mean ? Scalar(threshold) - sums.raw / pairs : Scalar(threshold);
    };
    const Scalar b_within = shifted(in_.options.within_threshold, within);
    const Scalar b_across = shifted(in_.options.across_threshold, across);
    const auto value = [&](const PairSums<Scalar>& sums, const Scalar& b) {
      return of_pairs * ((centered_ ? Scalar(0) : sums.raw) - sums.close - b * sums.delta);
    };
    energy.within = value(within, b_within);
    energy.across = value(across, b_across);
    energy.total = energy.within + energy.across + energy.data;

    if (gradient_ != nullptr) {
      gradient_->code.resize(moments_.size());
      for (std::size_t i = 0; i < moments_.size(); ++i) {
        gradient_->code[i] = code_gradient(i, b_within, b_across, of_pairs);
      }
      finish_student_gradient(of_patches);
    }
    return energy;
  }

 private:
  const Moments<Scalar>& partner_of(std::size_t i) const { return moments_[static_cast<std::size_t>(in_.pairing[i])]; }

  /// Keeps an image's moments. @return the sum of its patches' cross-entropies, Eq. 6.
  Scalar add_image(std::size_t i) {
    const std::string index = "[" + std::to_string(i) + "]";
    Patches<Scalar> patches;
    patches.code_scale = inverse_norms(in_.code[i], in_.kName, "code" + index);
    patches.features_scale = inverse_norms(in_.features[i], in_.kName, "features" + index);
    const auto cosines = [&](const Matrix<Scalar>& prototypes) {
      return Matrix<Scalar>(prototypes * in_.code[i] * patches.code_scale.asDiagonal());
    };
    patches.assignments = cosines(teacher_);
    const Scalar data = cross_entropy(cosines(student_), patches.assignments, in_.code[i], patches.code_scale);
    softmax_columns(patches.assignments, sharpness_);
    patches.assignment_scale = inverse_norms(patches.assignments, in_.kName, "assignments" + index);

    // One product gives G and, by a row of ones below the assignments, N m.
    const Eigen::Index classes = patches.assignments.rows();
    Matrix<Scalar> right(classes + 1, patches.assignments.cols());
    right.topRows(classes) = patches.assignments * patches.assignment_scale.asDiagonal();
    right.row(classes).setOnes();
    Moments<Scalar> moments;
    moments.s = right.topRows(classes).rowwise().sum();
    right.array().rowwise() *= patches.features_scale.array();
    const Matrix<Scalar> product = in_.features[i] * right.transpose();
    moments.g = product.leftCols(classes);
    moments.mean = product.col(classes) / patches_;
    moments_.push_back(std::move(moments));
    if (gradient_ != nullptr) patches_of_.push_back(std::move(patches));
    return data;
  }

  /// The sum of the cross-entropies of the student against the teacher's most similar class (of equal ones the first).
  /// Adds to the gradient of the student's unit prototypes.
  Scalar cross_entropy(Matrix<Scalar> student, const Matrix<Scalar>& teacher, const Matrix<Scalar>& code,
                       const Row<Scalar>& code_scale) {
    const Matrix<Scalar> logits = student;
    Scalar sum = softmax_columns(student, Scalar(1)).sum();
    for (Eigen::Index p = 0; p < student.cols(); ++p) {
      const Eigen::Index label = greatest_row(teacher.col(p));
      sum -= logits(label, p);
      student(label, p) -= Scalar(1);
    }
    if (gradient_ != nullptr) gradient_->student += student * code_scale.asDiagonal() * code.transpose();
    return sum;
  }

  /// Of the unit prototypes to that of the prototypes.
  void finish_student_gradient(const Scalar& of_patches) {
    const Matrix<Scalar> columns = in_.student.transpose();
    Matrix<Scalar> grad = of_patches * gradient_->student.transpose();
    unit_backward(columns, inverse_norms(columns, in_.kName, "student"), grad);
    gradient_->student = grad.transpose();
  }

  /// With S the images whose partner is i, and j the partner of i, before the reduction:
  ///
  ///     dL/dG = -(H_i + G_i + H_j + sum_S G_k),
  ///     dL/ds = m_i^T (G_i + sum_S G_k) + 2 b_within s_i + b_across (s_j + sum_S s_k),
  ///     dL/da_p = x_p^T dL/dG + dL/ds,   where without centring H is G, and m counts as 0.
  Matrix<Scalar> code_gradient(std::size_t i, const Scalar& b_within, const Scalar& b_across, const Scalar& of_pairs) {
    const Moments<Scalar>&own = moments_[i], &partner = partner_of(i);
    Matrix<Scalar> g = own.g;
    Vector<Scalar> s = partner.s;
    for (std::size_t k = 0; k < moments_.size(); ++k) {
      if (static_cast<std::size_t>(in_.pairing[k]) != i) continue;
      g += moments_[k].g;
      s += moments_[k].s;
    }
    Vector<Scalar> of_s = Scalar(2) * b_within * own.s + b_across * s;
    if (centered_) of_s += g.transpose() * own.mean;
    const Matrix<Scalar> of_g = g + own.h(centered_) + partner.h(centered_);

    const Patches<Scalar>& patches = patches_of_[i];
    Matrix<Scalar> grad = of_g.transpose() * in_.features[i];
    grad.array().rowwise() *= -patches.features_scale.array();
    grad.colwise() += of_s;
    grad *= of_pairs;
    unit_backward(patches.assignments, patches.assignment_scale, grad);
    softmax_backward(patches.assignments, sharpness_, grad);
    Matrix<Scalar> of_code = teacher_.transpose() * grad;
    unit_backward(in_.code[i], patches.code_scale, of_code);
    return of_code;
  }

  const EnergyInputs<Scalar>& in_;
  EnergyGradient<Scalar>* gradient_;
  bool centered_;
  Scalar patches_, images_;  // N and B
  bool mean_;
  Scalar sharpness_;                  // 1 / tau
  Matrix<Scalar> student_, teacher_;  // (K,D), rows of length 1
  std::vector<Moments<Scalar>> moments_;
  std::vector<Patches<Scalar>> patches_of_;
};

}  // namespace detail

/// Eq. 7, the energy that training minimises, with its gradient where it is asked for: the same value and gradient as
/// `smooseg::EnergyLoss` of a `smooseg::PrototypePredictor`'s logits. O(B N K (C + D)) time; beside the inputs it holds
/// B K N numbers of the assignments and B C K of the sums over patches.
/// @tparam Scalar float, double, or any real type that Eigen takes as one, such as long double or a dual number.
/// @param features x, a matrix (C,N) for each of B images: C channels, N patches, the same for all.
/// @param code z, a matrix (D,N) for each image.
/// @param student, teacher the prototypes Ps and Pt, (K,D).
/// @param pairing image i is compared with image pairing[i], of 0 to B - 1.
/// @param gradient where to write the gradient; its matrices take the right sizes.
/// @throws std::invalid_argument for sizes that do not fit, options out of range, and values that are not finite.
template <class Scalar>
Energy<Scalar> energy(const std::vector<Matrix<Scalar>>& features, const std::vector<Matrix<Scalar>>& code,
                      const Matrix<Scalar>& student, const Matrix<Scalar>& teacher, const std::vector<int>& pairing,
                      const EnergyOptions& options = {}, EnergyGradient<Scalar>* gradient = nullptr) {
  const detail::EnergyInputs<Scalar> inputs{features, code, student, teacher, pairing, options};
  inputs.check();
  return detail::EnergyOfBatch<Scalar>(inputs, gradient).run();
}

}  // namespace smooseg::eigen
