#pragma once

// Self-attention, softmax(q k^T / sqrt(d)) v, that never holds all N x N scores; with rotary positions or without.

#include <ATen/Functions.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/bfloat16_attention.hpp"
#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/kernels/rotation.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/detail/torch_threads.hpp"

namespace smooseg::detail {

/// Attention of some queries of one head to all tokens. A few queries' scores at a time stay in cache, between keys and
/// values that are packed for the two products.
struct AttentionKernel {
  /// Queries whose scores exist at a time.
  static constexpr int64_t kQueries = 32;

  /// Numbers of type T that `run` needs as scratch.
  static int64_t scratch_size(int64_t tokens, int64_t d) {
    return 2 * (tokens + kPadding) * d + kQueries * (tokens + d + 1);
  }

  /// @param q (queries,d). @param k, v (tokens,d). @param out (queries,d).
  /// @param turns of the tokens, by which keys and queries are turned on their way into the cache. @param first the
  ///   first query's token.
  template <Isa isa, class T, class In>
  SMOOSEG_INLINE static void run(int64_t queries, int64_t tokens, int64_t d, Rows<const In> q, Rows<const In> k,
                                 Rows<const In> v, Rows<In> out, T* scratch, Turns<T> turns = {}, int64_t first = 0) {
    const Rows<T> keys{scratch, tokens + kPadding}, values{keys[d], d}, block{values[tokens + kPadding], d};
    const Rows<T> scores{block[kQueries], tokens};
    T* const sums = scores[kQueries];
    if (turns.defined()) {
      for (int64_t i = 0; i < tokens; i += kQueries) {
        const int64_t count = std::min(kQueries, tokens - i);
        Rotate::run<isa, T>(count, d, k.at(i, 0), turns.from(i), T{1}, block);
        transpose<T>(count, d, constant(block), keys.at(0, i));
      }
    } else {
      transpose<T>(tokens, d, k, keys);
    }
    copy(tokens, d, v, values, T{1});
    const T scale = 1 / std::sqrt(static_cast<T>(d));
    for (int64_t i = 0; i < queries; i += kQueries) {
      const int64_t count = std::min(kQueries, queries - i);
      if (turns.defined()) {
        Rotate::run<isa, T>(count, d, q.at(i, 0), turns.from(first + i), scale, block);
      } else {
        copy(count, d, q.at(i, 0), block, scale);
      }
      RowProduct::run<isa, T>(count, d, tokens, constant(block), constant(keys), nullptr, scores, false);
      for (int64_t m = 0; m < count; ++m) sums[m] = exponentials<isa, T>(tokens, scores[m]);
      RowProduct::run<isa, T>(count, tokens, d, constant(scores), constant(values), nullptr, block, false);
      for (int64_t m = 0; m < count; ++m) {
        const T factor = 1 / sums[m];
        for (int64_t c = 0; c < d; ++c) out[i + m][c] = static_cast<In>(block[m][c] * factor);
      }
    }
  }

 private:
  // Rows of a power of two bytes would compete for the same places of the cache.
  static constexpr int64_t kPadding = 16;

  template <class T>
  SMOOSEG_INLINE static Rows<const T> constant(const Rows<T>& rows) {
    return {rows.data, rows.stride};
  }

  template <class T, class In>
  SMOOSEG_INLINE static void copy(int64_t rows, int64_t d, Rows<const In> from, Rows<T> to, T factor) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < d; ++c) to[i][c] = static_cast<T>(from[i][c]) * factor;
    }
  }

  template <class T, class In>
  SMOOSEG_INLINE static void transpose(int64_t rows, int64_t d, Rows<const In> from, Rows<T> to) {
    constexpr int64_t kBlock = 16;  // whole lines of the cache are written
    for (int64_t i = 0; i < rows; i += kBlock) {
      const int64_t count = std::min(kBlock, rows - i);
      for (int64_t c = 0; c < d; ++c) {
        for (int64_t j = 0; j < count; ++j) to[c][i + j] = static_cast<T>(from[i + j][c]);
      }
    }
  }

  /// x = exp(x - max x); their sum.
  template <Isa isa, class T>
  SMOOSEG_INLINE static T exponentials(int64_t n, T* x) {
    constexpr int kVector = kLanes<T, isa>;
    using W = Wide<T, kVector>;
    const int64_t whole = n - n % kVector;
    T largest = whole > 0 ? largest_of<T, kVector>(whole, x) : x[0];
    for (int64_t i = whole; i < n; ++i) largest = std::max(largest, x[i]);
    W sums{};
    for (int64_t i = 0; i < whole; i += kVector) {
      W value;
      load(value, x + i);
      value -= largest;
      exponential<kVector>(value);
      sums += value;
      store(x + i, value);
    }
    T sum = sum_of_lanes<T, kVector>(sums);
    for (int64_t i = whole; i < n; ++i) {
      Wide<T, 1> value{x[i] - largest};
      exponential<1>(value);
      sum += x[i] = value[0];
    }
    return sum;
  }
};

/// Whether `AttentionKernel` is for these: numbers in the CPU's memory that it knows, and no gradients to record.
inline bool has_attention_kernel(const Tensor& qkv) {
  const bool has_dtype =
      has_kernels(qkv) ||
      (qkv.device().is_cpu() && (qkv.scalar_type() == torch::kBFloat16 || qkv.scalar_type() == torch::kHalf));
  return has_dtype && !(qkv.requires_grad() && torch::GradMode::is_enabled());
}

/// Calls f(queries, first query, q, k, v, out, scratch) for parts of each image's and head's queries, on all threads.
/// @param scratch_size numbers of type T that f needs to work with.
template <class T, class In, class F>
void for_heads(const Tensor& qkv, int64_t heads, Tensor& out, int64_t scratch_size, const F& f) {
  const int64_t batch = qkv.size(0), tokens = qkv.size(1), channels = out.size(2), d = channels / heads;
  constexpr int64_t kMostQueries = 512;  // of a task: each packs keys and values for itself
  const int64_t parts = (tokens + kMostQueries - 1) / kMostQueries, count = (tokens + parts - 1) / parts;
  const In* const from = qkv.data_ptr<In>();
  In* const to = out.data_ptr<In>();
  on_torch_threads(batch * heads * parts, [&](int64_t begin, int64_t end) {
    AlignedBuffer<T> buffer(static_cast<std::size_t>(scratch_size));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * count, head = task / parts % heads, b = task / parts / heads;
      const Rows<const In> q{from + b * tokens * 3 * channels + head * d, 3 * channels};
      f(std::min(count, tokens - first), first, q.at(first, 0), q.at(0, channels), q.at(0, 2 * channels),
        Rows<In>{to + (b * tokens + first) * channels + head * d, channels}, buffer.data());
    }
  });
}

/// Attention with arithmetic in T, in which the rotation is too.
template <class T, class In>
void run_attention(const Tensor& qkv, int64_t heads, const Rotation& rotation, Tensor& out) {
  const int64_t tokens = qkv.size(1), d = out.size(2) / heads;
  const Turns<T> turns = turns_of<T>(rotation);
  for_heads<T, In>(qkv, heads, out, AttentionKernel::scratch_size(tokens, d),
                   [&](int64_t queries, int64_t first, Rows<const In> q, Rows<const In> k, Rows<const In> v,
                       Rows<In> to, T* scratch) {
                     run_kernel<AttentionKernel>(machine_isa(), queries, tokens, d, q, k, v, to, scratch, turns, first);
                   });
}

inline void run_bfloat16_attention(const Tensor& qkv, int64_t heads, const Rotation& rotation, Tensor& out) {
  using B = c10::BFloat16;
#if SMOOSEG_HAS_BFLOAT16
  const int64_t tokens = qkv.size(1), d = out.size(2) / heads;
  if (machine_has_bfloat16() && d % 2 == 0) {
    const BFloat16Attention kernel(tokens, d);
    const Turns<float> turns = turns_of<float>(rotation);
    return for_heads<float, B>(
        qkv, heads, out, kernel.scratch_size(),
        [&](int64_t queries, int64_t first, Rows<const B> q, Rows<const B> k, Rows<const B> v, Rows<B> to,
            float* scratch) { kernel.run(queries, q, k, v, to, scratch, turns, first); });
  }
#endif
  run_attention<float, B>(qkv, heads, rotation, out);
}

/// softmax(q k^T / sqrt(d)) v by LibTorch's operators, which record gradients; for a few images' and queries' scores at
/// a time, so that memory grows with N instead of N^2.
/// @param q, k, v (B,heads,N,d), of any strides.
/// @param max_scores how many scores may exist at a time.
/// @return (B,heads,N,d).
inline Tensor blocked_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t max_scores = 1 << 20) {
  const int64_t heads = q.size(1), queries = q.size(2), keys = k.size(2);
  const int64_t rows = std::max<int64_t>(1, max_scores / (heads * keys));
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  std::vector<Tensor> images, blocks;
  for (int64_t image = 0; image < q.size(0); ++image) {
    blocks.clear();
    for (int64_t first = 0; first < queries; first += rows) {
      const Tensor block = q[image].slice(1, first, first + rows) * scale;
      blocks.push_back(at::bmm(at::bmm(block, k[image].transpose(1, 2)).softmax(-1), v[image]));
    }
    images.push_back(at::cat(blocks, 1));
  }
  return at::stack(images);
}

/// softmax(q k^T / sqrt(d)) v for each head, by the best means at hand; gradients are recorded.
/// @param qkv (B,N,3 heads d): the queries of all heads, then their keys, then their values.
/// @param rotation of the N tokens, by which queries and keys are turned before.
/// @return (B,N,heads d).
inline Tensor attention(const Tensor& qkv, int64_t heads, const Rotation& rotation = {}) {
  const int64_t batch = qkv.size(0), tokens = qkv.size(1), channels = qkv.size(2) / 3;
  if (has_attention_kernel(qkv)) {
    const Tensor contiguous = qkv.contiguous();
    const Rotation turn = rotation.to(qkv.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
    Tensor out = torch::empty({batch, tokens, channels}, qkv.options());
    switch (qkv.scalar_type()) {
      case torch::kFloat64:
        run_attention<double, double>(contiguous, heads, turn, out);
        break;
      case torch::kFloat32:
        run_attention<float, float>(contiguous, heads, turn, out);
        break;
      case torch::kHalf:
        run_attention<float, c10::Half>(contiguous, heads, turn, out);
        break;
      default:
        run_bfloat16_attention(contiguous, heads, turn, out);
    }
    return out;
  }
  const Tensor parts = qkv.reshape({batch, tokens, 3, heads, -1}).permute({2, 0, 3, 1, 4});
  const Tensor q = rotated(parts[0], rotation), k = rotated(parts[1], rotation);
  const Tensor fused = fused_attention(q, k, parts[2]);
  const Tensor out = fused.defined() ? fused : blocked_attention(q, k, parts[2]);
  return out.transpose(1, 2).flatten(2);
}

}  // namespace smooseg::detail
