// The readers and writers of tensors: safetensors, PyTorch's checkpoints, loading into modules, atomic files.

#include <sys/resource.h>
#include <torch/nn/module.h>
#include <torch/serialize.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/io/torch_checkpoint.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;
using torch::Tensor;

std::string content_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string write_content(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::remove(path);  // overwriting a file in place waits for the disk on some file systems
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

size_t files_in(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator files(folder);
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

std::vector<std::string> names_of(const TensorMap& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

void check_same(const TensorMap& got, const TensorMap& expected, const std::string& prefix = "") {
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    REQUIRE(got.count(prefix + name) == 1);
    CHECK(same(got.at(prefix + name), tensor));
  }
}

/// What of this process lies in memory, mapped pages that were touched included.
size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

/// No file may become larger than `bytes` in this scope: a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

/// A module with a parameter, a buffer of integers, one without a size yet, and one inside.
struct Inner : torch::nn::Module {
  Inner() { bias = register_parameter("bias", torch::zeros({2})); }
  Tensor bias;
};
struct Outer : torch::nn::Module {
  Outer() {
    weight = register_parameter("weight", torch::zeros({2, 3}, torch::kFloat64));
    count = register_buffer("count", torch::zeros({}, torch::kInt64));
    textons = register_buffer("textons", torch::empty({0}));
    inner = register_module("inner", std::make_shared<Inner>());
  }
  Tensor weight, count, textons;
  std::shared_ptr<Inner> inner;
};

/// What fits an `Outer`, with `prefix` before the names.
TensorMap outer_tensors(const std::string& prefix = "") {
  return {{prefix + "weight", torch::arange(6).reshape({2, 3}).to(torch::kFloat16)},
          {prefix + "count", torch::tensor(7, torch::kInt64)},
          {prefix + "textons", torch::ones({4, 2})},
          {prefix + "inner.bias", torch::tensor({1.5F, -2.0F})}};
}

}  // namespace

// ---------------------------------------------------------------------------------------------------- atomic files

TEST_CASE("An atomic file appears whole on commit, and not at all without", "[io]") {
  const TempDir dir;
  const auto target = dir.path / "model.bin";
  write_content(target, "old");
  {
    AtomicFile file(target);
    CHECK(file.temporary_path().parent_path() == dir.path);
    CHECK(file.temporary_path() != AtomicFile(target).temporary_path());
    write_content(file.temporary_path(), "half");
  }
  CHECK(content_of(target) == "old");
  CHECK(files_in(dir.path) == 1);

  AtomicFile file(target);
  write_content(file.temporary_path(), "new");
  CHECK(content_of(target) == "old");
  file.commit();
  CHECK(content_of(target) == "new");
  CHECK(files_in(dir.path) == 1);
}

TEST_CASE("An atomic file says why it cannot be written", "[io]") {
  const TempDir dir;
  const std::string file = write_content(dir.path / "file", "old");
  CHECK_ERROR(AtomicFile(file + "/below.bin"), file + "/below.bin: cannot write: Not a directory");
  CHECK_ERROR(AtomicFile(dir.path / "no" / "x.bin"), "x.bin: cannot write: No such file or directory");
  CHECK_ERROR(AtomicFile(dir.path), dir.path.string() + ": cannot write: it is a folder");
  CHECK_ERROR(AtomicFile("/dev/null"), "/dev/null: cannot write: it is not a regular file");
  CHECK_ERROR(write_file_atomically(file, [](std::ostream&) { throw std::runtime_error("stopped"); }), "stopped");
  CHECK(content_of(file) == "old");
  CHECK(files_in(dir.path) == 1);
}

TEST_CASE("A full disk leaves the old file and no rest", "[io]") {
  const TempDir dir;
  const std::string path = write_content(dir.path / "x.safetensors", "old");
  {
    const FileSizeLimit full(4096);
    // Little text fails where the stream is closed, much where it is written.
    CHECK_ERROR(write_file_atomically(path, [](std::ostream& out) { out << std::string(4100, 'x'); }),
                path + ": cannot write: File too large");
    CHECK_ERROR(write_safetensors(path, {{"x", torch::zeros({100000})}}), path + ": cannot write: File too large");
  }
  CHECK(content_of(path) == "old");
  CHECK(files_in(dir.path) == 1);
  write_safetensors(path, {{"x", torch::zeros({100000})}});
  CHECK(read_tensors(path).at("x").numel() == 100000);
}

// ----------------------------------------------------------------------------------------------------- safetensors

TEST_CASE("safetensors: every dtype, view and text comes back", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  TensorMap tensors;
  const Tensor numbers = torch::arange(-3, 4);
  for (const auto& dtype : smooseg::io::detail::kDtypes) {
    if (!dtype.type || dtype.safetensors.empty()) continue;
    tensors[std::string(dtype.safetensors)] = (dtype.type == torch::kUInt8 ? numbers + 200 : numbers).to(*dtype.type);
  }
  const Tensor matrix = torch::arange(12, torch::kFloat32).reshape({3, 4});
  tensors["transposed"] = matrix.t();
  tensors["slice"] = matrix.slice(1, 1, 4, 2);
  tensors["expanded"] = torch::tensor(2.5).expand({2, 3});
  tensors["parameter"] = torch::ones({2}, torch::requires_grad());
  tensors["scalar"] = torch::tensor(3.5, torch::kFloat64);
  tensors["empty"] = torch::empty({0, 4});
  tensors["nämé \"quoted\"\\\n"] = torch::tensor({1, 2});
  const std::map<std::string, std::string> metadata{{"config", "{\"name\": \"a\\b\",\r\n\t\"ü\": \"日本 🙂\"}"},
                                                    {"control \x01\x1f\x7f", ""}};
  write_safetensors(path, tensors, metadata);

  const TensorMap got = read_safetensors(path);
  CHECK(names_of(got) == names_of(tensors));
  check_same(got, tensors);
  CHECK(read_safetensors_metadata(path) == metadata);
  CHECK(got.at("U8").data_ptr<uint8_t>()[0] == 197);
  for (const auto& [name, tensor] : got) {
    CHECK(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % tensor.element_size() == 0);
  }
  // The names stand in order, and the data begins at a multiple of 8.
  const std::string content = content_of(path);
  CHECK(content.find("\"BF16\":") < content.find("\"BOOL\":"));
  CHECK(content.find("\"BOOL\":") < content.find("\"F16\":"));
  CHECK(static_cast<unsigned char>(content[0]) % 8 == 0);
}

TEST_CASE("safetensors: an empty set of tensors, and no metadata", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  write_safetensors(path, {});
  CHECK(content_of(path) == safetensors_content("{}      ", 0));
  CHECK(read_tensors(path).empty());
  CHECK(read_safetensors_metadata(path).empty());
}

TEST_CASE("safetensors: what cannot be written is refused by name", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  const Tensor one = torch::ones({1});
  CHECK_ERROR(write_safetensors(path, {{"a", Tensor()}}), "write_safetensors: expected tensor 'a' defined and dense");
  CHECK_ERROR(write_safetensors(path, {{"a", one.to_sparse()}}), "expected tensor 'a' defined and dense");
  CHECK_ERROR(write_safetensors(path, {{"a", one.to(torch::kComplexDouble)}}), "tensor 'a' has dtype ComplexDouble");
  CHECK_ERROR(write_safetensors(path, {{"__metadata__", one}}), "'__metadata__' cannot be the name of a tensor");
  CHECK_ERROR(write_safetensors(path, {{"\xff", one}}), "cannot be the name of a tensor");
  CHECK_ERROR(write_safetensors(path, {{"a", one}}, {{"config", "\xc0\x80"}}),
              "expected UTF-8 in the metadata 'config'");
  CHECK(files_in(dir.path) == 0);
}

TEST_CASE("safetensors: a header of any other writer is read", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  write_content(path, safetensors_content("{ \"b\" : {\"data_offsets\":[3,7], \"dtype\":\"F32\",\"shape\":[ ] } ,\n"
                                          "\"__metadata__\":{\"\\u00e9\\ud83d\\ude42\\/\\t\":\"\\\\\"},"
                                          "\"a\\u0041\":{\"dtype\":\"U8\",\"shape\":[3,1],\"data_offsets\":[0,3]},"
                                          "\"none\":{\"dtype\":\"I64\",\"shape\":[0,9],\"data_offsets\":[3,3]}}",
                                          7));
  const TensorMap got = read_safetensors(path);
  CHECK(names_of(got) == std::vector<std::string>{"aA", "b", "none"});
  CHECK(same(got.at("aA"), torch::ones({3, 1}, torch::kUInt8)));
  CHECK(got.at("b").view(torch::kInt32).item<int>() == 0x01010101);  // it stands at an odd address
  CHECK(got.at("none").sizes() == c10::IntArrayRef{0, 9});
  CHECK(read_safetensors_metadata(path) == std::map<std::string, std::string>{{"é🙂/\t", "\\"}});
}

TEST_CASE("safetensors: every breach of the format is refused", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  const auto tensor = [](const std::string& name, const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  struct Breach {
    std::string header;
    size_t data_size;
    std::string error;
  };
  const std::vector<Breach> breaches{
      {"{" + tensor("a", "F32", "[2]", "[0,8]") + "}", 7, "expected 8 bytes of tensors, got 7"},
      {"{" + tensor("a", "F32", "[2]", "[0,8]") + "}", 9, "expected 8 bytes of tensors, got 9"},
      {"{" + tensor("a", "F31", "[2]", "[0,8]") + "}", 8, "tensor 'a' has the unknown dtype 'F31'"},
      {"{" + tensor("a", "F32", "[3]", "[0,8]") + "}", 8, "tensor 'a' of shape [3] and dtype F32 does not fit its 8"},
      {"{" + tensor("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}", 0, "does not fit its 0 bytes"},
      {"{" + tensor("a", "U8", "[0,4611686018427387904,4]", "[0,0]") + "}", 0, "does not fit its 0 bytes"},
      {"{" + tensor("a", "U8", "[-1]", "[0,8]") + "}", 8, "expected a number that is whole and not negative"},
      {"{" + tensor("a", "U8", "[8.0]", "[0,8]") + "}", 8, "expected ']'"},
      {"{" + tensor("a", "U8", "[08]", "[0,8]") + "}", 8, "a number with leading zeros"},
      {"{" + tensor("a", "U8", "[9223372036854775808]", "[0,8]") + "}", 8, "a number of more than 63 bits"},
      {"{" + tensor("a", "U8", "[4]", "[4,8]") + "}", 8, "'a' has bytes 4 to 8, expected them to begin at 0"},
      {"{" + tensor("a", "U8", "[4]", "[8,4]") + "}", 8, "'a' has bytes 8 to 4, expected them to begin at 0"},
      {"{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[6]", "[2,8]") + "}", 8,
       "'b' has bytes 2 to 8, expected them to begin at 4"},
      {"{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[2]", "[6,8]") + "}", 8,
       "'b' has bytes 6 to 8, expected them to begin at 4"},
      {"{" + tensor("a", "U8", "[8]", "[0,8,8]") + "}", 8, "a third number in data_offsets"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8]}}", 8, "tensor 'a' needs two data_offsets"},
      {"{\"a\":{\"shape\":[8],\"data_offsets\":[0,8]}}", 8, "tensor 'a' has the unknown dtype ''"},
      {"{\"a\":{\"dtype\":\"U8\",\"more\":[8]}}", 8, "tensor 'a' has an unknown field 'more'"},
      {"{" + tensor("a", "U8", "[8]", "[0,8]") + "," + tensor("a", "U8", "[8]", "[0,8]") + "}", 8,
       "the key 'a' stands twice"},
      {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 8, "the key 'dtype' stands twice"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "the key 'k' stands twice"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "expected '\"'"},
      {"{\"a\":[]}", 0, "expected '{'"},
      {"{" + std::string(100000, '['), 0, "expected '\"'"},
      {"{\"a\":" + std::string(100000, '{'), 0, "expected '\"'"},
      {"{} x", 0, "something follows the end"},
      {"{\"a\"", 0, "expected ':'"},
      {"{\"a", 0, "it ends too early"},
      {"{\"\\x\":", 0, "an unknown escape"},
      {"{\"\\u12g4\":", 0, "a bad \\u escape"},
      {"{\"\\ud83d\":", 0, "half a surrogate pair"},
      {"{\"\\udc00\":", 0, "half a surrogate pair"},
      {"{\"\xc3\":", 0, "a string that is not UTF-8"},
      {"{\"\xed\xa0\x80\":", 0, "a string that is not UTF-8"},
      {"{\"\n\":", 0, "a control character in a string"},
  };
  for (const Breach& breach : breaches) {
    INFO(breach.header.substr(0, 200));
    write_content(path, safetensors_content(breach.header, breach.data_size));
    CHECK_ERROR(read_tensors(path), breach.error);
    CHECK_ERROR(read_tensors(path), path + ": ");
  }
}

TEST_CASE("safetensors: lengths of the header that cannot be", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  const std::string good = safetensors_content("{}", 0);
  for (const char* length :
       {"\0\0\0\0\0\0\0\x80", "\xff\xff\xff\xff\xff\xff\xff\xff", "\xf8\xff\xff\xff\xff\xff\xff\xff"}) {
    write_content(path, std::string(length, 8) + good.substr(8));
    CHECK_ERROR(read_tensors(path), path + ": not a safetensors file: a header of ");
  }
  write_content(path, std::string("\3\0\0\0\0\0\0\0", 8) + good.substr(8));
  CHECK_ERROR(read_tensors(path), path + ": truncated or corrupt: needs 3 more bytes at byte 8 of 10");
  write_content(path, std::string("\0\0\0\0\0\0\0\0", 8) + good.substr(8));
  CHECK_ERROR(read_tensors(path), "invalid header: expected '{'");
  write_content(path, "{}");
  CHECK_ERROR(read_safetensors(path), path + ": truncated or corrupt: needs 8 more bytes at byte 0 of 2");
}

// ------------------------------------------------------------------------------------------------------ mapped files

TEST_CASE("Large files are mapped: nothing is read that is not used", "[io]") {
  const TempDir dir;
  // A sparse file of 1 GiB: it takes no room on the disk, and would take 1 GiB of memory.
  constexpr size_t kBytes = size_t{1} << 30;
  const std::string path = (dir.path / "x.safetensors").string();
  const std::string size = std::to_string(kBytes);
  write_content(path, safetensors_content(
                          R"({"a":{"dtype":"U8","shape":[)" + size + R"(],"data_offsets":[0,)" + size + "]}}", 0));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + kBytes);

  const size_t before = resident_bytes();
  const Tensor a = read_tensors(path).at("a");
  CHECK(a.numel() == kBytes);
  CHECK(resident_bytes() - before < 10'000'000);
  CHECK(a[-1].item<int>() == 0);
  CHECK(read_safetensors_metadata(path).empty());
  CHECK(resident_bytes() - before < 10'000'000);
}

TEST_CASE("Mapped files: operations in place leave the file alone, and tensors outlive its name", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  constexpr int64_t kElements = 5'000'000;
  write_safetensors(path, {{"a", torch::arange(kElements, torch::kFloat32)}, {"b", torch::ones({3})}});
  REQUIRE(std::filesystem::file_size(path) > smooseg::io::detail::FileBytes::kMapFrom);
  std::filesystem::permissions(path, std::filesystem::perms::owner_read);
  const std::string content = content_of(path);

  TensorMap tensors = read_tensors(path);
  tensors.at("a").mul_(-1);
  tensors.at("b").zero_();
  CHECK(tensors.at("a")[-1].item<float>() == -static_cast<float>(kElements - 1));
  CHECK(content_of(path) == content);
  CHECK(read_tensors(path).at("b").sum().item<float>() == 3);

  // Ours may be written over the file that it comes from, since it is renamed into place; or the file be deleted.
  write_safetensors(path, tensors);
  CHECK(tensors.at("a")[7].item<float>() == -7);
  const Tensor again = read_tensors(path).at("a");
  std::filesystem::remove(path);
  CHECK(same(again, tensors.at("a")));
}

TEST_CASE("Mapped files: a tensor at an odd address is copied, and no other", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  constexpr size_t kPadding = 17'000'000;
  const std::string header = R"({"bytes":{"dtype":"U8","shape":[17000001],"data_offsets":[0,17000001]},)"
                             R"("odd":{"dtype":"F32","shape":[2],"data_offsets":[17000001,17000009]}})";
  write_content(path, little(header.size(), 8) + header + std::string(kPadding, '\0') + "\1" +
                          std::string("\0\0\x80\x3f\0\0\0\xc0", 8));
  const TensorMap tensors = read_tensors(path);
  CHECK(same(tensors.at("odd"), torch::tensor({1.0F, -2.0F})));
  CHECK(reinterpret_cast<uintptr_t>(tensors.at("odd").data_ptr()) % 4 == 0);
  CHECK(static_cast<const uint8_t*>(tensors.at("bytes").data_ptr())[kPadding] == 1);
}

TEST_CASE("Mapped checkpoints: elements are compared with their checksums when asked to", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  constexpr size_t kBytes = 20'000'000;
  const std::string good =
      zip_of(dict_of("w", pickled_tensor(0, kBytes / 4, 1, kBytes / 4)), std::string(kBytes, 'e'), true);
  write_content(path, good);
  CHECK(read_tensors(path).at("w").numel() == kBytes / 4);
  CHECK(error_of([&] { verify_torch_checkpoint(path); }).empty());

  std::string damaged = good;
  damaged[kBytes / 2] = 'E';
  write_content(path, damaged);
  CHECK(read_tensors(path).at("w").numel() == kBytes / 4);
  CHECK_ERROR(verify_torch_checkpoint(path), path + ": damaged: entry 'x/data/0' has the checksum ");
  damaged = good;
  damaged[damaged.find("storage")] = 'S';
  write_content(path, damaged);
  CHECK_ERROR(read_tensors(path), path + ": damaged: entry 'x/data.pkl' has the checksum ");
  CHECK_ERROR(verify_torch_checkpoint(data_path("legacy_format.pth")), "no checksums in it");
}

TEST_CASE("Small files are read, and may change afterwards", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  write_safetensors(path, {{"a", torch::arange(10000)}});
  const Tensor a = read_tensors(path).at("a");
  std::filesystem::resize_file(path, 0);
  CHECK(same(a, torch::arange(10000)));
}

// -------------------------------------------------------------------------------------------- PyTorch's checkpoints

TEST_CASE("torch checkpoints: dtypes, views, Parameters and nested dicts", "[io]") {
  const TensorMap got = golden("dtypes_and_views.pth");
  const auto range = [](int begin, int end) { return torch::arange(begin, end, torch::kFloat32); };
  const TensorMap expected{{"half", range(0, 12).reshape({3, 4}).to(torch::kFloat16)},
                           {"bf16", range(0, 6).to(torch::kBFloat16)},
                           {"transposed", range(0, 20).reshape({4, 5}).t()},
                           {"slice", range(3, 9)},
                           {"shared_a", range(0, 10)},
                           {"shared_b", range(10, 20)},
                           {"scalar", torch::tensor(3.5F)},
                           {"empty", torch::empty({0, 4})},
                           {"param", torch::ones({2, 2})},
                           {"int", torch::tensor({1, -2}, torch::kInt64)},
                           {"bool", torch::tensor({true, false})},
                           {"nested.x", torch::ones({1})}};
  CHECK(names_of(got) == names_of(expected));
  check_same(got, expected);
  CHECK(got.at("transposed").strides() == c10::IntArrayRef{1, 5});
  CHECK(got.at("shared_a").data_ptr<float>() + 10 == got.at("shared_b").data_ptr<float>());
  CHECK(got.at("shared_a").storage().data_ptr().get() == got.at("shared_b").storage().data_ptr().get());
}

// Written by torch.save(..., pickle_protocol=4) of PyTorch 2.15 and repacked by Python's zipfile with every size and
// offset in zip64 fields, and nothing aligned.
TEST_CASE("torch checkpoints: zip64, pickle protocol 4, lists and tuples", "[io]") {
  const TensorMap got = golden("zip64_protocol4.pth");
  const TensorMap expected{{"a.0", torch::tensor({{0, 1, 2}, {3, 4, 5}}, torch::kInt16)},
                           {"a.1.7", torch::tensor({0.5, -0.25}, torch::kFloat64)},
                           {"a.1.b", torch::tensor({{1, 4}, {2, 5}}, torch::kInt16)},
                           {"c.0", torch::view_as_complex(torch::tensor({{1.0F, 2.0F}, {-0.0F, -3.0F}}))},
                           {"expanded", torch::full({3}, 2.5F)},
                           {"i32", torch::tensor({std::numeric_limits<int32_t>::min()}, torch::kInt32)},
                           {"i8", torch::tensor({-128, 127}, torch::kInt8)},
                           {"u8", torch::tensor({0, 255}, torch::kUInt8)}};
  CHECK(names_of(got) == names_of(expected));
  check_same(got, expected);
}

TEST_CASE("torch checkpoints: Lightning's, with objects of unknown classes", "[io]") {
  const TensorMap expected = golden("lightning_expected.safetensors");
  REQUIRE(expected.size() == 9);
  const TensorMap got = golden("lightning.ckpt");
  CHECK(got.size() == 12);
  check_same(got, expected, "state_dict.");
  CHECK(got.at("optimizer_states.0.state.0.step").item<float>() == 1200);

  const TensorMap real = golden("lightning_real_expected.safetensors");
  REQUIRE(real.size() == 8);
  check_same(golden("lightning_real.ckpt"), real, "state_dict.");
}

TEST_CASE("torch checkpoints: the legacy format", "[io]") {
  const TensorMap expected = golden("lightning_expected.safetensors");
  const TensorMap got = golden("legacy_format.pth");
  CHECK(names_of(got) == names_of(expected));
  check_same(got, expected);
}

// Written by PyTorch 2.15. What it does with every kind of file is compared in python_files.py.
TEST_CASE("torch checkpoints: attributes, lazy conjugates, complex32, pickle protocol 5", "[io]") {
  const TensorMap got = golden("attributes_protocol5.pth");
  const auto complex = [](double a, double b, double c, double d) {
    return torch::view_as_complex(torch::tensor({{a, b}, {c, d}}, torch::kFloat32));
  };
  const TensorMap expected{{"parameter", torch::tensor({1.0F, 2.0F})},
                           {"attribute", torch::tensor({3.0F, 4.0F})},
                           {"plain", complex(1, 2, -0.0, -3)},
                           {"conj", complex(1, -2, -0.0, 3)},
                           {"neg", torch::tensor({-2.0F, 3.0F})}};
  CHECK(got.size() == expected.size() + 1);
  check_same(got, expected);
  CHECK(got.at("plain").data_ptr() == got.at("conj").data_ptr());
  REQUIRE(got.at("complex32").scalar_type() == torch::kComplexHalf);
  CHECK(same(torch::view_as_real(got.at("complex32")), torch::tensor({{1, 2}}).to(torch::kFloat16)));
}

TEST_CASE("torch checkpoints: dtypes that this LibTorch does not have are named", "[io]") {
  const std::string path = data_path("newer_dtypes.pth");
  if (!smooseg::detail::newer_dtype("uint64")) {
    CHECK_ERROR(read_tensors(path),
                path + ": tensor 'uint64' has dtype torch.uint64, which cannot be read with LibTorch ");
    return;
  }
  const TensorMap got = read_tensors(path);
  CHECK(got.at("uint64").scalar_type() == smooseg::detail::newer_dtype("uint64"));
  CHECK(same(got.at("uint64").view(torch::kInt64), torch::tensor({0, -1}, torch::kInt64)));
  CHECK(got.at("float8").scalar_type() == smooseg::detail::newer_dtype("float8_e4m3fn"));
  CHECK(same(got.at("float8").to(torch::kFloat32), torch::tensor({0.5F, -448.0F})));
}

TEST_CASE("torch checkpoints: what torch::pickle_save writes", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const Tensor a = torch::arange(6, torch::kFloat32).reshape({2, 3}), b = torch::tensor({true, false});
  c10::Dict<std::string, Tensor> dict;
  dict.insert("a", a.t());
  dict.insert("b", b);
  const auto save = [&](const c10::IValue& value) {
    const std::vector<char> bytes = torch::pickle_save(value);
    write_content(path, std::string(bytes.begin(), bytes.end()));
  };
  save(dict);
  TensorMap got = read_tensors(path);
  CHECK(names_of(got) == std::vector<std::string>{"a", "b"});
  check_same(got, {{"a", a.t()}, {"b", b}});
  save(std::vector<Tensor>{b, a});
  got = read_tensors(path);
  CHECK(names_of(got) == std::vector<std::string>{"0", "1"});
  check_same(got, {{"0", b}, {"1", a}});
  save(a);
  CHECK(same(read_tensors(path).at(""), a));
}

TEST_CASE("torch checkpoints: members of an OrderedDict as Python 2 wrote them", "[io]") {
  const TempDir dir;
  const std::string pairs =
      "]]" + pickled("w") + "a" + pickled_tensor(0, 2, 1, 4) + "aa](U\1v" + pickled_tensor(2, 2, 1, 4) + "ea";
  write_content(dir.path / "x.pth", zip_of("ccollections\nOrderedDict\n" + pairs + "\x85R",
                                           std::string("\0\0\x80\x3f\0\0\0\0\0\0\0\0\0\0\0\xc0", 16)));
  const TensorMap got = read_tensors((dir.path / "x.pth").string());
  CHECK(names_of(got) == std::vector<std::string>{"v", "w"});
  check_same(got, {{"w", torch::tensor({1.0F, 0.0F})}, {"v", torch::tensor({0.0F, -2.0F})}});
}

TEST_CASE("torch checkpoints: DINO's full training checkpoint", "[io]") {
  const TensorMap got = golden("dino_full.pth");
  const auto count = [&](const std::string& prefix) {
    return std::count_if(got.begin(), got.end(), [&](const auto& t) { return t.first.rfind(prefix, 0) == 0; });
  };
  CHECK(count("teacher.backbone.") == 30);
  CHECK(count("student.module.backbone.") == 30);
  CHECK(count("optimizer.state.") > 0);
  CHECK(count("args") == 0);
}

TEST_CASE("torch checkpoints: DINO's weights", "[io]") {
  const TensorMap got = golden("dino_vit_p8.pth");
  std::vector<std::string> names{"cls_token",   "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
                                 "norm.weight", "norm.bias"};
  for (const std::string block : {"blocks.0.", "blocks.1.", "blocks.2."}) {
    for (const std::string part : {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}) {
      for (const std::string kind : {".weight", ".bias"}) names.push_back(block + part + kind);
    }
  }
  std::sort(names.begin(), names.end());
  CHECK(names_of(got) == names);
  // As Python prints them.
  const auto sum_of = [&](const std::string& name) { return got.at(name).to(torch::kFloat64).sum().item<double>(); };
  CHECK(got.at("pos_embed").sizes() == c10::IntArrayRef{1, 65, 48});
  CHECK(got.at("pos_embed").flatten()[1].item<float>() == 0.009803025051951408F);
  CHECK(sum_of("pos_embed") == Catch::Approx(10.944004614138976).epsilon(1e-12));
  CHECK(sum_of("cls_token") == Catch::Approx(0.6776534551754594).epsilon(1e-12));
  CHECK(sum_of("blocks.1.attn.qkv.weight") == Catch::Approx(-8.377149251871742).epsilon(1e-12));
  CHECK(got.at("norm.bias")[-1].item<float>() == -0.14047643542289734F);
}

TEST_CASE("torch checkpoints: nothing is run, and unknown objects are skipped with all they hold", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const std::string flag = (dir.path / "flag").string();
  const std::string harm = "cos\nsystem\n(" + pickled("touch " + flag) + "tR";
  const std::string object = "cmine\nModel\n)\x81" + dict_of("w", pickled_tensor(0, 2, 1, 4)) + "b";
  write_content(path, zip_of("}(" + pickled("harm") + harm + pickled("object") + object + pickled("w") +
                                 pickled_tensor(1, 2, 2, 4) + "u",
                             std::string("\0\0\0\0\0\0\x80\x3f\0\0\0\0\0\0\0\xc0", 16)));
  const TensorMap got = read_torch_checkpoint(path);
  CHECK(names_of(got) == std::vector<std::string>{"w"});
  CHECK(same(got.at("w"), torch::tensor({1.0F, -2.0F})));
  CHECK_FALSE(std::filesystem::exists(flag));

  write_content(path, zip_of(object));
  CHECK_ERROR(read_tensors(path), path + ": no tensors in it; where a whole module was saved, save its state_dict()");
}

TEST_CASE("torch checkpoints: tensors must lie within their storage, and storages in the file", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const auto check_tensor = [&](const std::string& tensor, const std::string& error) {
    write_content(path, zip_of(dict_of("w", tensor)));
    CHECK_ERROR(read_tensors(path), error);
    CHECK_ERROR(read_tensors(path), path + ": ");
  };
  check_tensor(pickled_tensor(0, 5, 1, 4), "tensor 'w' with offset 0, sizes [5] and strides [1] does not fit its");
  check_tensor(pickled_tensor(3, 2, 1, 4), "tensor 'w' with offset 3");
  check_tensor(pickled_tensor(0, 3, 2, 4), "strides [2] does not fit its storage of 4 elements");
  check_tensor(pickled_tensor(0, 0x7fffffff, 0x7fffffff, 4), "does not fit its storage of 4 elements");
  check_tensor(pickled_tensor(0xffffffff, 1, 1, 4), "tensor 'w' with offset -1");
  check_tensor(pickled_tensor(0, 0xffffffff, 1, 4), "sizes or strides that are not up to 64 numbers from 0 up");
  check_tensor(pickled_tensor(0, 5, 1, 5), "storage '0' has 16 bytes, expected 20");
  check_tensor(pickled_tensor(0, 1, 1, 4, "0", "QInt8Storage"),
               "tensor 'w': storages of class torch.QInt8Storage are not");
  check_tensor("ctorch._utils\n_rebuild_sparse_tensor\n)R",
               "tensor 'w' was saved by torch._utils._rebuild_sparse_tensor");
  check_tensor(pickled_tensor(0, 1, 1, 0xffffffff), "a storage without class, key and size");
  write_content(path, ZipMaker().entry("x/data.pkl", dict_of("w", pickled_tensor(0, 1, 1, 4)) + ".").content());
  CHECK_ERROR(read_tensors(path), path + ": corrupt archive: no entry 'x/data/0'");
}

TEST_CASE("read_tensors says what is wrong with a path", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x").string();
  CHECK_ERROR(read_tensors(path), path + ": no such file");
  CHECK_ERROR(read_tensors(dir.path.string()), dir.path.string() + ": is a folder, expected a file");
  CHECK_ERROR(read_tensors("/dev/null"), "/dev/null: is not a regular file");
  write_content(path, "");
  CHECK_ERROR(read_tensors(path), path + ": is empty");
  write_content(path, "<!DOCTYPE html>\n<title>404");
  CHECK_ERROR(read_tensors(path),
              path + ": neither a safetensors file nor a PyTorch checkpoint: it begins with '<!DOCTYPE html>.'");
}

// --------------------------------------------------------------------------------------------------------- loading

TEST_CASE("load: by name, converted, from any format", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  write_safetensors(path, outer_tensors());
  Outer module;
  const LoadReport report = load(module, path);
  CHECK(report.complete());
  CHECK(report.prefix.empty());
  CHECK(report.loaded == std::vector<std::string>{"count", "inner.bias", "textons", "weight"});
  CHECK(report.message() == "4 tensors fit");
  CHECK(same(module.weight, torch::arange(6, torch::kFloat64).reshape({2, 3})));
  CHECK(module.weight.requires_grad());
  CHECK(module.count.item<int64_t>() == 7);
  CHECK(same(module.inner->bias, torch::tensor({1.5F, -2.0F})));
  // The buffer without a size took the file's, in the module's own list and in its member.
  CHECK(same(module.textons, torch::ones({4, 2})));
  CHECK(same(module.named_buffers()["textons"], torch::ones({4, 2})));
}

TEST_CASE("load: what does not fit is told, and nothing is changed", "[io]") {
  TensorMap tensors = outer_tensors();
  tensors.erase("count");
  tensors["weight"] = torch::ones({3, 2});
  tensors["inner.bias"] = torch::ones({2}, torch::kInt64);
  tensors["head.weight"] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors, {}, "file.pth"),
              "file.pth: does not fit the module: 1 tensor fits; 1 missing (count); 1 unexpected (head.weight); "
              "2 mismatched (inner.bias: expected dtype Float, got Long, weight: expected shape (2, 3), got (3, 2))");
  CHECK(module.textons.numel() == 0);
  CHECK(module.weight.abs().sum().item<double>() == 0);

  const LoadReport report = load_tensors(module, tensors, LoadOptions().strict(false));
  CHECK_FALSE(report.complete());
  CHECK(report.loaded == std::vector<std::string>{"textons"});
  CHECK(report.missing == std::vector<std::string>{"count"});
  CHECK(report.unexpected == std::vector<std::string>{"head.weight"});
  CHECK(report.mismatched.size() == 2);
  CHECK(module.textons.numel() == 8);
  CHECK(module.weight.abs().sum().item<double>() == 0);

  CHECK_ERROR(load_tensors(module, {{"x", torch::ones({1})}}, LoadOptions().strict(false)),
              "load_tensors: does not fit the module: 0 tensors fit; 4 missing (count, inner.bias, textons, weight)");
  CHECK_ERROR(load_tensors(module, {}), "0 tensors fit; 4 missing");
}

TEST_CASE("load: names that may be in the file nevertheless", "[io]") {
  TensorMap tensors = outer_tensors("backbone.");
  tensors["backbone.head.weight"] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors), "1 unexpected (head.weight); under the prefix 'backbone.'");
  CHECK(load_tensors(module, tensors, LoadOptions().ignore({"head."})).complete());
}

TEST_CASE("load: the prefix is found, or given", "[io]") {
  Outer module;
  CHECK(load_tensors(module, outer_tensors("state_dict.module.")).prefix == "state_dict.module.");

  // A whole training checkpoint: the teacher is the one to use, and everything else is left alone.
  TensorMap tensors = outer_tensors("student.module.backbone.");
  tensors.merge(outer_tensors("teacher.backbone."));
  tensors["teacher.backbone.inner.bias"] = torch::tensor({3.0F, 4.0F});
  tensors["optimizer.state.0.exp_avg"] = torch::ones({1});
  const LoadReport report = load_tensors(module, tensors);
  CHECK(report.complete());
  CHECK(report.prefix == "teacher.backbone.");
  CHECK(same(module.inner->bias, torch::tensor({3.0F, 4.0F})));
  CHECK(load_tensors(module, tensors, LoadOptions().prefix("student.module.backbone.")).complete());
  CHECK(same(module.inner->bias, torch::tensor({1.5F, -2.0F})));

  // Names that fit as they are come before those under a prefix.
  tensors.merge(outer_tensors());
  CHECK(load_tensors(module, tensors, LoadOptions().strict(false)).prefix.empty());

  TensorMap alike = outer_tensors("a.");
  alike.merge(outer_tensors("b."));
  CHECK_ERROR(load_tensors(module, alike), "the module's names are found under 'a.' and under 'b.' alike; choose");
}

TEST_CASE("load: a long list of names is cut", "[io]") {
  TensorMap tensors = outer_tensors();
  for (int i = 10; i < 21; ++i) tensors["x" + std::to_string(i)] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors), "11 unexpected (x10, x11, x12, x13, x14, x15, x16, x17, x18, x19, ...)");
}
