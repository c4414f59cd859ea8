#pragma once

#ifdef __GLIBC__
#include <malloc.h>

#include <limits>
#endif

namespace smooseg::app {

/// Keeps freed memory for later, so that the system need not hand it out page by page again at every step.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

}  // namespace smooseg::app
