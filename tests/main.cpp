// The test program's main(), for Catch2 of either major release.

#define CATCH_CONFIG_RUNNER
#include <ATen/Parallel.h>

#include "catch.hpp"
#include "support.hpp"

const char* const kTestDataDir = SMOOSEG_TEST_DATA_DIR;
const char* const kProgram = SMOOSEG_PROGRAM;

int main(int argc, char** argv) {
  at::set_num_threads(2);  // so that what runs in parallel does so on any machine, with any LibTorch
  return Catch::Session().run(argc, argv);
}
