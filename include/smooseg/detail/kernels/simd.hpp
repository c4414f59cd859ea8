#pragma once

// Loops over numbers, compiled for several instruction sets of which the widest that the machine has is chosen when the
// program runs: a header cannot know its user's compiler flags, and need not.
//
// A kernel is a struct with `template <Isa isa> SMOOSEG_INLINE static void run(arguments...)`, written with `Wide`.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if !defined(__GNUC__) && !defined(__clang__)
#error "smooseg needs GCC or Clang, whose vector types its kernels are written with"
#endif

#define SMOOSEG_INLINE inline __attribute__((always_inline))
#define SMOOSEG_NOINLINE __attribute__((noinline))
#define SMOOSEG_INLINE_LAMBDA __attribute__((always_inline))
#define SMOOSEG_UNROLL _Pragma("GCC unroll 8")

#if defined(__x86_64__)
#define SMOOSEG_HAS_ISAS 1
#define SMOOSEG_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define SMOOSEG_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#else
#define SMOOSEG_HAS_ISAS 0
#endif

namespace smooseg::detail {

enum class Isa { kBaseline, kAvx2, kAvx512 };

/// The widest instruction set of this machine that kernels are compiled for.
inline Isa machine_isa() {
#if SMOOSEG_HAS_ISAS
  static const Isa isa = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return Isa::kAvx512;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::kAvx2 : Isa::kBaseline;
  }();
  return isa;
#else
  return Isa::kBaseline;
#endif
}

constexpr int register_bytes(Isa isa) {
  return isa == Isa::kAvx512 ? 64 : isa == Isa::kAvx2 ? 32 : 16;
}

/// Numbers of type T in one vector register.
template <class T, Isa isa>
constexpr int kLanes = register_bytes(isa) / static_cast<int>(sizeof(T));

template <class T, int lanes>
struct WideType {
  typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};
/// One vector register of T: + - * / lane by lane, also with a single number, and [lane].
template <class T, int lanes>
using Wide = typename WideType<T, lanes>::type;

/// T[n], for an n that is an int as the loops over it are.
template <class T, int n>
using Array = T[static_cast<std::size_t>(n)];

// By reference: how a vector is passed by value depends on the caller's flags. Memory need not be aligned.
template <class W, class T>
SMOOSEG_INLINE void load(W& value, const T* from) {
  std::memcpy(&value, from, sizeof(W));
}
template <class W, class T>
SMOOSEG_INLINE void store(T* to, const W& value) {
  std::memcpy(to, &value, sizeof(W));
}

/// Asks for the memory that will be read soon; any address will do.
template <class T>
SMOOSEG_INLINE void prefetch(const T* address) {
  __builtin_prefetch(address);
}

/// The same for `count` elements.
template <class T>
SMOOSEG_INLINE void prefetch(const T* from, std::size_t count) {
  constexpr std::size_t kCacheLine = 64;
  const char* const bytes = reinterpret_cast<const char*>(from);
  for (std::size_t i = 0; i < count * sizeof(T); i += kCacheLine) prefetch(bytes + i);
}

/// Calls f(lanes, j) for strips of n columns that begin with column j: of the lanes of a vector, which an
/// `std::integral_constant` says, as long as there are as many, then of one.
template <Isa isa, class T, class F>
SMOOSEG_INLINE void for_strips(std::int64_t n, const F& f) {
  constexpr int kVector = kLanes<T, isa>;
  std::int64_t j = 0;
  for (; j + kVector <= n; j += kVector) f(std::integral_constant<int, kVector>{}, j);
  for (; j < n; ++j) f(std::integral_constant<int, 1>{}, j);
}

// Not inlined: a kernel that is a part of another needs registers of its own (see the next `run_kernel`).
template <class Kernel, class... Args>
SMOOSEG_NOINLINE void run_baseline(Args... args) {
  Kernel::template run<Isa::kBaseline>(args...);
}
#if SMOOSEG_HAS_ISAS
template <class Kernel, class... Args>
SMOOSEG_NOINLINE SMOOSEG_TARGET_AVX2 void run_avx2(Args... args) {
  Kernel::template run<Isa::kAvx2>(args...);
}
template <class Kernel, class... Args>
SMOOSEG_NOINLINE SMOOSEG_TARGET_AVX512 void run_avx512(Args... args) {
  Kernel::template run<Isa::kAvx512>(args...);
}
#endif

/// Runs a kernel as compiled for `isa`, which the machine must have (`machine_isa()`). Arguments are copied.
template <class Kernel, class... Args>
void run_kernel(Isa isa, Args... args) {
#if SMOOSEG_HAS_ISAS
  if (isa == Isa::kAvx512) return run_avx512<Kernel>(args...);
  if (isa == Isa::kAvx2) return run_avx2<Kernel>(args...);
#endif
  static_cast<void>(isa);
  run_baseline<Kernel>(args...);
}

/// The same within another kernel, whose `isa` is known. Inlined there, a loop that fills all registers may get few of
/// them: GCC 12 with -march=native gave it 8 of 32, which took half as long again.
template <class Kernel, Isa isa, class... Args>
void run_kernel(Args... args) {
#if SMOOSEG_HAS_ISAS
  if constexpr (isa == Isa::kAvx512) return run_avx512<Kernel>(args...);
  if constexpr (isa == Isa::kAvx2) return run_avx2<Kernel>(args...);
#endif
  if constexpr (isa == Isa::kBaseline) run_baseline<Kernel>(args...);
}

}  // namespace smooseg::detail
