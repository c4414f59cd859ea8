// The safetensors format, and what is not read of large files.

#include <torch/types.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;
using torch::Tensor;

/// What of this process lies in memory, mapped pages that were touched included.
size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

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

  const auto [got, got_metadata] = read_safetensors_content(path);
  check_same(got, tensors);
  CHECK(got_metadata == metadata);
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

// ---------------------------------------------------------------------------------------------------- mapped files

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
