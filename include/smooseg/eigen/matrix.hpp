#pragma once

#include <Eigen/Core>

namespace smooseg::eigen {

/// A map of the patches of one image: (channels, patches), a column a patch. Stored column by column, so that the
/// (patches, channels) tokens of a vision transformer, row by row, are such a map as they lie in memory.
template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

}  // namespace smooseg::eigen
