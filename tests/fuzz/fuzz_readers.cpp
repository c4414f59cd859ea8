// Feeds a reader of files with whatever libFuzzer makes up. Every input must be refused with a c10::Error or read; the
// sanitizers watch. Built and run by run.sh; --reader=NAME chooses among the `kReaders` below.

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "smooseg/io/safetensors.hpp"
#include "smooseg/io/torch_checkpoint.hpp"

namespace {

namespace readers = smooseg::io::detail;
using readers::FileBytes;
using smooseg::io::TensorMap;

/// Reads each element that a tensor shows; a stride of 0 can show more than there is memory for.
void touch(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.numel() < 100'000) tensor.clone();
  }
}

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz_readers: not so: %s\n", what);
  std::abort();
}

void read_checkpoint(std::string_view input) {
  touch(readers::parse_torch_checkpoint(FileBytes::copy_of("input", input)));
}

/// The pickle of a checkpoint, all of whose storages are there.
void read_pickle(std::string_view input) {
  const FileBytes file = FileBytes::copy_of("input", input);
  const readers::Unpickler unpickler(file);
  require(unpickler.end() <= input.size(), "a pickle ends within its file");
  const FileBytes storage = FileBytes::copy_of("storage", std::string(1 << 12, '\1'));
  readers::TensorCollector collector("input", [&](const readers::StorageId&) { return storage; });
  touch(collector.collect(unpickler.root()));
}

void read_safetensors(std::string_view input) {
  touch(readers::parse_safetensors(FileBytes::copy_of("input", input)).tensors);
}

/// The header of a safetensors file, and any text as a JSON string.
void read_json(std::string_view input) {
  if (readers::is_utf8(input)) {
    const std::string quoted = readers::json_quoted(input);
    readers::JsonReader json(quoted, "quoted");
    require(json.string() == input, "a quoted string is read as it was");
    json.end();
  }
  std::string file;
  for (size_t shift = 0; shift < 64; shift += 8) file += static_cast<char>((input.size() >> shift) & 0xFF);
  readers::read_safetensors_header(FileBytes::copy_of("input", file.append(input)));
}

struct Reader {
  std::string_view name;
  void (*read)(std::string_view input);
};
constexpr Reader kReaders[] = {{"zip", read_checkpoint},
                               {"legacy", read_checkpoint},
                               {"pickle", read_pickle},
                               {"safetensors", read_safetensors},
                               {"json", read_json}};

const Reader* reader = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kOption = "--reader=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    for (const Reader& known : kReaders) {
      if (argument.substr(0, kOption.size()) == kOption && argument.substr(kOption.size()) == known.name)
        reader = &known;
    }
  }
  require(reader != nullptr, "--reader=zip|legacy|pickle|safetensors|json is given");
  // Looking up the symbols of a stack takes a thousand times as long as refusing a file.
  c10::SetStackTraceFetcher([] { return std::string(); });
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    reader->read({reinterpret_cast<const char*>(data), size});
  } catch (const c10::Error&) {
  }
  return 0;
}
