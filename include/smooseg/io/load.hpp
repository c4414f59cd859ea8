#pragma once

// Weights from any file into a module, by name.

#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/names.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/io/torch_checkpoint.hpp"

namespace smooseg::io {

/// Reads all tensors of a file whose format is recognised by its content: safetensors, or what Python's `torch.save` or
/// C++'s `torch::save` wrote (.pth, .pt, .ckpt). See `read_safetensors` and `read_torch_checkpoint`.
/// @throws c10::Error naming the path where there is no such file, or it is of another kind or damaged.
inline TensorMap read_tensors(const std::string& path) {
  const auto file = detail::FileBytes::read(path);
  if (detail::is_torch_checkpoint(file)) return detail::parse_torch_checkpoint(file);
  const bool is_safetensors = file.size() > 8 && file.view()[8] == '{';
  std::string beginning(file.view().substr(0, 16));
  std::replace_if(
      beginning.begin(), beginning.end(), [](unsigned char c) { return std::isprint(c) == 0; }, '.');
  TORCH_CHECK(is_safetensors, path, ": neither a safetensors file nor a PyTorch checkpoint: it begins with '",
              beginning, "'");
  return detail::parse_safetensors(file).tensors;
}

/// All parameters and buffers of a module by name; the tensors are the module's own.
inline TensorMap tensors_of(const torch::nn::Module& module) {
  TensorMap tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

/// Options for `load` and `load_tensors`.
struct LoadOptions {
  /// Whether the file must have all parameters and buffers of the module, and no other tensors. Default: true
  TORCH_ARG(bool, strict) = true;

  /// What the names of the wanted tensors begin with in the file, such as "teacher.backbone."; it is stripped, and
  /// tensors with other names are left alone. Default: "", which stands for the prefix under which most names of the
  /// module are found: none if that serves as well, and of equals the teacher's (DINO) or encoder_q's (MoCo).
  TORCH_ARG(std::string, prefix);

  /// Beginnings of names (after the prefix) that may be in the file although they are not wanted, such as "head.". Not
  /// needed for what known namings leave out anyway: the mask token, pooler and head of a transformer, the classifier
  /// of a ResNet or ConvNeXt, `cluster_metrics` of SmooSeg's checkpoints.
  TORCH_ARG(std::vector<std::string>, ignore);
};

/// What `load` did, or refused to do.
struct LoadReport {
  std::string prefix;                   ///< what was stripped from the file's names
  std::string naming;                   ///< whose names they are: one of `known_namings()`; empty: the module's own
  std::vector<std::string> loaded;      ///< names, as the module has them
  std::vector<std::string> missing;     ///< names in the module and not in the file
  std::vector<std::string> unexpected;  ///< under the prefix in the file and not in the module
  std::vector<std::string> mismatched;  ///< "name: expected ..., got ..." for other shapes or kinds of dtype

  /// Whether each name of the one side was found on the other.
  bool complete() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }

  /// "4 tensors fit; 1 missing (norm.weight)", with at most ten names of each.
  std::string message() const {
    std::string text = std::to_string(loaded.size()) + (loaded.size() == 1 ? " tensor fits" : " tensors fit");
    for (const auto& [what, names] :
         {std::pair{"missing", &missing}, {"unexpected", &unexpected}, {"mismatched", &mismatched}}) {
      if (!names->empty()) text += "; " + std::to_string(names->size()) + " " + what + " (" + listed(*names) + ")";
    }
    if (!naming.empty()) text += "; in the naming '" + naming + "'";
    if (!prefix.empty()) text += "; under the prefix '" + prefix + "'";
    return text;
  }

 private:
  static std::string listed(const std::vector<std::string>& names) {
    constexpr size_t kMost = 10;
    std::string text;
    for (size_t i = 0; i < std::min(names.size(), kMost); ++i) text += (i > 0 ? ", " : "") + names[i];
    return names.size() > kMost ? text + ", ..." : text;
  }
};

namespace detail {

/// A buffer without elements has no shape yet, and takes the file's.
inline bool takes_any_shape(const Tensor& target) {
  return target.numel() == 0 && !target.requires_grad();
}

/// Why `tensor` cannot be copied to `target`, or "".
inline std::string mismatch(const Tensor& target, const Tensor& tensor) {
  using smooseg::detail::shape_of;
  if (target.sizes() != tensor.sizes() && !takes_any_shape(target)) {
    return "expected shape " + shape_of(target) + ", got " + shape_of(tensor);
  }
  if (target.is_floating_point() != tensor.is_floating_point() || tensor.is_complex() != target.is_complex()) {
    return std::string("expected dtype ") + c10::toString(target.scalar_type()) + ", got " +
           c10::toString(tensor.scalar_type());
  }
  return "";
}

/// Which tensors of a module's state are among those of a file (in our names), and which are not.
inline LoadReport compare(const TensorMap& state, const TensorMap& tensors, const LoadOptions& options) {
  LoadReport report;
  for (const auto& [name, target] : state) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      if (!is_computed(name)) report.missing.push_back(name);
    } else if (const std::string problem = mismatch(target, found->second); !problem.empty()) {
      report.mismatched.push_back(name + ": " + problem);
    } else {
      report.loaded.push_back(name);
    }
  }
  for (const auto& item : tensors) {
    const std::string& name = item.first;
    const bool ignored = std::any_of(options.ignore().begin(), options.ignore().end(),
                                     [&](const std::string& beginning) { return starts_with(name, beginning); });
    if (!ignored && state.count(name) == 0) report.unexpected.push_back(name);
  }
  return report;
}

}  // namespace detail

/// Copies tensors into a module's parameters and buffers by name, converted to their dtype and device. A module is not
/// changed at all when this throws.
///
/// A buffer without elements (whose size was not known before) takes the shape of the tensor. LibTorch does not list
/// undefined buffers, so their names would be unexpected: define them as empty. What a module computes itself (the
/// periods of rotary positions) stays as it is where a file does not have it.
/// @param source what errors call the tensors.
/// @return what was found where; with `strict`, all is `loaded`.
/// @throws c10::Error naming the source: with `strict`, if any tensor is missing, unexpected or of another shape (all
///   are named); without, if not one name of the module is found; and if several prefixes would do.
inline LoadReport load_tensors(torch::nn::Module& module, const TensorMap& tensors, const LoadOptions& options = {},
                               const std::string& source = "load_tensors") {
  const TensorMap state = tensors_of(module);
  const auto wanted = [&](const std::string& name) { return state.count(name) > 0; };
  const detail::NamesFound found = detail::find_names(tensors, detail::namings(), wanted, options.prefix(), source);
  const detail::Naming& naming = found.naming == nullptr ? detail::namings().back() : *found.naming;
  detail::TensorParts parts;
  const TensorMap ours = detail::to_ours(tensors, naming, found.prefix, wanted, &parts);
  LoadReport report = detail::compare(state, ours, options);
  report.prefix = found.prefix;
  report.naming = naming.name;
  const bool fits = options.strict() ? report.complete() : (!report.loaded.empty() || state.empty());
  TORCH_CHECK(fits, source, ": does not fit the module: ", report.message());

  const torch::NoGradGuard no_grad;
  for (const std::string& name : report.loaded) {
    Tensor target = state.at(name);
    const Tensor& tensor = ours.at(name);
    if (detail::takes_any_shape(target)) target.resize_(tensor.sizes());
    const auto in_parts = parts.find(name);
    if (in_parts == parts.end()) {
      target.copy_(tensor);
      continue;
    }
    int64_t row = 0;
    for (const Tensor& part : in_parts->second) {
      target.narrow(0, row, part.size(0)).copy_(part);
      row += part.size(0);
    }
  }
  return report;
}

/// Loads the weights of a file of any known format (`read_tensors`) into a module, by name; see `load_tensors`.
///
///     io::load(*vit, "dino_deitsmall8_pretrain.pth");
///
/// @throws c10::Error naming the file, as `read_tensors` and `load_tensors`.
inline LoadReport load(torch::nn::Module& module, const std::string& path, const LoadOptions& options = {}) {
  return load_tensors(module, read_tensors(path), options, path);
}

}  // namespace smooseg::io
