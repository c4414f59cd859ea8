#pragma once

// Attention to bfloat16 numbers by the processor's own products of their pairs, twice as fast as with float32.

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/rotation.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"

#if SMOOSEG_HAS_ISAS && (defined(__clang__) || __GNUC__ >= 10)
#define SMOOSEG_HAS_BFLOAT16 1
#include <immintrin.h>
#else
#define SMOOSEG_HAS_BFLOAT16 0
#endif

namespace smooseg::detail {

/// Whether `BFloat16Attention` runs on this machine.
inline bool machine_has_bfloat16() {
#if SMOOSEG_HAS_BFLOAT16
  static const bool has = machine_isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

#if SMOOSEG_HAS_BFLOAT16

#define SMOOSEG_TARGET_BFLOAT16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define SMOOSEG_INLINE_BFLOAT16 SMOOSEG_TARGET_BFLOAT16 inline __attribute__((always_inline))

/// Attention of some queries of one head to all tokens, as `AttentionKernel`; sums are float32.
class BFloat16Attention {
 public:
  /// @param d even.
  BFloat16Attention(int64_t tokens, int64_t d)
      : tokens_(tokens), d_(d), keys_(padded(tokens) + kLanes), columns_(padded(d)) {}

  /// Numbers of 32 bits that `run` needs as scratch.
  int64_t scratch_size() const {
    return d_ / 2 * keys_ + token_pairs() * columns_ + kQueries * (padded(tokens_) + columns_ + token_pairs() + d_ / 2);
  }

  /// @param q (queries,d). @param k, v (tokens,d). @param out (queries,d).
  /// @param turns of the tokens, by which keys and queries are turned. @param first the first query's token.
  SMOOSEG_TARGET_BFLOAT16 void run(int64_t queries, Rows<const c10::BFloat16> q, Rows<const c10::BFloat16> k,
                                   Rows<const c10::BFloat16> v, Rows<c10::BFloat16> out, float* scratch,
                                   const Turns<float>& turns, int64_t first) const {
    const Rows<uint32_t> keys{reinterpret_cast<uint32_t*>(scratch), keys_}, values{keys[d_ / 2], columns_};
    const Rows<uint32_t> weights{values[token_pairs()], token_pairs()};
    const Rows<float> scores{reinterpret_cast<float*>(weights[kQueries]), padded(tokens_)};
    const Rows<float> sums{scores[kQueries], columns_};
    const Rows<c10::BFloat16> turned{reinterpret_cast<c10::BFloat16*>(sums[kQueries]), d_};
    pack_keys(k, turns, turned, keys);
    pack_values(v, values);
    const float scale = 1 / std::sqrt(static_cast<float>(d_));
    for (int64_t i = 0; i < queries; i += kQueries) {
      const int64_t count = std::min(kQueries, queries - i);
      const Rows<const c10::BFloat16> block = turned_rows(count, q.at(i, 0), turns.from(first + i), turned);
      const Rows<const uint32_t> pairs{reinterpret_cast<const uint32_t*>(block.data), block.stride / 2};
      product(count, d_ / 2, padded(tokens_), pairs, keys, scores);
      float totals[kQueries];
      for (int64_t m = 0; m < count; ++m) totals[m] = exponentials(scale, scores[m], weights[m]);
      product(count, token_pairs(), columns_, {weights.data, weights.stride}, values, sums);
      for (int64_t m = 0; m < count; ++m) {
        for (int64_t c = 0; c < d_; ++c) out[i + m][c] = static_cast<c10::BFloat16>(sums[m][c] / totals[m]);
      }
    }
  }

 private:
  static constexpr int64_t kQueries = 32, kLanes = 16;

  static int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
  /// Pairs of tokens, of which rows of weights consist: whole vectors.
  int64_t token_pairs() const { return padded(tokens_) / 2; }

  /// Rows as they are, or turned in the place for them where there is something to turn them by.
  Rows<const c10::BFloat16> turned_rows(int64_t count, Rows<const c10::BFloat16> rows, const Turns<float>& turns,
                                        Rows<c10::BFloat16> place) const {
    if (!turns.defined()) return rows;
    run_kernel<Rotate>(machine_isa(), count, d_, rows, turns, 1.f, place);
    return {place.data, place.stride};
  }

  /// Pairs of channels, channels first; 0 for what is no token.
  void pack_keys(Rows<const c10::BFloat16> k, const Turns<float>& turns, Rows<c10::BFloat16> turned,
                 Rows<uint32_t> keys) const {
    for (int64_t c = 0; c < d_ / 2; ++c) std::fill(keys[c] + tokens_, keys[c] + padded(tokens_), 0u);
    for (int64_t i = 0; i < tokens_; i += kLanes) {  // whole lines of the cache are written
      const int64_t count = std::min(kLanes, tokens_ - i);
      const Rows<const c10::BFloat16> rows = turned_rows(count, k.at(i, 0), turns.from(i), turned);
      for (int64_t c = 0; c < d_ / 2; ++c) {
        for (int64_t j = 0; j < count; ++j) std::memcpy(keys[c] + i + j, rows[j] + 2 * c, sizeof(uint32_t));
      }
    }
  }

  /// Pairs of tokens; 0 for what is no token or channel.
  void pack_values(Rows<const c10::BFloat16> v, Rows<uint32_t> values) const {
    std::fill(values[0], values[token_pairs()], 0u);
    for (int64_t i = 0; i < tokens_; ++i) {
      const int shift = i % 2 == 0 ? 0 : 16;
      uint32_t* const to = values[i / 2];
      for (int64_t c = 0; c < d_; ++c) to[c] |= static_cast<uint32_t>(v[i][c].x) << shift;
    }
  }

  /// weights = exp(scale (scores - their maximum)), in pairs; their sum.
  SMOOSEG_INLINE_BFLOAT16 float exponentials(float scale, float* scores, uint32_t* weights) const {
    std::fill(scores + tokens_, scores + padded(tokens_), -std::numeric_limits<float>::infinity());
    using W = Wide<float, kLanes>;
    const float shift = largest_of<float, kLanes>(padded(tokens_), scores);
    W sums{};
    for (int64_t i = 0; i < tokens_; i += kLanes) {
      W value;
      load(value, scores + i);
      value = (value - shift) * scale;
      exponential<kLanes>(value);
      sums += value;
      const __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<const __m512&>(value));
      std::memcpy(weights + i / 2, &narrow, sizeof(narrow));
    }
    return sum_of_lanes<float, kLanes>(sums);
  }

  /// out (M,N) = left (M,R) right (R,N), of pairs, whose two products are added; N a multiple of kLanes.
  SMOOSEG_TARGET_BFLOAT16 static void product(int64_t m_count, int64_t reduced, int64_t n, Rows<const uint32_t> left,
                                              Rows<uint32_t> right, Rows<float> out) {
    int64_t j = 0;
    for (; j + 6 * kLanes <= n; j += 6 * kLanes) panel<6>(m_count, reduced, left, right.at(0, j), out.at(0, j));
    for (; j + 4 * kLanes <= n; j += 4 * kLanes) panel<4>(m_count, reduced, left, right.at(0, j), out.at(0, j));
    for (; j < n; j += kLanes) panel<1>(m_count, reduced, left, right.at(0, j), out.at(0, j));
  }

  template <int vectors>
  SMOOSEG_INLINE_BFLOAT16 static void panel(int64_t m_count, int64_t reduced, Rows<const uint32_t> left,
                                            Rows<uint32_t> right, Rows<float> out) {
    int64_t m = 0;
    for (; m + 4 <= m_count; m += 4) tile<4, vectors>(reduced, left.at(m, 0), right, out.at(m, 0));
    for (; m < m_count; ++m) tile<1, vectors>(reduced, left.at(m, 0), right, out.at(m, 0));
  }

  template <int rows, int vectors>
  SMOOSEG_INLINE_BFLOAT16 static void tile(int64_t reduced, Rows<const uint32_t> left, Rows<uint32_t> right,
                                           Rows<float> out) {
    constexpr auto kRows = std::size_t{rows}, kVectors = std::size_t{vectors};
    __m512 sums[kRows][kVectors];
    SMOOSEG_UNROLL
    for (int m = 0; m < rows; ++m) {
      SMOOSEG_UNROLL
      for (int v = 0; v < vectors; ++v) sums[m][v] = _mm512_setzero_ps();
    }
    for (int64_t r = 0; r < reduced; ++r) {
      __m512i x[kVectors];
      SMOOSEG_UNROLL
      for (int v = 0; v < vectors; ++v) x[v] = _mm512_loadu_si512(right[r] + v * kLanes);
      SMOOSEG_UNROLL
      for (int m = 0; m < rows; ++m) {
        int pair;
        std::memcpy(&pair, left[m] + r, sizeof(pair));
        const __m512i factor = _mm512_set1_epi32(pair);
        SMOOSEG_UNROLL
        for (int v = 0; v < vectors; ++v) {
          sums[m][v] = _mm512_dpbf16_ps(sums[m][v], reinterpret_cast<const __m512bh&>(factor),
                                        reinterpret_cast<const __m512bh&>(x[v]));
        }
      }
    }
    SMOOSEG_UNROLL
    for (int m = 0; m < rows; ++m) {
      SMOOSEG_UNROLL
      for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(out[m] + v * kLanes, sums[m][v]);
    }
  }

  int64_t tokens_, d_;
  int64_t keys_, columns_;  // of packed rows
};

#undef SMOOSEG_TARGET_BFLOAT16
#undef SMOOSEG_INLINE_BFLOAT16

#endif

}  // namespace smooseg::detail
