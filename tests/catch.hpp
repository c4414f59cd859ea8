#pragma once

// Catch2 of either major release, with `Catch::Approx` in both. LibTorch's logging header comes first because it has a
// macro CHECK of its own; from here on CHECK is Catch's.

#include <c10/util/Logging.h>

#undef CHECK

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
namespace Catch {
using Detail::Approx;
}
#endif
