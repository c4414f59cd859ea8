#pragma once

// What `smooseg doctor` advises; its command is among those of command_line.hpp.

#include <string>
#include <vector>

namespace smooseg::app {

/// What to mend in a LibTorch that was built without one of these, a line each.
std::vector<std::string> advice_on_libtorch(bool has_onednn, bool has_openmp);

}  // namespace smooseg::app
