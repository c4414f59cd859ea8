// smooseg: trains, evaluates and applies unsupervised segmentation. See commands/ for what it does.

#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "commands/command_line.hpp"
#include "smooseg/memory.hpp"

int main(int argc, char** argv) {
  smooseg::keep_freed_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error like a full disk, which says so
  return smooseg::app::run(std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
}
