// Memory that is kept between steps.

#include <sys/resource.h>

#include <cstddef>
#include <vector>

#include "catch.hpp"
#include "other_malloc.hpp"
#include "smooseg/memory.hpp"

TEST_CASE("freed memory is kept for the next step", "[memory]") {
#if !defined(__GLIBC__) || defined(SMOOSEG_OTHER_MALLOC)
  WARN("not tested: the malloc in use is not glibc's");
#else
  constexpr std::size_t kBytes = std::size_t{64} << 20, kPage = 4096;
  const auto faults_of_a_step = [] {
    const auto faults = [] {
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      return usage.ru_minflt;
    };
    const long before = faults();
    const std::vector<char> tensor(kBytes, 1);
    CHECK(tensor.back() == 1);
    return faults() - before;
  };
  CHECK(faults_of_a_step() > static_cast<long>(kBytes / kPage / 2));
  smooseg::keep_freed_memory();
  faults_of_a_step();
  CHECK(faults_of_a_step() < 100);
#endif
}
