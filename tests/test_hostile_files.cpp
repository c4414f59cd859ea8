// Files that are damaged, or made to do harm: every one is refused by name or read right, soon and in bounded memory.

#include <c10/util/Logging.h>
#include <sys/resource.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/io/torch_checkpoint.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;
namespace readers = smooseg::io::detail;
using readers::FileBytes;

const std::string kName = "the/file";

/// What `read_tensors` does with a file of these bytes.
TensorMap parse(const FileBytes& file) {
  if (readers::is_torch_checkpoint(file)) return readers::parse_torch_checkpoint(file);
  return readers::parse_safetensors(file).tensors;
}

TensorMap parse(const std::string& content) {
  return parse(FileBytes::copy_of(kName, content));
}

/// Looks at each byte that the tensors show, for AddressSanitizer.
void touch(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.numel() < 1'000'000) tensor.clone();
  }
}

/// Parses and touches; whether that was refused. An error must name the file.
bool refused(const FileBytes& file) {
  const std::string error = error_of([&] { touch(parse(file)); });
  if (error.empty()) return false;
  if (error.rfind(kName + ": ", 0) != 0) FAIL("the error does not begin with the file: " << error);
  return true;
}

bool refused(const std::string& content) {
  return refused(FileBytes::copy_of(kName, content));
}

/// Errors without a backtrace, whose symbols would take a thousand times as long to look up as the file to parse.
struct WithoutBacktraces {
  WithoutBacktraces() {
    c10::SetStackTraceFetcher([] { return std::string(); });
  }
};

/// The archive without checksums, so that damage gets past them.
std::string without_checksums(std::string content) {
  for (const auto& [magic, field] : {std::pair{"PK\1\2", size_t{16}}, {"PK\3\4", size_t{14}}}) {
    for (size_t at = content.find(magic); at != std::string::npos; at = content.find(magic, at + 1)) {
      if (at + field + 4 <= content.size()) content.replace(at + field, 4, 4, '\0');
    }
  }
  return content;
}

/// Where to damage a file: each byte that is not an element of a tensor, and some that are; at most `most` of them.
std::vector<size_t> positions_of(const FileBytes& file, size_t most) {
  std::vector<bool> is_data(file.size());
  for (const auto& [name, tensor] : parse(file)) {
    const auto offset = static_cast<const char*>(tensor.data_ptr()) - file.view().data();
    if (offset < 0 || static_cast<size_t>(offset) + tensor.nbytes() > file.size() || !tensor.is_contiguous()) continue;
    std::fill_n(is_data.begin() + offset, tensor.nbytes(), true);
  }
  std::vector<size_t> positions;
  size_t data = 0;
  for (size_t at = 0; at < file.size(); ++at) {
    if (!is_data[at] || ++data % 499 == 1) positions.push_back(at);
  }
  if (positions.size() <= most) return positions;
  std::vector<size_t> thinned;
  for (size_t i = 0; i < most; ++i) thinned.push_back(positions[i * positions.size() / most]);
  return thinned;
}

/// Each byte in turn is another.
void check_flips(const std::string& content, size_t most) {
  const FileBytes file = FileBytes::copy_of(kName, content);
  char* const bytes = const_cast<char*>(file.view().data());
  const std::vector<size_t> positions = positions_of(file, most);
  size_t wrong = 0;
  for (const size_t at : positions) {
    const char before = bytes[at];
    bytes[at] = static_cast<char>(before ^ std::array{0x01, 0x80, 0xFF}[at % 3]);
    wrong += refused(file) ? 1 : 0;
    bytes[at] = before;
  }
  CHECK(wrong > 0);
  CHECK(wrong < positions.size());
  CHECK_FALSE(refused(file));
}

/// The most memory that this process has had, in bytes.
size_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

/// The file is refused with this error, within seconds, and the process grows by less than 2 GB meanwhile.
void check_refused(const std::string& content, const std::string& expected) {
  const size_t memory = peak_memory();
  const auto begin = std::chrono::steady_clock::now();
  const std::string error = error_of([&] { touch(parse(content)); });
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  INFO("error: " << error.substr(0, 1000));
  CHECK(error.rfind(kName + ": ", 0) == 0);
  CHECK(error.find(expected) != std::string::npos);
  CHECK(error.size() < 2000);
  CHECK(time.count() < 30);
  CHECK(peak_memory() - memory < 2'000'000'000);
}

void check_pickle_refused(const std::string& pickle, const std::string& expected) {
  check_refused(zip_of(pickle), expected);
}

const std::vector<std::string> kSmallFiles{
    "lightning.ckpt",    "lightning_real.ckpt",  "dtypes_and_views.pth",     "zip64_protocol4.pth",
    "legacy_format.pth", "legacy_protocol1.pth", "attributes_protocol5.pth", "lightning_expected.safetensors"};
const std::vector<std::string> kLargeFiles{"dino_vit_p16.pth", "dino_full.pth", "dino_vit_p8.safetensors"};

}  // namespace

// ------------------------------------------------------------------------------------------------ damage of any kind

TEST_CASE("Files with any byte changed are read or refused", "[io]") {
  const WithoutBacktraces fast;
  for (const std::string& name : kSmallFiles) {
    INFO(name);
    check_flips(content_of(data_path(name)), 500);
    check_flips(without_checksums(content_of(data_path(name))), 100'000);
  }
  for (const std::string& name : kLargeFiles) {
    INFO(name);
    check_flips(without_checksums(content_of(data_path(name))), 1'000);
  }
}

TEST_CASE("What fuzzing began with, and what it found, is read or refused", "[io]") {
  const WithoutBacktraces fast;
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(data_path("../fuzz/seeds"))) {
    if (!entry.is_regular_file()) continue;
    INFO(entry.path());
    const std::string content = content_of(entry.path());
    const std::string reader = entry.path().parent_path().filename().string();
    const std::string file = reader == "pickle" ? ZipMaker().entry("data.pkl", content).content()
                             : reader == "json" ? safetensors_content(content, 0)
                                                : content;
    CHECK_NOTHROW(refused(file));
    ++files;
  }
  CHECK(files >= 18);
}

TEST_CASE("Files cut short anywhere are refused", "[io]") {
  const WithoutBacktraces fast;
  for (const auto& [names, most] : {std::pair{kSmallFiles, size_t{20'000}}, {kLargeFiles, size_t{200}}}) {
    for (const std::string& name : names) {
      const std::string content = content_of(data_path(name));
      const size_t step = content.size() / most + 1;
      size_t read = 0;
      for (size_t size = 0; size < content.size(); size += step) read += refused(content.substr(0, size)) ? 0 : 1;
      INFO(name);
      CHECK(read == 0);
    }
  }
}

TEST_CASE("Files with something behind them are refused, or read as if it were not there", "[io]") {
  for (const std::string& name : kSmallFiles) {
    const std::string content = content_of(data_path(name));
    const TensorMap expected = parse(content);
    for (const std::string& more :
         {std::string(1, '\0'), std::string(100, '\xff'), std::string(70'000, '\0'), content}) {
      INFO(name << " and " << more.size() << " bytes");
      TensorMap got;
      const std::string error = error_of([&] { got = parse(content + more); });
      const bool safetensors = name.find(".safetensors") != std::string::npos;
      CHECK((safetensors ? !error.empty() : true));
      if (!error.empty()) continue;
      REQUIRE(got.size() == expected.size());
      for (const auto& [key, tensor] : expected) CHECK(same(got.at(key), tensor));
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ pickles

TEST_CASE("Pickles that are damaged are refused where they are", "[io]") {
  check_pickle_refused("a", "corrupt pickle: a value is missing, at byte 3");
  check_pickle_refused("](a", "a value is missing");
  check_pickle_refused("t", "a mark is missing");
  check_pickle_refused("h\7", "a reference to nothing");
  check_pickle_refused("]]]s", "items for what is no container");
  check_pickle_refused("}(Nu", "a key without a value");
  check_pickle_refused("cos\nsystem\nNR", "a call whose arguments are no tuple");
  check_pickle_refused("cos", "no end of line after byte");
  check_pickle_refused("N]\x93", "a class whose name is no text");
  check_pickle_refused("I1x\n", "an integer that is no number");
  check_pickle_refused("L\n", "an integer that is no number");
  check_pickle_refused(std::string("X\xff\xff\xff\x7f", 5), "needs 2147483647 more bytes");
  check_pickle_refused("\x8b" + little(0x7fffffff, 4), "needs 2147483647 more bytes");
  check_pickle_refused("\x8d" + little(~uint64_t{0}, 8), "needs 18446744073709551615 more bytes");
  check_pickle_refused("N}b", "no tensors in it");  // attributes of what is no object
  check_pickle_refused("i", "an opcode that PyTorch never writes");
  check_pickle_refused("", "it ends without a value");
}

TEST_CASE("Pickles that contain themselves, or the same thing at many levels, are refused", "[io]") {
  const std::string error = "nested too deep, or within themselves";
  check_pickle_refused(std::string(100'000, ']') + std::string(99'999, 'a'), error);
  check_pickle_refused("]q" + std::string("\0h\0a", 4), error);
  check_pickle_refused("}q" + std::string("\0", 1) + pickled("x") + std::string("h\0s", 3), error);
  check_pickle_refused("c__torch__\nModule\n)\x81q" + std::string("\0}", 2) + pickled("x") + std::string("h\0sb", 4),
                       error);
  // A billion laughs: each level holds the one below twice.
  std::string doubled = pickled_tensor(0, 1, 1, 4) + std::string("q\0", 2);
  for (char level = 1; level < 60; ++level) {
    doubled += std::string("h") + static_cast<char>(level - 1) + "h" + static_cast<char>(level - 1) + "\x86q" + level;
  }
  check_pickle_refused(doubled, error);
  // The call of a call of a call: nothing is built of them, and nothing recurses into them.
  std::string calls = "cos\nsystem\n";
  for (int i = 0; i < 100'000; ++i) calls += ")R";
  check_pickle_refused(calls, "no tensors in it");
  std::string parameters = "N";
  for (int i = 0; i < 100'000; ++i)
    parameters += "\x85q" + std::string(1, '\1') + "0ctorch._utils\n_rebuild_parameter\nh\1R";
  check_pickle_refused(parameters, "only dense tensors can be read");
  // A dict of many members that is a member of itself.
  std::string members = "}q" + std::string("\0(", 2);
  for (int i = 0; i < 300'000; ++i) members += pickled(std::to_string(i)) + "N";
  check_pickle_refused(members + "u" + pickled("self") + std::string("h\0s", 3), error);
}

TEST_CASE("Pickles that would fill the memory are refused", "[io]") {
  check_pickle_refused(std::string(5'000'000, ']'), "too many values");
  check_pickle_refused("N" + std::string(40'000'000, '2'), "too many opcodes");
  check_pickle_refused("N" + std::string(5'000'000, '\x94'), "too many references");
  // A class whose long name stands in the file once, named again and again.
  std::string classes = pickled(std::string(1'000'000, 'x')) + std::string("q\0", 2);
  for (int i = 0; i < 100'000; ++i) classes += std::string("h\0h\0\x93", 5) + "0";
  check_pickle_refused(classes + "N", "no tensors in it");
  // A key that makes the names of many tensors long.
  std::string tensors = "]";
  for (int i = 0; i < 1000; ++i)
    tensors += i == 0 ? pickled_tensor(0, 1, 1, 4) + std::string("q\0a", 3) : std::string("h\0a", 3);
  check_pickle_refused(dict_of(std::string(1'000'000, 'k'), tensors), "nested too deep, or within themselves");
  // The same, of objects that are skipped.
  std::string objects = "]cmine\nModel\n)R" + std::string("q\0a", 3);
  for (int i = 0; i < 1'000'000; ++i) objects += std::string("h\0a", 3);
  check_pickle_refused(dict_of(std::string(1'000'000, 'k'), objects), "nested too deep, or within themselves");
  // One tensor under many names.
  std::string names = pickled_tensor(0, 1, 1, 4) + std::string("q\0\x30](", 5);  // \x30: POP, not a digit of \0
  for (int i = 0; i < 1'000'000; ++i) names += std::string("h\0", 2);
  check_pickle_refused(names + "e", "nested too deep, or within themselves");
}

TEST_CASE("Errors stay short, and cannot control a terminal", "[io]") {
  check_refused(zip_of(dict_of("\x1b[2J\r\n" + std::string(100'000, 'k'), pickled_tensor(9, 1, 1, 4))),
                "tensor '?[2J??kkk");
  const std::string name(100'000, 'n');
  check_refused(
      safetensors_content("{\"\\u001b[2J" + name + "\":{\"dtype\":\"F9\",\"shape\":[],\"data_offsets\":[0,0]}}", 0),
      "tensor '?[2Jnnn");
  const std::string key = "\"\\u001b" + name + "\":\"\"";
  check_refused(safetensors_content("{\"__metadata__\":{" + key + "," + key + "}}", 0), "the key '?nnn");
  check_refused(zip_of(dict_of("w", "c" + name + "\n" + name +
                                        "\n)R"
                                        "ctorch._utils\n_rebuild_" +
                                        name + "\n)R")),
                "items for what is no container");
  check_refused(zip_of(dict_of("w", "ctorch._utils\n_rebuild_" + name + "\n)R")),
                "was saved by torch._utils._rebuild_nnn");
}

// ----------------------------------------------------------------------------------------------------------- archives

TEST_CASE("Other and damaged archives are refused", "[io]") {
  const std::string good = zip_of(dict_of("w", pickled_tensor(0, 4, 1, 4)));
  REQUIRE(parse(good).at("w").numel() == 4);
  const size_t directory = good.find("PK\1\2");
  const auto patched = [&](size_t at, const std::string& bytes) {
    std::string content = good;
    return content.replace(at, bytes.size(), bytes);
  };
  check_refused(patched(directory + 10, "\x08"), "entry 'x/data.pkl' is compressed or encrypted");
  check_refused(patched(directory + 8, "\x01"), "entry 'x/data.pkl' is compressed or encrypted");
  check_refused(patched(directory + 42, little(0x7f000000, 4)), "truncated or corrupt: needs 4 more bytes");
  check_refused(patched(directory + 42, little(1, 4)), "truncated or corrupt");
  // Sizes that lie: one of both, then both.
  check_refused(patched(directory + 20, little(0x7fffffff, 4)), "entry 'x/data.pkl' is compressed or encrypted");
  check_refused(patched(directory + 20, little(0x7fffffff, 4) + little(0x7fffffff, 4)),
                "truncated or corrupt archive: entry 'x/data.pkl' of 2147483647 bytes is not at byte 0");
  // More entries than there are, also in zip64's number of them.
  const size_t end = good.find("PK\5\6");
  check_refused(patched(end + 10, little(0xFFFE, 2)), "corrupt archive: a bad directory entry");
  const std::string end64 = "PK\6\6" + little(44, 8) + little(0, 12) + little(~uint64_t{0}, 8) +
                            little(~uint64_t{0}, 8) + little(0, 8) + little(directory, 8);
  const std::string locator = "PK\6\7" + little(0, 4) + little(end, 8) + little(1, 4);
  check_refused(good.substr(0, end) + end64 + locator + patched(end + 10, "\xff\xff").substr(end),
                "corrupt archive: a bad directory entry");
  check_refused(ZipMaker().entry("picture.png", "").content(), "no PyTorch checkpoint: no data.pkl in it");
  check_refused(ZipMaker().entry("a/data.pkl", "N.").entry("b/data.pkl", "N.").content(),
                "more than one data.pkl in it");
  check_refused(ZipMaker().entry("x", "").entry("x", "").content(), "corrupt archive: two entries 'x'");
  check_refused(ZipMaker().entry("x/data.pkl", ".").entry("x/byteorder", "big").content(),
                "written on a big-endian machine");
  check_refused(good.substr(0, good.size() - 1), "truncated archive: it has no directory at its end");
}

TEST_CASE("Entries of an archive that share bytes are refused", "[io]") {
  // A bomb: many entries that are the same bytes, at an odd address, so that each would have to be copied.
  const std::string good = zip_of(dict_of("w", pickled_tensor(0, 4, 1, 4)));
  const size_t end = good.find("PK\5\6");
  const size_t directory = good.find("PK\1\2");
  const size_t second = good.find("PK\1\2", directory + 1);
  std::string again = good.substr(second, end - second);
  again.back() = '1';
  check_refused(good.substr(0, end) + again + "PK\5\6" + little(0, 4) + little(3, 2) + little(3, 2) +
                    little(end - directory + again.size(), 4) + little(directory, 4) + little(0, 2),
                "corrupt archive: two entries at byte");
  // One entry that reaches into the next.
  std::string longer = good;
  for (const size_t field : {size_t{20}, size_t{24}}) {
    longer[directory + field] = static_cast<char>(longer[directory + field] + 1);
  }
  check_refused(longer, "truncated or corrupt archive: entry 'x/data.pkl' of ");
}

TEST_CASE("Checksums: damage to pickle and storages is noticed, and none stands for none", "[io]") {
  CHECK(readers::crc32("123456789") == 0xCBF43926);
  CHECK(readers::crc32("") == 0);
  const auto make = [](bool checksum) {
    return zip_of(dict_of("w", pickled_tensor(0, 4, 1, 4)), std::string(15, '\0') + "!", checksum);
  };
  std::string content = make(true);
  REQUIRE(parse(content).size() == 1);
  content[content.find('!')] = '?';
  check_refused(content, "damaged: entry 'x/data/0' has the checksum ");
  content = make(true);
  content[content.find('w')] = 'v';
  check_refused(content, "damaged: entry 'x/data.pkl' has the checksum ");
  content = make(false);
  content[content.find('w')] = 'v';
  CHECK(parse(content).count("v") == 1);
}

// -------------------------------------------------------------------------------------------------------- safetensors

TEST_CASE("Headers of safetensors that would fill the memory or the stack are refused", "[io]") {
  check_refused(safetensors_content("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + std::string(20'000'000, '1') + "]}}", 0),
                "a number of more than 63 bits");
  std::string ones = "1";
  for (int i = 0; i < 2'000'000; ++i) ones += ",1";
  check_refused(safetensors_content("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + ones + "]}}", 0), "too many dimensions");
  check_refused(safetensors_content("{\"a\":{\"data_offsets\":[" + ones + "]}}", 0), "a third number in data_offsets");
  check_refused(safetensors_content("{" + std::string(10'000'000, '['), 0), "expected '\"'");
  check_refused(safetensors_content(" {}", 0), "invalid header: expected '{', at character 0");
  check_refused(little(uint64_t{1} << 63, 8) + "{}", "a header of 9223372036854775808 bytes");
  check_refused(little(100'000'001, 8) + "{}", "a header of 100000001 bytes");
  check_refused(little(100'000'000, 8) + "{}", "needs 100000000 more bytes at byte 8 of 10");
}
