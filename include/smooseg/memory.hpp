#pragma once

// How the process treats memory that tensors have given back.

#include <limits>  // also tells whether the C library is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace smooseg {

/// Lets the process keep freed memory for its next step. By default glibc gives large blocks back to the system and gets
/// them again page by page, which costs a step of training about a seventh of its time (docs/performance.md). Call it
/// once, at the beginning of main(). It holds for the whole process, which then never shrinks, and for glibc's malloc;
/// elsewhere it does nothing.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

}  // namespace smooseg
