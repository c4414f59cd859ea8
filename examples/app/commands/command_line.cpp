#include "commands/command_line.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "settings/options.hpp"
#include "smooseg/version.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

const CLI::App* find_command(const CLI::App& program, const std::string& name) {
  const auto found = program.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

bool is_key(const std::string& name, const CLI::App& command) {
  return name != "config" && name != "help" && command.get_option_no_throw("--" + name) != nullptr;
}

/// How many letters must be put in, left out or exchanged to make one word of another (Levenshtein, 1965).
std::size_t distance_of(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t before = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t changed = before + (a[i] == b[j] ? 0 : 1);
      before = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, before + 1});
    }
  }
  return row.back();
}

/// The key that was meant, where one is close, and all of them.
std::string known_keys(const std::string& unknown, const CLI::App& command) {
  constexpr std::size_t kClose = 2;
  std::string names, meant;
  std::size_t least = kClose + 1;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || !is_key(option->get_lnames().front(), command)) continue;
    const std::string& name = option->get_lnames().front();
    names += (names.empty() ? "" : ", ") + name;
    if (distance_of(unknown, name) >= least) continue;
    least = distance_of(unknown, name);
    meant = "; did you mean '" + name + "'?";
  }
  return meant + "; known keys: " + names;
}

/// The text of a TOML file in the part of the language that CLI11 reads: without a byte order mark, comments after
/// sections, and underscores in numbers. @throws CLI::ConfigError for a line that is neither section nor key.
std::string plain_toml(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    throw CLI::ConfigError(path + ": expected a configuration file, found " +
                           (std::filesystem::is_directory(path, error) ? "a folder" : "something else"));
  }
  std::ifstream file(path);
  if (!file) throw CLI::ConfigError(path + ": cannot read this configuration file");
  static const std::regex section(R"(\s*(\[[^\[\]#]+\])\s*(#.*)?)"), nothing(R"(\s*(#.*)?)"),
      key(R"(\s*[^=#\s]+\s*=.*)");
  static const std::regex number(R"((\s*[^=#]+=\s*[+-]?[0-9][0-9_.eE+-]*)(\s*(#.*)?))");
  std::string text, line;
  for (int64_t count = 1; std::getline(file, line); ++count) {
    if (count == 1 && line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    std::smatch found;
    if (std::regex_match(line, found, section)) {
      line = found[1];
    } else if (std::regex_match(line, found, number)) {
      line = std::regex_replace(found[1].str(), std::regex("([0-9])_(?=[0-9])"), "$1");
    } else if (!std::regex_match(line, nothing) && !std::regex_match(line, key)) {
      throw CLI::ConfigError(path + ", line " + std::to_string(count) + ": expected [SECTION] or KEY = VALUE, found '" +
                             line + "'");
    }
    text += line + "\n";
  }
  return text;
}

/// The section of a TOML file that belongs to the command, as arguments.
std::vector<std::string> arguments_of_config(const CLI::App& program, const CLI::App& command,
                                             const std::string& path) {
  std::istringstream file(plain_toml(path));
  std::vector<std::string> arguments;
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(file)) {
    if (item.name == "++" || item.name == "--") continue;  // CLI11's marks of a section's begin and end
    if (item.parents.size() != 1)
      throw CLI::ConfigError(path + ": '" + item.fullname() + "' is in no section [COMMAND]");
    const std::string& section = item.parents.front();
    if (find_command(program, section) == nullptr) {
      throw CLI::ConfigError(path + ": unknown section [" + section + "]: expected the name of a command");
    }
    if (section != command.get_name()) continue;
    const std::string name = "--" + item.name;
    if (!is_key(item.name, command)) {
      throw CLI::ConfigError(path + ": unknown key '" + item.name + "' in [" + section + "]" +
                             known_keys(item.name, command));
    }
    if (item.inputs.size() != 1) {
      throw CLI::ConfigError(path + ": expected one value for '" + item.name + "' in [" + section + "], found " +
                             std::to_string(item.inputs.size()));
    }
    arguments.push_back(name + "=" + item.inputs.front());
  }
  return arguments;
}

/// Puts the options of `--config FILE` before those of the command line, so that the latter win.
std::vector<std::string> with_config(const CLI::App& program, std::vector<std::string> arguments) {
  if (arguments.empty() || arguments.front().empty()) return arguments;
  const CLI::App* command = find_command(program, arguments.front());
  if (command == nullptr && arguments.front().front() != '-') {
    throw CLI::ConfigError("unknown command '" + arguments.front() + "'; see 'smooseg --help'");
  }
  if (command == nullptr) return arguments;
  const std::string flag = "--config";
  for (std::size_t i = 1; i < arguments.size() && arguments[i] != "--"; ++i) {
    std::string path;
    if (arguments[i] == flag && i + 1 < arguments.size()) path = arguments[i + 1];
    if (arguments[i].compare(0, flag.size() + 1, flag + "=") == 0) path = arguments[i].substr(flag.size() + 1);
    if (path.empty()) continue;
    const auto found = arguments_of_config(program, *command, path);
    arguments.insert(arguments.begin() + 1, found.begin(), found.end());
    break;
  }
  return arguments;
}

}  // namespace

int run(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err) {
  CLI::App program{"Unsupervised semantic segmentation: SmooSeg in C++.", "smooseg"};
  program.set_version_flag("--version", SMOOSEG_VERSION);
  program.require_subcommand(1);
  const std::vector<Command> commands{train_command(),   evaluate_command(), segment_command(), prepare_command(),
                                      weights_command(), convert_command(),  doctor_command()};
  std::string config;
  for (const Command& command : commands) {
    CLI::App* sub = program.add_subcommand(command.name, command.description);
    sub->option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    sub->add_option("--config", config, "TOML file; its section [" + command.name + "] holds any of these options")
        ->type_name("FILE");
    command.add_options(*sub);
    check_numbers(*sub);
  }

  const auto fail = [&](const std::string& message, int status) {
    err << "smooseg: " << message << std::endl;
    return status;
  };
  try {
    auto words = with_config(program, arguments);
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    program.parse(words);
  } catch (const CLI::CallForHelp& e) {
    return program.exit(e, out, err);
  } catch (const CLI::CallForVersion& e) {
    return program.exit(e, out, err);
  } catch (const CLI::ParseError& e) {
    return fail(std::string(e.what()) + "\nTry 'smooseg --help' or 'smooseg COMMAND --help'.", 2);
  }
  try {
    for (const Command& command : commands) {
      if (program.got_subcommand(command.name)) command.execute({out, err});
    }
    return 0;
  } catch (const Stopped& e) {
    return fail(e.what(), 128 + e.signal);
  } catch (const c10::Error& e) {
    return fail(e.what_without_backtrace(), 1);
  } catch (const std::exception& e) {
    return fail(e.what(), 1);
  }
}

}  // namespace smooseg::app
