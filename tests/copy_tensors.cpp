// Copies the tensors of files of any format: what python_files.py has Python's programs compare.
//
// Prints LibTorch's version; then, for each two lines of input, the path of a file to read and that of one to write
// (.safetensors, with the metadata if the other has any, or .pth), a line: "copied", or the error's first line.

#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/version.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <iostream>
#include <ostream>
#include <string>
#include <vector>

#include "smooseg/io/atomic_file.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"

namespace {

using namespace smooseg::io;

/// Complex numbers of dtypes that safetensors does not know as pairs of real ones.
torch::Tensor writable(const torch::Tensor& tensor) {
  const bool known = !tensor.is_complex() || tensor.scalar_type() == torch::kComplexFloat;
  return known ? tensor : torch::view_as_real(tensor.resolve_conj());
}

// pickle_save forgets that elements are to be conjugated.
void write_pth(const std::string& path, const TensorMap& tensors) {
  c10::Dict<std::string, torch::Tensor> dict;
  for (const auto& [name, tensor] : tensors) dict.insert(name, tensor.resolve_conj().resolve_neg());
  const std::vector<char> bytes = torch::pickle_save(dict);
  write_file_atomically(
      path, [&](std::ostream& out) { out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())); });
}

void copy(const std::string& in, const std::string& out) {
  const bool has_metadata = std::filesystem::path(in).extension() == ".safetensors";
  SafetensorsContent content = has_metadata ? read_safetensors_content(in) : SafetensorsContent{read_tensors(in), {}};
  if (std::filesystem::path(out).extension() == ".pth") return write_pth(out, content.tensors);
  for (auto& [name, tensor] : content.tensors) tensor = writable(tensor);
  write_safetensors(out, content.tensors, content.metadata);
}

}  // namespace

int main() {
  std::cout << TORCH_VERSION << std::endl;
  std::string in, out;
  while (std::getline(std::cin, in) && std::getline(std::cin, out)) {
    std::string answer = "copied";
    try {
      copy(in, out);
    } catch (const std::exception& e) {
      answer = e.what();
    }
    std::cout << answer.substr(0, answer.find('\n')) << std::endl;
  }
}
