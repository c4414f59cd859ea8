#pragma once

#include <vector>

#include "commands/command_line.hpp"

namespace smooseg::app {

Command train_command();
Command evaluate_command();
Command segment_command();
Command prepare_command();
Command weights_command();
Command convert_command();
Command doctor_command();

/// In the order of `smooseg --help`.
inline std::vector<Command> all_commands() {
  return {train_command(),   evaluate_command(), segment_command(), prepare_command(),
          weights_command(), convert_command(),  doctor_command()};
}

}  // namespace smooseg::app
