#pragma once

// The names that other programs give to the tensors of our modules: a table for each kind of module, and renaming by
// it. To add a program, add a column or a table here.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/io/detail/text.hpp"
#include "smooseg/io/safetensors.hpp"

namespace smooseg::io {

namespace detail {

/// A vision transformer's tensors, in our names (DINO's and DINOv2's own) and those of timm, of Hugging Face's ViTModel
/// and of its Dinov2Model (with registers or not). '#' stands for a number, '*' for the rest, '{a,b,c}' for several
/// tensors that ours holds one after the other along dimension 0; "" for what a program's model does not have.
inline constexpr std::string_view kTransformerNames[][4] = {
    {"cls_token", "cls_token", "embeddings.cls_token", "embeddings.cls_token"},
    {"pos_embed", "pos_embed", "embeddings.position_embeddings", "embeddings.position_embeddings"},
    {"register_tokens", "reg_token", "", "embeddings.register_tokens"},
    {"patch_embed.proj.*", "patch_embed.proj.*", "embeddings.patch_embeddings.projection.*",
     "embeddings.patch_embeddings.projection.*"},
    {"blocks.#.norm1.*", "blocks.#.norm1.*", "encoder.layer.#.layernorm_before.*", "encoder.layer.#.norm1.*"},
    {"blocks.#.attn.qkv.*", "blocks.#.attn.qkv.*", "encoder.layer.#.attention.attention.{query,key,value}.*",
     "encoder.layer.#.attention.attention.{query,key,value}.*"},
    {"blocks.#.attn.proj.*", "blocks.#.attn.proj.*", "encoder.layer.#.attention.output.dense.*",
     "encoder.layer.#.attention.output.dense.*"},
    {"blocks.#.ls1.gamma", "blocks.#.ls1.gamma", "", "encoder.layer.#.layer_scale1.lambda1"},
    {"blocks.#.norm2.*", "blocks.#.norm2.*", "encoder.layer.#.layernorm_after.*", "encoder.layer.#.norm2.*"},
    {"blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*", "encoder.layer.#.intermediate.dense.*", "encoder.layer.#.mlp.fc1.*"},
    {"blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*", "encoder.layer.#.output.dense.*", "encoder.layer.#.mlp.fc2.*"},
    {"blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*", "", "encoder.layer.#.mlp.weights_in.*"},
    {"blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*", "", "encoder.layer.#.mlp.weights_out.*"},
    {"blocks.#.ls2.gamma", "blocks.#.ls2.gamma", "", "encoder.layer.#.layer_scale2.lambda1"},
    {"norm.*", "norm.*", "layernorm.*", "layernorm.*"},
    // Hugging Face's names above are those of `save_pretrained`. In memory since transformers 5, and so in what
    // `torch.save` wrote of a state dict, some are these.
    {"blocks.#.norm1.*", "", "layers.#.layernorm_before.*", ""},
    {"blocks.#.attn.qkv.*", "", "layers.#.attention.{q_proj,k_proj,v_proj}.*",
     "encoder.layer.#.attention.{q_proj,k_proj,v_proj}.*"},
    {"blocks.#.attn.proj.*", "", "layers.#.attention.o_proj.*", "encoder.layer.#.attention.o_proj.*"},
    {"blocks.#.norm2.*", "", "layers.#.layernorm_after.*", ""},
    {"blocks.#.mlp.fc1.*", "", "layers.#.mlp.fc1.*", ""},
    {"blocks.#.mlp.fc2.*", "", "layers.#.mlp.fc2.*", ""},
    {"blocks.#.mlp.w12.*", "", "", "encoder.layer.#.mlp.{gate_proj,up_proj}.*"},
    {"blocks.#.mlp.w3.*", "", "", "encoder.layer.#.mlp.down_proj.*"},
};

/// A ResNet's tensors, whose names are torchvision's in DINO's and MoCo's files, in timm's and in ours.
inline constexpr std::string_view kResNetNames[] = {"conv1.*", "bn1.*", "layer#.#.conv#.*", "layer#.#.bn#.*",
                                                    "layer#.#.downsample.#.*"};

/// The tensors of our Segmenter, in our names and those of SmooSeg's published checkpoints; those of its Projector and
/// PrototypePredictor alone lack the first part. STEGO's checkpoints have the projector under the same names.
inline constexpr std::string_view kSegmenterNames[][2] = {
    {"projector.linear.*", "projection.cluster1.0.*"},   {"projector.mlp.0.*", "projection.cluster2.0.*"},
    {"projector.mlp.2.*", "projection.cluster2.2.*"},    {"predictor.student", "prediction.local_clusters"},
    {"predictor.teacher", "prediction.global_clusters"},
};

/// What '#' and '*' stand for in a name of the pattern's form; '@' is a number that is left out.
inline std::optional<std::vector<std::string_view>> match(std::string_view pattern, std::string_view name) {
  std::vector<std::string_view> found;
  for (const char p : pattern) {
    if (p == '*') {
      found.push_back(name);
      return found;
    }
    if (p == '#' || p == '@') {
      size_t digits = 0;
      while (digits < name.size() && std::isdigit(static_cast<unsigned char>(name[digits])) != 0) ++digits;
      if (digits == 0) return std::nullopt;
      if (p == '#') found.push_back(name.substr(0, digits));
      name.remove_prefix(digits);
    } else {
      if (name.empty() || name.front() != p) return std::nullopt;
      name.remove_prefix(1);
    }
  }
  if (!name.empty()) return std::nullopt;
  return found;
}

/// The pattern with these in place of '#' and '*', one after the other.
inline std::string fill(std::string_view pattern, const std::vector<std::string_view>& found) {
  std::string name;
  size_t next = 0;
  for (const char& p : pattern) name += p == '#' || p == '*' ? found.at(next++) : std::string_view(&p, 1);
  return name;
}

/// "a.{b,c}" as "a.b" and "a.c".
inline std::vector<std::string> alternatives(std::string_view pattern) {
  const size_t open = pattern.find('{'), close = pattern.find('}');
  if (open == std::string_view::npos) return {std::string(pattern)};
  const std::string before(pattern.substr(0, open)), after(pattern.substr(close + 1));
  std::istringstream inside(std::string(pattern.substr(open + 1, close - open - 1)));
  std::vector<std::string> all;
  for (std::string part; std::getline(inside, part, ',');) all.push_back(before + part + after);
  return all;
}

/// A program's names for the tensors of one kind of module.
struct Naming {
  struct Rule {
    std::string ours;
    std::vector<std::string> theirs;  ///< several: the parts of ours along dimension 0
  };

  std::string name;                         ///< as `with_names` knows it; empty: ours
  std::vector<Rule> rules;                  ///< patterns; the first that fits counts
  std::vector<std::string> unused;          ///< beginnings and ends of names that inference never reads
  void (*to_ours)(TensorMap&) = nullptr;    ///< undoes what differs beyond the names
  void (*to_theirs)(TensorMap&) = nullptr;  ///< and does it

  void add(std::string_view ours, std::string_view theirs) {
    if (!theirs.empty()) rules.push_back({std::string(ours), alternatives(theirs)});
  }

  bool is_unused(const std::string& theirs) const {
    return std::any_of(unused.begin(), unused.end(),
                       [&](const std::string& text) { return starts_with(theirs, text) || ends_with(theirs, text); });
  }
};

/// Where there are registers, timm's positions have no entry for the class token, which contains its own already. And
/// timm gives the layers of a SwiGLU the names of the GELU MLP's: they are a SwiGLU's if the first has twice as many
/// outputs as the second has inputs.
inline void timm_to_ours(TensorMap& tensors) {
  const auto positions = tensors.find("pos_embed");
  if (positions != tensors.end() && positions->second.dim() == 3) {
    Tensor& p = positions->second;
    const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(p.size(1)))));
    if (side * side == p.size(1)) p = at::cat({at::zeros_like(p.narrow(1, 0, 1)), p}, 1);
  }
  TensorMap renamed;
  for (auto& [name, tensor] : tensors) {
    const auto found = match("blocks.#.mlp.fc#.*", name);
    std::string ours = name;
    if (found) {
      const auto in = tensors.find(fill("blocks.#.mlp.fc1.weight", *found));
      const auto out = tensors.find(fill("blocks.#.mlp.fc2.weight", *found));
      const bool swiglu = in != tensors.end() && out != tensors.end() && in->second.dim() == 2 &&
                          out->second.dim() == 2 && in->second.size(0) == 2 * out->second.size(1);
      if (swiglu) {
        ours = fill(found->at(1) == "1" ? "blocks.#.mlp.w12.*" : "blocks.#.mlp.w3.*", {found->at(0), found->at(2)});
      }
    }
    renamed[ours] = tensor;
  }
  tensors = std::move(renamed);
}

inline void timm_to_theirs(TensorMap& tensors) {
  const auto token = tensors.find("cls_token"), positions = tensors.find("pos_embed");
  if (tensors.count("register_tokens") == 0 || token == tensors.end() || positions == tensors.end()) return;
  token->second = token->second + positions->second.narrow(1, 0, 1);
  positions->second = positions->second.slice(1, 1);
}

/// All namings, those for the more specific modules first; of several with one name, `with_names` takes the first that
/// fits.
inline const std::vector<Naming>& namings() {
  static const std::vector<Naming> all = [] {
    const std::vector<std::string> head{"mask_token", "head."}, pooler{"mask_token", "pooler."};
    std::vector<Naming> result{{"dino", {}, head},
                               {"timm", {}, head, timm_to_ours, timm_to_theirs},
                               {"huggingface", {}, pooler},
                               {"huggingface", {}, pooler}};
    // DINOv2 trains its blocks in groups, whose number stands before the block's.
    Naming dinov2_training{"", {}, head};
    for (const auto& row : kTransformerNames) {
      const std::string ours(row[0]), block = "blocks.#";
      for (size_t i = 0; i < result.size(); ++i) result[i].add(ours, row[i]);
      dinov2_training.add(ours, starts_with(ours, block) ? "blocks.@.#" + ours.substr(block.size()) : ours);
    }
    Naming torchvision{"torchvision", {}, {"fc.", ".num_batches_tracked"}};
    for (const std::string_view name : kResNetNames) torchvision.add(name, name);
    Naming authors{"authors", {}, {"cluster_metrics."}};
    authors.add("backbone.*", "net.model.*");
    for (const auto& [ours, theirs] : kSegmenterNames) {
      authors.add(ours, theirs);
      authors.add(ours.substr(ours.find('.') + 1), theirs.substr(theirs.find('.') + 1));
    }
    result.insert(result.end(), {dinov2_training, torchvision, authors, {"", {{"*", {"*"}}}, {}}});
    return result;
  }();
  return all;
}

/// Our name for a tensor of theirs, which is the whole of ours or one of several parts.
struct OurName {
  std::string name;
  size_t part, parts;
};

/// The first of our names for one of theirs that `accept(name)` accepts.
template <class Accept>
std::optional<OurName> our_name(const Naming& naming, std::string_view theirs, const Accept& accept) {
  for (const Naming::Rule& rule : naming.rules) {
    for (size_t part = 0; part < rule.theirs.size(); ++part) {
      const auto found = match(rule.theirs[part], theirs);
      if (!found) continue;
      OurName ours{fill(rule.ours, *found), part, rule.theirs.size()};
      if (accept(ours.name)) return ours;
    }
  }
  return std::nullopt;
}

/// Whose names a file has, and what they begin with.
struct NamesFound {
  const Naming* naming = nullptr;
  std::string prefix;
  size_t count = 0;  ///< how many of our names are there
};

/// Which of our names are found in this naming, under each prefix.
template <class Accept>
std::map<std::string, std::set<std::string>> names_by_prefix(const TensorMap& tensors, const Naming& naming,
                                                             const Accept& accept, const std::string& prefix) {
  std::map<std::string, std::set<std::string>> found;
  const auto look = [&](const std::string& name, size_t begin) {
    const auto ours = our_name(naming, std::string_view(name).substr(begin), accept);
    if (ours) found[name.substr(0, begin)].insert(ours->name);
  };
  for (const auto& [name, tensor] : tensors) {
    if (!prefix.empty()) {
      if (starts_with(name, prefix)) look(name, prefix.size());
      continue;
    }
    look(name, 0);
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) look(name, dot + 1);
  }
  return found;
}

/// The naming and prefix (ending in '.', or empty) under which most of our names are found. A preferred copy of the
/// network is chosen even if it lacks some, so that a damaged one is noticed and no other taken in its place.
/// @param accept which of our names count. @param prefix the one to look under; empty: any.
/// @throws c10::Error naming the source where several prefixes would do.
template <class Accept>
NamesFound find_names(const TensorMap& tensors, const std::vector<Naming>& candidates, const Accept& accept,
                      const std::string& prefix, const std::string& source) {
  std::vector<NamesFound> all;
  NamesFound best{nullptr, prefix, 0};  // of equal counts the first naming's, which is the most specific
  for (const Naming& naming : candidates) {
    for (const auto& [beginning, names] : names_by_prefix(tensors, naming, accept, prefix)) {
      all.push_back({&naming, beginning, names.size()});
      if (names.size() > best.count) best = all.back();
    }
  }
  for (const NamesFound& found : all) {
    if (found.count == best.count && found.prefix.empty()) return found;
  }
  const auto is_copy = [](const NamesFound& found) {  // the one to use: DINO's moving average, MoCo's trained encoder
    return found.prefix.find("teacher") != std::string::npos || found.prefix.find("encoder_q") != std::string::npos;
  };
  NamesFound copy;
  for (const NamesFound& found : all) {
    if (is_copy(found) && 2 * found.count > best.count && found.count > copy.count) copy = found;
  }
  const NamesFound chosen = copy.naming != nullptr ? copy : best;
  for (const NamesFound& found : all) {
    const bool alike = found.count == chosen.count && is_copy(found) == is_copy(chosen);
    TORCH_CHECK(!alike || found.prefix == chosen.prefix, source, ": the module's names are found under '",
                chosen.prefix, "' and under '", found.prefix, "' alike; choose with LoadOptions::prefix");
  }
  return chosen;
}

/// The tensors under a prefix in our names; those that have none keep theirs.
/// @param wanted tells which names stay although inference never reads them.
template <class Wanted>
TensorMap to_ours(const TensorMap& tensors, const Naming& naming, const std::string& prefix, const Wanted& wanted) {
  TensorMap result;
  std::map<std::string, std::vector<std::pair<std::string, Tensor>>> parts;  // by our name, theirs in order
  for (auto it = tensors.lower_bound(prefix); it != tensors.end(); ++it) {
    if (!starts_with(it->first, prefix)) break;
    const std::string theirs = it->first.substr(prefix.size());
    if (naming.is_unused(theirs) && !wanted(theirs)) continue;
    const auto ours = our_name(naming, theirs, [](const std::string&) { return true; });
    if (ours && ours->parts > 1) {
      auto& list = parts[ours->name];
      list.resize(ours->parts);
      list[ours->part] = {theirs, it->second};
    } else {
      result[ours ? ours->name : theirs] = it->second;
    }
  }
  for (const auto& [name, list] : parts) {
    std::vector<Tensor> whole;
    for (const auto& [theirs, tensor] : list) {
      // Parts that do not fit together stay as they are, for the report.
      const bool fits = tensor.defined() && list[0].second.defined() && tensor.dim() > 0 &&
                        tensor.sizes().slice(1) == list[0].second.sizes().slice(1) &&
                        tensor.scalar_type() == list[0].second.scalar_type();
      if (fits) whole.push_back(tensor);
    }
    if (whole.size() == list.size()) result[name] = at::cat(whole);
    for (const auto& [theirs, tensor] : list) {
      if (whole.size() < list.size() && tensor.defined()) result[theirs] = tensor;
    }
  }
  if (naming.to_ours != nullptr) naming.to_ours(result);
  return result;
}

/// The tensors in their names, and ""; or no tensors, and the first of our names that they have no name for.
inline std::pair<TensorMap, std::string> to_theirs(TensorMap tensors, const Naming& naming) {
  if (naming.to_theirs != nullptr) naming.to_theirs(tensors);
  TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    const auto rule = std::find_if(naming.rules.begin(), naming.rules.end(),
                                   [&ours = name](const Naming::Rule& r) { return match(r.ours, ours).has_value(); });
    if (rule == naming.rules.end()) return {TensorMap(), name};
    const auto found = *match(rule->ours, name);
    const auto parts = static_cast<int64_t>(rule->theirs.size());
    if (parts > 1 && (tensor.dim() == 0 || tensor.size(0) % parts != 0)) return {TensorMap(), name};
    for (int64_t part = 0; part < parts; ++part) {
      result[fill(rule->theirs[static_cast<size_t>(part)], found)] =
          parts == 1 ? tensor : tensor.chunk(parts)[static_cast<size_t>(part)];
    }
  }
  return {result, ""};
}

}  // namespace detail

/// The namings that `with_names` knows: "dino", "timm", "huggingface" (transformers), "torchvision" (ResNets),
/// "authors" (SmooSeg's published checkpoints).
inline std::vector<std::string> known_namings() {
  std::vector<std::string> names;
  for (const detail::Naming& naming : detail::namings()) {
    const bool is_new = names.empty() || names.back() != naming.name;
    if (!naming.name.empty() && is_new) names.push_back(naming.name);
  }
  return names;
}

/// The tensors of a file in our names, without a prefix and without what inference never reads (a mask token, a head).
/// No module is needed: the naming and the prefix are those under which the most names are known.
/// @param tensors of a transformer, a ResNet or a SmooSeg checkpoint, in any known naming, as from `read_tensors`.
/// @param source what errors call the tensors.
/// @throws c10::Error naming the source where no name is known, or several copies of a network are equally good.
inline TensorMap with_our_names(const TensorMap& tensors, const std::string& source) {
  auto named = detail::namings();
  named.pop_back();  // ours for any module: whatever it is would be known
  const auto found = detail::find_names(
      tensors, named, [](const std::string&) { return true; }, "", source);
  TORCH_CHECK(found.naming != nullptr, source, ": none of its ", tensors.size(), " names is known",
              tensors.empty() ? "" : "; the first is '" + tensors.begin()->first + "'");
  return detail::to_ours(tensors, *found.naming, found.prefix, [](const std::string&) { return false; });
}

/// Tensors in another program's names.
/// @param tensors in our names: a backbone's, or for "authors" a Segmenter's, a Projector's or a PrototypePredictor's.
/// @param naming one of `known_namings()`.
/// @throws c10::Error for another naming, and naming the tensor that the other program's model does not have.
inline TensorMap with_names(const TensorMap& tensors, const std::string& naming) {
  std::string without;
  for (const detail::Naming& candidate : detail::namings()) {
    if (naming.empty() || candidate.name != naming) continue;
    auto [renamed, missing] = detail::to_theirs(tensors, candidate);
    if (missing.empty()) return std::move(renamed);
    without = missing;
  }
  std::string known;
  for (const std::string& name : known_namings()) known += (known.empty() ? "" : ", ") + name;
  TORCH_CHECK(!without.empty(), "with_names: expected one of ", known, ", got '", naming, "'");
  TORCH_CHECK(false, "with_names: '", without, "' has no name in the naming '", naming, "'");
}

}  // namespace smooseg::io
