// smooseg: trains, evaluates and applies unsupervised segmentation. See commands/ for what it does.

#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "commands/command_line.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

int main(int argc, char** argv) {
#ifdef __GLIBC__
  // Freed memory is kept for the next step, rather than handed out by the system anew, page by page.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
  return smooseg::app::run(std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
}
