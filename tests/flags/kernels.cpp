// The kernels of the losses that need the most registers.

#include "smooseg/detail/kernels/moments.hpp"

namespace smooseg::detail {
template void run_avx512<MomentsKernel>(int64_t, int64_t, int64_t, Rows<const float>, Rows<const float>, double, double,
                                        float*, float*, Rows<float>, Rows<float>, float*);
template void run_avx512<RowProduct>(int64_t, int64_t, int64_t, Rows<const float>, Rows<const float>, const float*,
                                     Rows<float>, bool);
}  // namespace smooseg::detail
