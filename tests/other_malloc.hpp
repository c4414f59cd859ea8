#pragma once

// SMOOSEG_OTHER_MALLOC: defined where memory is a sanitizer's, which keeps what is freed, and not glibc's.

#if defined(__SANITIZE_ADDRESS__)
#define SMOOSEG_OTHER_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SMOOSEG_OTHER_MALLOC 1
#endif
#endif
