#pragma once

// Gaussian filtering of values at any points of a d-dimensional space, in Eigen alone: Adams, Baek and Davis, "Fast
// High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf {

namespace detail {

using smooseg::detail::AlignedBuffer;
using smooseg::detail::Isa;
using smooseg::detail::Wide;

/// A vertex of the simplex around a point, and the point's barycentric coordinate for it. Vertex 0 stands for all that
/// are not there: its values are 0.
template <class Scalar>
struct Corner {
  std::uint32_t vertex;
  Scalar weight;
};

/// A vertex's two neighbours along one axis of the lattice; 0 where there is none.
struct Neighbours {
  std::uint32_t before, after;
};

/// Numbers that a kernel holds in registers: a list of vectors rather than an array, which compilers would put into
/// memory.
template <class Scalar, int lanes, int parts>
struct Registers {
  using First = Wide<Scalar, lanes>;
  First first;
  Registers<Scalar, lanes, parts - 1> rest;

  SMOOSEG_INLINE void clear() {
    first = First{};
    rest.clear();
  }
  SMOOSEG_INLINE void load(const Scalar* from) {
    smooseg::detail::load(first, from);
    rest.load(from + lanes);
  }
  SMOOSEG_INLINE void store(Scalar* to) const {
    smooseg::detail::store(to, first);
    rest.store(to + lanes);
  }
  SMOOSEG_INLINE void multiply(Scalar factor) {
    first = first * factor;
    rest.multiply(factor);
  }
  SMOOSEG_INLINE void add_product(const Registers& other, Scalar factor) {
    first = first + other.first * factor;
    rest.add_product(other.rest, factor);
  }
  /// Raises `largest` to the numbers where they are larger.
  SMOOSEG_INLINE void raise(First& largest) const {
    smooseg::detail::raise<Scalar, lanes>(largest, first);
    rest.raise(largest);
  }
  /// Lowers the numbers to `limit` where they are larger.
  SMOOSEG_INLINE void lower(const First& limit) {
    smooseg::detail::lower<Scalar, lanes>(first, limit);
    rest.lower(limit);
  }
  /// Replaces x by exp(x - shift) and adds that to `sum`.
  SMOOSEG_INLINE void exponentiate(Scalar shift, First& sum) {
    first = first - shift;
    smooseg::detail::exponential<lanes>(first);
    sum = sum + first;
    rest.exponentiate(shift, sum);
  }
};
template <class Scalar, int lanes>
struct Registers<Scalar, lanes, 0> {
  SMOOSEG_INLINE void clear() {}
  SMOOSEG_INLINE void load(const Scalar*) {}
  SMOOSEG_INLINE void store(Scalar*) const {}
  SMOOSEG_INLINE void multiply(Scalar) {}
  SMOOSEG_INLINE void add_product(const Registers&, Scalar) {}
  SMOOSEG_INLINE void raise(Wide<Scalar, lanes>&) const {}
  SMOOSEG_INLINE void lower(const Wide<Scalar, lanes>&) {}
  SMOOSEG_INLINE void exponentiate(Scalar, Wide<Scalar, lanes>&) {}
};

/// `width` channels of one vertex or point.
template <class Scalar, Isa isa, int width>
constexpr int kRowLanes = std::min(width, smooseg::detail::kLanes<Scalar, isa>);
template <class Scalar, Isa isa, int width>
using Row = Registers<Scalar, kRowLanes<Scalar, isa, width>, width / kRowLanes<Scalar, isa, width>>;

/// Channels of a row of values, padded to what kernels are compiled for: 4, 8, 16 or a multiple of 32.
inline std::size_t padded_channels(std::size_t channels) {
  for (const std::size_t width : {std::size_t{4}, std::size_t{8}, std::size_t{16}}) {
    if (channels <= width) return width;
  }
  return (channels + 31) / 32 * 32;
}

/// Calls f(std::integral_constant<int, width>) for the width that rows of `stride` padded channels are worked on in.
template <class F>
void with_width(std::size_t stride, F&& f) {
  if (stride == 4) return f(std::integral_constant<int, 4>());
  if (stride == 8) return f(std::integral_constant<int, 8>());
  if (stride == 16) return f(std::integral_constant<int, 16>());
  f(std::integral_constant<int, 32>());
}

/// row += sum over corners of weight * values.
template <int corners, class Row, class Scalar>
SMOOSEG_INLINE void slice_row(Row& row, const Corner<Scalar>* corner, const Scalar* values, std::size_t stride) {
  for (int c = 0; c < corners; ++c) {
    Row value;
    value.load(values + corner[c].vertex * stride);
    row.add_product(value, corner[c].weight);
  }
}

/// values += weight * row, at each corner.
template <int corners, class Row, class Scalar>
SMOOSEG_INLINE void splat_row(const Row& row, const Corner<Scalar>* corner, Scalar* values, std::size_t stride) {
  for (int c = 0; c < corners; ++c) {
    Scalar* const to = values + corner[c].vertex * stride;
    Row value;
    value.load(to);
    value.add_product(row, corner[c].weight);
    value.store(to);
  }
}

/// to[vertex] = from[vertex] + (from[before] + from[after]) / 2.
template <Isa isa, int width, class Scalar>
SMOOSEG_INLINE void blur_row(const Neighbours& at, std::size_t vertex, std::size_t stride, const Scalar* from,
                             Scalar* to) {
  for (std::size_t c = 0; c < stride; c += width) {
    Row<Scalar, isa, width> row, before, after;
    row.load(from + vertex * stride + c);
    before.load(from + at.before * stride + c);
    after.load(from + at.after * stride + c);
    row.add_product(before, Scalar(0.5));
    row.add_product(after, Scalar(0.5));
    row.store(to + vertex * stride + c);
  }
}

/// A step along a chain of vertices that are neighbours along an axis: a vertex, and 1/2 where the next step goes to
/// its neighbour, 0 where another chain begins.
struct Link {
  std::uint32_t vertex;
  float half;
};

template <int width, bool is_one>
struct BlurKernel {
  /// blur_row for all vertices of some chains, in place: along a chain each row is read and written once. Vertices
  /// without a neighbour, which stay as they are, need not be there.
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Link* links, std::size_t count, std::size_t stride_of_many, Scalar* values) {
    const std::size_t stride = is_one ? width : stride_of_many;
    for (std::size_t c = 0; c < stride; c += width) {
      Row<Scalar, isa, width> before, row, after, blurred;
      before.clear();
      Scalar half_before = 0;
      if (count > 0) row.load(values + links[0].vertex * stride + c);
      for (std::size_t i = 0; i < count; ++i) {
        const auto half = static_cast<Scalar>(links[i].half);
        after.load(values + links[i + 1].vertex * stride + c);
        blurred = row;
        blurred.add_product(before, half_before);
        blurred.add_product(after, half);
        blurred.store(values + links[i].vertex * stride + c);
        before = row;
        row = after;
        half_before = half;
      }
    }
  }
};

/// A number of up to 128 bits that names a vertex, for coordinates that do not fit into 64.
struct WideKey {
  std::uint64_t low = 0, high = 0;

  WideKey() = default;
  WideKey(std::uint64_t value) : low(value) {}  // NOLINT: as integers convert
  friend WideKey operator+(WideKey a, WideKey b) {
    WideKey sum;
    sum.low = a.low + b.low;
    sum.high = a.high + b.high + (sum.low < a.low ? 1 : 0);
    return sum;
  }
  friend WideKey operator-(WideKey a, WideKey b) {
    WideKey difference;
    difference.low = a.low - b.low;
    difference.high = a.high - b.high - (a.low < b.low ? 1 : 0);
    return difference;
  }
  /// @param b below 2^32.
  friend WideKey operator*(WideKey a, std::uint64_t b) {
    const std::uint64_t middle = (a.low >> 32) * b + (((a.low & 0xffffffff) * b) >> 32);
    WideKey product;
    product.low = a.low * b;
    product.high = a.high * b + (middle >> 32);
    return product;
  }
  friend bool operator==(WideKey a, WideKey b) { return a.low == b.low && a.high == b.high; }
};
inline std::uint64_t low_bits(std::uint64_t key) {
  return key;
}
inline std::uint64_t low_bits(const WideKey& key) {
  return key.low;
}
inline std::uint64_t mixed_bits(std::uint64_t key) {
  return key * 0x9e3779b97f4a7c15;
}
inline std::uint64_t mixed_bits(const WideKey& key) {
  return (key.low ^ (key.high * 0xc2b2ae3d27d4eb4f)) * 0x9e3779b97f4a7c15;
}

/// The vertices by their keys. Vertices are numbered from 1 in the order in which they come.
///
/// An open-addressing hash table with linear probing, which grows; where all possible keys are few, an array of them.
template <class Key>
class VertexTable {
 public:
  /// @param range all keys are below it. @param expected number of vertices, roughly.
  VertexTable(double range, std::size_t expected) : keys_(1) {
    if (range <= 8 * static_cast<double>(expected)) {
      array_.resize(static_cast<std::size_t>(range));
    } else {
      while ((std::size_t{1} << bits_) < 2 * expected) ++bits_;
      slots_.resize(std::size_t{1} << bits_);
    }
  }

  /// Fetches what `find` will look at, a while before.
  void prefetch(const Key& key) const {
    if (slots_.empty()) return smooseg::detail::prefetch(&array_[low_bits(key)]);
    smooseg::detail::prefetch(&slots_[mixed_bits(key) >> (64 - bits_)]);
  }

  /// The key's vertex, 0 if there is none.
  std::uint32_t find(const Key& key) const {
    return slots_.empty() ? array_[low_bits(key)] : slots_[slot_of(key, mixed_bits(key))].vertex;
  }

  std::uint32_t find_or_add(const Key& key) {
    const auto next = static_cast<std::uint32_t>(keys_.size());
    std::uint32_t vertex = 0;
    if (slots_.empty()) {
      std::uint32_t& entry = array_[low_bits(key)];
      if (entry == 0) entry = next;
      vertex = entry;
    } else {
      const std::uint64_t hash = mixed_bits(key);
      Slot& slot = slots_[slot_of(key, hash)];
      if (slot.vertex == 0) slot = {tag_of(hash), next};
      vertex = slot.vertex;
    }
    if (vertex == next) add(key);
    return vertex;
  }

  /// Number of vertices, with vertex 0.
  std::size_t size() const { return keys_.size(); }
  const Key& key(std::size_t vertex) const { return keys_[vertex]; }

 private:
  /// Part of the key's hash, which tells most keys apart, and its vertex.
  struct Slot {
    std::uint32_t tag = 0, vertex = 0;
  };

  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash); }

  /// Where the key is, or would be.
  std::size_t slot_of(const Key& key, std::uint64_t hash) const {
    std::size_t at = hash >> (64 - bits_);
    while (slots_[at].vertex != 0 && (slots_[at].tag != tag_of(hash) || !(keys_[slots_[at].vertex] == key))) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  void add(const Key& key) {
    if (keys_.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw std::length_error("Permutohedral: more than 2^32 vertices");
    }
    keys_.push_back(key);
    if (slots_.empty() || 2 * keys_.size() <= slots_.size()) return;
    ++bits_;
    slots_.assign(2 * slots_.size(), Slot{});
    for (std::size_t v = 1; v < keys_.size(); ++v) {
      const std::uint64_t hash = mixed_bits(keys_[v]);
      slots_[slot_of(keys_[v], hash)] = {tag_of(hash), static_cast<std::uint32_t>(v)};
    }
  }

  std::vector<Key> keys_;  // by vertex
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> array_;
  int bits_ = 10;
};

/// The simplices around some points. Coordinates are those of the hyperplane in d + 1 dimensions whose points sum to 0;
/// the lattice's have integers there that are all equal modulo d + 1.
template <int d, class Scalar>
struct Simplices {
  static constexpr int kPoints = 64;
  std::int32_t cell[d + 1][kPoints];  ///< of the simplex' vertex of remainder 0: its coordinates over d + 1
  std::int32_t rank[d + 1][kPoints];  ///< of each coordinate of the point seen from there, 0 for the largest
  Scalar rest[d + 1][kPoints];        ///< these coordinates over d + 1
};

template <int d>
struct EmbedKernel {
  /// @param features of kPoints points, feature by feature, in standard deviations.
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Scalar (*features)[Simplices<d, Scalar>::kPoints], const Scalar* scale,
                                 Simplices<d, Scalar>* s) {
    constexpr int kPoints = Simplices<d, Scalar>::kPoints;
    constexpr Scalar kInverse = 1 / Scalar(d + 1);
    Scalar sum[kPoints] = {};
    std::int32_t excess[kPoints] = {};
    // Section 3.1: coordinate j is the sum of the scaled features after j, less j times feature j.
    for (int j = d; j >= 0; --j) {
      for (int i = 0; i < kPoints; ++i) {
        const Scalar scaled = j > 0 ? features[j - 1][i] * scale[j - 1] : 0;
        const Scalar x = sum[i] - Scalar(j) * scaled;
        sum[i] += scaled;
        const Scalar shifted = x * kInverse + Scalar(0.5);
        const auto truncated = static_cast<std::int32_t>(shifted);
        const std::int32_t nearest = truncated - (shifted < static_cast<Scalar>(truncated) ? 1 : 0);
        s->cell[j][i] = nearest;
        s->rest[j][i] = x - static_cast<Scalar>(nearest * (d + 1));
        s->rank[j][i] = 0;
        excess[i] += nearest;
      }
    }
    for (int j = 0; j <= d; ++j) {
      for (int k = j + 1; k <= d; ++k) {
        for (int i = 0; i < kPoints; ++i) {
          const std::int32_t is_lower = s->rest[j][i] < s->rest[k][i] ? 1 : 0;
          s->rank[j][i] += is_lower;
          s->rank[k][i] += 1 - is_lower;
        }
      }
    }
    // Rounding each coordinate may leave the hyperplane; those that were rounded furthest step back.
    for (int j = 0; j <= d; ++j) {
      for (int i = 0; i < kPoints; ++i) {
        const std::int32_t rank = s->rank[j][i] + excess[i];
        const std::int32_t step = rank < 0 ? 1 : rank > d ? -1 : 0;
        s->rank[j][i] = rank + (d + 1) * step;
        s->cell[j][i] += step;
        s->rest[j][i] = (s->rest[j][i] - static_cast<Scalar>(step * (d + 1))) * kInverse;
      }
    }
  }
};

template <int d, int width>
struct SplatKernel {
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Corner<Scalar>* corners, std::size_t points, const Scalar* rows,
                                 Scalar* values) {
    for (std::size_t i = 0; i < points; ++i) {
      Row<Scalar, isa, width> row;
      row.load(rows + i * width);
      splat_row<d + 1>(row, corners + i * (d + 1), values, width);
    }
  }
};

template <int d, int width>
struct SliceKernel {
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Corner<Scalar>* corners, std::size_t points, const Scalar* values, Scalar factor,
                                 Scalar* rows) {
    for (std::size_t i = 0; i < points; ++i) {
      Row<Scalar, isa, width> row;
      row.clear();
      slice_row<d + 1>(row, corners + i * (d + 1), values, width);
      row.multiply(factor);
      row.store(rows + i * width);
    }
  }
};

}  // namespace detail

/// Filters values at n points of a d-dimensional feature space with a Gaussian of standard deviation 1,
///
///     out_i = sum_j exp(-|f_i - f_j|^2 / 2) in_j,
///
/// approximately and in O(n d^2): each point gives its value to the d + 1 vertices of the simplex around it, the values
/// at vertices are blurred along the lattice's d + 1 axes, and each point takes the interpolated sum. Only vertices
/// near points exist. Built once, the lattice serves any number of filterings.
///
/// The kernel is that of the lattice: not quite isotropic, of compact support and, since vertices without points pass
/// nothing on, lower where points are sparse.
template <int d, class Scalar = float>
class Permutohedral {
  static_assert(d >= 1 && d <= 16);

 public:
  /// (n,d): one point a row.
  using Features = Eigen::Array<Scalar, Eigen::Dynamic, d>;
  /// (n,channels): the values of one point a row.
  using Values = Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  /// Vertices of a simplex.
  static constexpr int kCorners = d + 1;

  /// Largest magnitude of a feature: beyond, float32 could not tell where in a cell of the lattice a point lies.
  static constexpr double kLargestFeature = 1 << 22;

  /// What interpolated sums are multiplied with to approximate the Gaussian: its integral (2 pi)^(d/2), over the volume
  /// (3/2)^(d/2) / sqrt(d + 1) of a vertex and the 2^(d+1) by which the blur (1/2, 1, 1/2 along each axis) grows sums.
  static constexpr Scalar scale() {
    double factor = 1;
    for (int axis = 0; axis <= d; ++axis) factor /= 2;
    return static_cast<Scalar>(factor * std::pow(4 * 3.14159265358979323846 / 3, d / 2.0) * std::sqrt(d + 1.0));
  }

  /// What feature j (from 1 on) is multiplied with where points are mapped into the lattice's hyperplane. Rounded as
  /// the published program rounds, so that points on a face of the lattice fall to the same side.
  static Scalar feature_scale(int j) {
    const auto spread = static_cast<Scalar>(std::sqrt(2.0 / 3) * (d + 1));
    return static_cast<Scalar>(1 / std::sqrt(j * (j + 1.0)) * static_cast<double>(spread));
  }

  /// @param features of each point, in standard deviations.
  /// @param isa the instructions that loops use; the machine must have them.
  /// @throws std::invalid_argument for no point, and features that are not finite or beyond `kLargestFeature`.
  explicit Permutohedral(const Eigen::Ref<const Features>& features, detail::Isa isa = smooseg::detail::machine_isa())
      : points_(static_cast<std::size_t>(features.rows())), isa_(isa) {
    if (points_ == 0) throw std::invalid_argument("Permutohedral: expected at least one point, got none");
    const bool is_finite = (features * Scalar(0)).sum() == 0;
    if (!is_finite || features.abs().maxCoeff() > Scalar(kLargestFeature)) {
      throw std::invalid_argument("Permutohedral: expected finite features of at most " +
                                  std::to_string(static_cast<int>(kLargestFeature)) + " standard deviations");
    }
    const Numbering numbering(features);
    if (numbering.range < std::ldexp(1.0, 63)) {
      build<std::uint64_t>(features, numbering);
    } else if (numbering.range < std::ldexp(1.0, 127)) {
      build<detail::WideKey>(features, numbering);
    } else {
      throw std::invalid_argument("Permutohedral: the features' ranges exceed what 128 bits can number");
    }
  }

  /// Number of points n.
  std::size_t points() const { return points_; }
  /// Number of vertices near points.
  std::size_t vertices() const { return vertices_; }

  /// @param values (n,channels). @return (n,channels).
  /// @throws std::invalid_argument for another number of rows.
  Values filter(const Eigen::Ref<const Values>& values) const {
    using Map = Eigen::Map<Values>;
    if (values.rows() != static_cast<Eigen::Index>(points_)) {
      throw std::invalid_argument("Permutohedral::filter: expected values of " + std::to_string(points_) +
                                  " points, got " + std::to_string(values.rows()));
    }
    constexpr Eigen::Index kChannels = 32;
    Values result(values.rows(), values.cols());
    detail::AlignedBuffer<Scalar> rows, vertex_rows;
    const auto links = chains();
    for (Eigen::Index first = 0; first < values.cols(); first += kChannels) {
      const Eigen::Index channels = std::min(kChannels, values.cols() - first);
      detail::with_width(detail::padded_channels(static_cast<std::size_t>(channels)), [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        using smooseg::detail::run_kernel;
        rows.reserve(points_ * kWidth);
        Map padded(rows.data(), values.rows(), kWidth);
        padded.leftCols(channels) = values.middleCols(first, channels);
        padded.rightCols(kWidth - channels).setZero();
        vertex_rows.reserve((vertices_ + 1) * kWidth);
        std::fill_n(vertex_rows.data(), (vertices_ + 1) * kWidth, Scalar(0));
        run_kernel<detail::SplatKernel<d, kWidth>>(isa_, corners(0), points_, rows.data(), vertex_rows.data());
        blur(links, vertex_rows.data(), kWidth);
        run_kernel<detail::SliceKernel<d, kWidth>>(isa_, corners(0), points_, vertex_rows.data(), scale(), rows.data());
        result.middleCols(first, channels) = padded.leftCols(channels);
      });
    }
    return result;
  }

  /// The filter of ones: (n).
  Eigen::Array<Scalar, Eigen::Dynamic, 1> row_sums() const {
    std::vector<Scalar> sums(vertices_ + 1), blurred(vertices_ + 1);
    for (std::size_t i = 0; i < points_ * kCorners; ++i) sums[corners_[i].vertex] += corners_[i].weight;
    for (int axis = 0; axis <= d; ++axis) {
      const detail::Neighbours* const at = neighbours(axis);
      for (std::size_t v = 1; v <= vertices_; ++v) {
        blurred[v] = sums[v] + (sums[at[v].before] + sums[at[v].after]) / 2;
      }
      sums.swap(blurred);
    }
    Eigen::Array<Scalar, Eigen::Dynamic, 1> result(static_cast<Eigen::Index>(points_));
    for (std::size_t i = 0; i < points_; ++i) {
      Scalar sum = 0;
      for (int k = 0; k <= d; ++k) sum += corners(i)[k].weight * sums[corners(i)[k].vertex];
      result[static_cast<Eigen::Index>(i)] = sum * scale();
    }
    return result;
  }

  // What follows is for loops of one's own over points, which keep values at vertices in rows of `stride` channels
  // (`detail::padded_channels`), one row a vertex, from row 1 on.

  /// The simplex around a point and those of the points after it, kCorners each.
  const detail::Corner<Scalar>* corners(std::size_t point) const { return corners_.data() + point * kCorners; }

  /// Points in a block; see `fresh`.
  static constexpr std::size_t kBlock = detail::Simplices<d, Scalar>::kPoints;

  /// Vertices are numbered in the order in which points touch them. For each block of points the first vertex that no
  /// block before touches; those of a block end where the next one's begin.
  const std::size_t* fresh() const { return fresh_.data(); }

  /// Of each vertex, by its number, along one of the d + 1 axes.
  const detail::Neighbours* neighbours(int axis) const {
    return neighbours_.data() + static_cast<std::size_t>(axis) * (vertices_ + 1);
  }

  /// The chains of vertices along each of the d + 1 axes, for `blur`.
  std::vector<std::vector<detail::Link>> chains() const {
    std::vector<std::vector<detail::Link>> result(kCorners);
    std::vector<std::uint32_t> heads(vertices_ + 1);
    for (int axis = 0; axis <= d; ++axis) {
      auto& links = result[static_cast<std::size_t>(axis)];
      links.reserve(vertices_ + 1);
      const detail::Neighbours* const at = neighbours(axis);
      std::size_t count = 0;
      for (std::uint32_t v = 1; v <= vertices_; ++v) {
        heads[count] = v;  // kept or written over, without a branch that could not be foreseen
        count += static_cast<std::size_t>((at[v].before == 0) & (at[v].after != 0));
      }
      for (std::size_t i = 0; i < count; ++i) {
        for (std::uint32_t v = heads[i]; v != 0; v = at[v].after) links.push_back({v, 0.5f});
        links.back().half = 0;
      }
      links.push_back({1, 0});  // what the last step reads beyond its chain
    }
    return result;
  }

  /// Blurs the rows in `values`.
  void blur(const std::vector<std::vector<detail::Link>>& chains, Scalar* values, std::size_t stride) const {
    detail::with_width(stride, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      for (const auto& links : chains) {
        if (stride == std::size_t{kWidth}) {
          smooseg::detail::run_kernel<detail::BlurKernel<kWidth, true>>(isa_, links.data(), links.size() - 1, stride,
                                                                        values);
        } else {
          smooseg::detail::run_kernel<detail::BlurKernel<kWidth, false>>(isa_, links.data(), links.size() - 1, stride,
                                                                         values);
        }
      }
    });
  }

 private:
  /// How vertices are numbered: the integer parts of their coordinates 1 to d, each within a range known from the
  /// features, and their remainder are the digits of a key.
  struct Numbering {
    static constexpr int kRemainderBits = d < 2 ? 1 : d < 4 ? 2 : d < 8 ? 3 : d < 16 ? 4 : 5;
    // Rounding, a vertex of the simplex and its neighbour may each be one off.
    static constexpr int kMargin = 4;

    explicit Numbering(const Eigen::Ref<const Features>& features) : range(1 << kRemainderBits) {
      // From the last coordinate on, bounds of the sum of the scaled features after it.
      double lowest = 0, highest = 0;
      for (int j = d; j >= 1; --j) {
        scale[j - 1] = feature_scale(j);
        const auto low = static_cast<double>(features.col(j - 1).minCoeff() * scale[j - 1]);
        const auto high = static_cast<double>(features.col(j - 1).maxCoeff() * scale[j - 1]);
        first[j] = static_cast<std::int32_t>(std::floor((lowest - j * high) / (d + 1))) - kMargin;
        const auto last = static_cast<std::int32_t>(std::ceil((highest - j * low) / (d + 1))) + kMargin;
        count[j] = static_cast<std::uint64_t>(last - first[j] + 1);
        range *= static_cast<double>(count[j]);
        lowest += low;
        highest += high;
      }
    }

    Scalar scale[d];            // of each feature
    std::int32_t first[d + 1];  // of each coordinate; [0] is not used: coordinates sum to 0
    std::uint64_t count[d + 1];
    double range;  // all keys are below it
  };

  template <class Key>
  void build(const Eigen::Ref<const Features>& features, const Numbering& numbering) {
    // What one more in a coordinate adds to a key.
    Key unit[d + 1] = {};
    Key next = std::uint64_t{1} << Numbering::kRemainderBits;
    for (int j = 1; j <= d; ++j) {
      unit[j] = next;
      next = next * numbering.count[j];
    }
    detail::VertexTable<Key> table(numbering.range, points_ / 2);
    find_corners(features, numbering, unit, table);
    vertices_ = table.size() - 1;
    find_neighbours(unit, table);
  }

  template <class Key>
  void find_corners(const Eigen::Ref<const Features>& features, const Numbering& numbering, const Key (&unit)[d + 1],
                    detail::VertexTable<Key>& table) {
    corners_.reserve(points_ * kCorners);
    fresh_.reserve((points_ + kBlock - 1) / kBlock + 1);
    Scalar block[d][kBlock] = {};
    detail::Simplices<d, Scalar> simplices;
    Key keys[kBlock][kCorners], last[kCorners] = {};
    std::uint32_t last_vertex[kCorners] = {};
    for (std::size_t begin = 0; begin < points_; begin += kBlock) {
      fresh_.push_back(table.size());
      const std::size_t size = std::min(kBlock, points_ - begin);
      for (int j = 0; j < d; ++j) std::copy_n(features.col(j).data() + begin, size, block[j]);
      smooseg::detail::run_kernel<detail::EmbedKernel<d>>(isa_, static_cast<const Scalar(*)[kBlock]>(block),
                                                          numbering.scale, &simplices);
      detail::Corner<Scalar>* const corner = corners_.data() + begin * kCorners;
      for (std::size_t i = 0; i < size; ++i) {
        Key key = 0, step[kCorners];
        Scalar rest[kCorners];
        for (int j = 0; j <= d; ++j) {
          const std::int32_t rank = simplices.rank[j][i];
          rest[rank] = simplices.rest[j][i];
          step[rank] = unit[j];
          if (j > 0) key = key + unit[j] * static_cast<std::uint64_t>(simplices.cell[j][i] - numbering.first[j]);
        }
        detail::Corner<Scalar>* const at = corner + i * kCorners;
        // Section 3.1: towards the vertex of remainder k, the coordinates of the k lowest ranks step down a cell.
        for (int k = 0; k <= d; ++k) {
          if (k > 0) key = key + Key(1) - step[d + 1 - k];
          keys[i][k] = key;
          table.prefetch(key);
          at[k].weight = k == 0 ? 1 + rest[d] - rest[0] : rest[d - k] - rest[d + 1 - k];
        }
      }
      for (std::size_t i = 0; i < size; ++i) {
        // Neighbouring pixels often lie in the same simplex: one branch for all its vertices.
        bool is_same = last_vertex[0] != 0;
        for (int k = 0; k <= d; ++k) is_same = is_same & (keys[i][k] == last[k]);
        if (!is_same) {
          for (int k = 0; k <= d; ++k) {
            last[k] = keys[i][k];
            last_vertex[k] = table.find_or_add(last[k]);
          }
        }
        for (int k = 0; k <= d; ++k) corner[i * kCorners + static_cast<std::size_t>(k)].vertex = last_vertex[k];
      }
    }
    fresh_.push_back(table.size());
  }

  template <class Key>
  void find_neighbours(const Key (&unit)[d + 1], const detail::VertexTable<Key>& table) {
    neighbours_.resize((d + 1) * (vertices_ + 1));
    Key all = 0;
    for (const Key& u : unit) all = all + u;
    constexpr std::uint64_t kRemainder = (std::uint64_t{1} << Numbering::kRemainderBits) - 1;
    for (int axis = 0; axis <= d; ++axis) {
      detail::Neighbours* const at = neighbours_.data() + static_cast<std::size_t>(axis) * (vertices_ + 1);
      for (std::size_t begin = 1; begin <= vertices_; begin += kBlock) {
        const std::size_t size = std::min(kBlock, vertices_ + 1 - begin);
        Key next[kBlock];
        for (std::size_t i = 0; i < size; ++i) {
          // One more in all coordinates but this one, which goes d down.
          const Key& key = table.key(begin + i);
          const bool carries = (detail::low_bits(key) & kRemainder) == d;
          next[i] = (carries ? key + all - Key(d) : key + Key(1)) - unit[axis];
          table.prefetch(next[i]);
        }
        for (std::size_t i = 0; i < size; ++i) {
          const std::uint32_t after = table.find(next[i]);
          at[begin + i].after = after;
          at[after].before = static_cast<std::uint32_t>(begin + i);  // vertex 0's too, to spare a branch
        }
      }
      at[0] = {0, 0};
    }
  }

  std::size_t points_, vertices_ = 0;
  detail::Isa isa_;
  detail::AlignedBuffer<detail::Corner<Scalar>> corners_;  // kCorners for each point
  std::vector<std::size_t> fresh_;                         // one for each block of points, and the end
  std::vector<detail::Neighbours> neighbours_;             // d + 1 axes of vertices_ + 1 each
};

}  // namespace smooseg::crf
