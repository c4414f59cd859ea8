#include "data/prepared.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/codec.hpp"
#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {
namespace {

constexpr auto kNoteFormat = "smooseg data set 1";

std::filesystem::path note_of(const std::filesystem::path& folder) {
  return folder / "dataset.json";
}

}  // namespace

std::optional<Prepared> read_prepared(const std::filesystem::path& folder) {
  const std::filesystem::path path = note_of(folder);
  if (!std::filesystem::is_regular_file(path)) return std::nullopt;
  std::ifstream file(path);
  try {
    const auto json = nlohmann::json::parse(file);
    if (json.at("format") != kNoteFormat) throw std::runtime_error("");
    Prepared prepared{json.at("layout"), json.at("variant"), std::string(json.at("root")), json.at("pictures")};
    if (prepared.root.is_relative()) prepared.root = folder / prepared.root;
    return prepared;
  } catch (const std::exception&) {
    codec::fail(path, "what 'smooseg prepare' writes", "something else: remove it, or prepare the data set again");
  }
}

void write_prepared(const std::filesystem::path& folder, const Prepared& prepared) {
  const nlohmann::json json{{"format", kNoteFormat},
                            {"layout", prepared.layout},
                            {"variant", prepared.variant},
                            {"root", prepared.root.string()},
                            {"pictures", prepared.pictures}};
  io::write_file_atomically(note_of(folder), [&](std::ostream& file) { file << json.dump(2) << "\n"; });
}

}  // namespace smooseg::app
