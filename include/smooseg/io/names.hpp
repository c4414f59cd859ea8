#pragma once

// The names that other programs give to the tensors of our modules: a table for each kind of module, and renaming by
// it. Adding a program means adding a column or a table here.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/io/safetensors.hpp"

namespace smooseg::io {

namespace detail {

/// A vision transformer's tensors, in our names (DINO's and DINOv2's own) and those of timm and of Hugging Face's
/// ViTModel and Dinov2Model (with registers or not). '#' stands for a number, '*' for the rest, '{a,b,c}' for several
/// tensors that ours holds one after the other along dimension 0; "" is what a program's model does not have.
struct TransformerNames {
  std::string_view ours, timm, vit_model, dinov2_model;
};
inline constexpr std::array<TransformerNames, 15> kTransformerNames{{
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
}};

/// The same as Hugging Face's models call them in memory since transformers 5, and so in what `torch.save` wrote of
/// their state dicts; `save_pretrained` writes the names above.
struct TransformerStateNames {
  std::string_view ours, vit_model, dinov2_model;
};
inline constexpr std::array<TransformerStateNames, 15> kTransformerStateNames{{
    {"cls_token", "embeddings.cls_token", "embeddings.cls_token"},
    {"pos_embed", "embeddings.position_embeddings", "embeddings.position_embeddings"},
    {"register_tokens", "", "embeddings.register_tokens"},
    {"patch_embed.proj.*", "embeddings.patch_embeddings.projection.*", "embeddings.patch_embeddings.projection.*"},
    {"blocks.#.norm1.*", "layers.#.layernorm_before.*", "encoder.layer.#.norm1.*"},
    {"blocks.#.attn.qkv.*", "layers.#.attention.{q_proj,k_proj,v_proj}.*",
     "encoder.layer.#.attention.{q_proj,k_proj,v_proj}.*"},
    {"blocks.#.attn.proj.*", "layers.#.attention.o_proj.*", "encoder.layer.#.attention.o_proj.*"},
    {"blocks.#.ls1.gamma", "", "encoder.layer.#.layer_scale1.lambda1"},
    {"blocks.#.norm2.*", "layers.#.layernorm_after.*", "encoder.layer.#.norm2.*"},
    {"blocks.#.mlp.fc1.*", "layers.#.mlp.fc1.*", "encoder.layer.#.mlp.fc1.*"},
    {"blocks.#.mlp.fc2.*", "layers.#.mlp.fc2.*", "encoder.layer.#.mlp.fc2.*"},
    {"blocks.#.mlp.w12.*", "", "encoder.layer.#.mlp.{gate_proj,up_proj}.*"},
    {"blocks.#.mlp.w3.*", "", "encoder.layer.#.mlp.down_proj.*"},
    {"blocks.#.ls2.gamma", "", "encoder.layer.#.layer_scale2.lambda1"},
    {"norm.*", "layernorm.*", "layernorm.*"},
}};

/// A ResNet's tensors, whose names are torchvision's in DINO's and MoCo's files, in timm's and in ours.
inline constexpr std::array<std::string_view, 5> kResNetNames{"conv1.*", "bn1.*", "layer#.#.conv#.*", "layer#.#.bn#.*",
                                                              "layer#.#.downsample.#.*"};

/// The tensors of our Segmenter, then those of its Projector and PrototypePredictor alone, in our names and those of
/// SmooSeg's published checkpoints. STEGO's have the projector under the same names.
struct SegmenterNames {
  std::string_view ours, theirs;
};
inline constexpr std::array<SegmenterNames, 11> kSegmenterNames{{
    {"projector.linear.*", "projection.cluster1.0.*"},
    {"projector.mlp.0.*", "projection.cluster2.0.*"},
    {"projector.mlp.2.*", "projection.cluster2.2.*"},
    {"predictor.student", "prediction.local_clusters"},
    {"predictor.teacher", "prediction.global_clusters"},
    {"backbone.*", "net.model.*"},
    {"linear.*", "cluster1.0.*"},
    {"mlp.0.*", "cluster2.0.*"},
    {"mlp.2.*", "cluster2.2.*"},
    {"student", "local_clusters"},
    {"teacher", "global_clusters"},
}};

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

/// The pattern with these in place of '#' and '*'.
inline std::string fill(std::string_view pattern, const std::vector<std::string_view>& found) {
  std::string name;
  size_t next = 0;
  for (const char p : pattern) {
    if (p == '#' || p == '*') {
      name += found.at(next++);
    } else {
      name += p;
    }
  }
  return name;
}

/// "a.{b,c}" as "a.b" and "a.c".
inline std::vector<std::string> alternatives(std::string_view pattern) {
  const size_t open = pattern.find('{'), close = pattern.find('}');
  if (open == std::string_view::npos) return {std::string(pattern)};
  std::vector<std::string> all;
  std::string_view inside = pattern.substr(open + 1, close - open - 1);
  for (bool more = true; more;) {
    const size_t comma = inside.find(',');
    more = comma != std::string_view::npos;
    all.push_back(std::string(pattern.substr(0, open)) + std::string(inside.substr(0, comma)) +
                  std::string(pattern.substr(close + 1)));
    if (more) inside.remove_prefix(comma + 1);
  }
  return all;
}

/// A program's names for the tensors of one kind of module.
struct Naming {
  struct Rule {
    std::string ours;
    std::vector<std::string> theirs;  ///< several: the parts of ours along dimension 0
  };

  std::string name;                         ///< as `with_names` knows it; empty: ours, for any module
  std::vector<Rule> rules;                  ///< patterns; the first that fits counts
  std::vector<std::string> unused;          ///< how names begin or end of tensors that inference never reads
  void (*to_ours)(TensorMap&) = nullptr;    ///< what differs beside the names, undone
  void (*to_theirs)(TensorMap&) = nullptr;  ///< and done

  void add(std::string_view ours, std::string_view theirs) {
    if (!theirs.empty()) rules.push_back({std::string(ours), alternatives(theirs)});
  }

  bool is_unused(const std::string& theirs) const {
    for (const std::string& text : unused) {
      if (theirs.compare(0, text.size(), text) == 0) return true;
      if (theirs.size() > text.size() && theirs.compare(theirs.size() - text.size(), text.size(), text) == 0) {
        return true;
      }
    }
    return false;
  }
};

/// timm's positions have no entry for the class token where there are registers: the class token contains it already.
/// And timm calls the layers of a SwiGLU as those of the GELU MLP: there, the first one's outputs are twice as many as
/// the second one's inputs.
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
      const auto weight = [&](const char* layer) {
        return tensors.find("blocks." + std::string(found->at(0)) + ".mlp." + layer + ".weight");
      };
      const auto in = weight("fc1"), out = weight("fc2");
      const bool swiglu = in != tensors.end() && out != tensors.end() && in->second.dim() == 2 &&
                          out->second.dim() == 2 && in->second.size(0) == 2 * out->second.size(1);
      if (swiglu)
        ours = fill(found->at(1) == "1" ? "blocks.#.mlp.w12.*" : "blocks.#.mlp.w3.*", {found->at(0), found->at(2)});
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

/// All namings, those for the more special modules first; of several with one name, `with_names` takes the first that
/// fits.
inline const std::vector<Naming>& namings() {
  static const std::vector<Naming> all = [] {
    Naming dino{"dino", {}, {"mask_token", "head."}}, timm{"timm", {}, {"mask_token", "head."}};
    Naming dinov2_training{"", {}, {"mask_token", "head."}};
    Naming vit_model{"huggingface", {}, {"mask_token", "pooler."}}, dinov2_model = vit_model;
    for (const TransformerNames& row : kTransformerNames) {
      dino.add(row.ours, row.ours);
      timm.add(row.ours, row.timm);
      vit_model.add(row.ours, row.vit_model);
      dinov2_model.add(row.ours, row.dinov2_model);
      // DINOv2 trains its blocks in groups, whose number stands before the block's.
      const std::string_view block = "blocks.#";
      const bool in_block = row.ours.substr(0, block.size()) == block;
      dinov2_training.add(row.ours,
                          in_block ? "blocks.@.#" + std::string(row.ours.substr(block.size())) : std::string(row.ours));
    }
    Naming vit_state{"huggingface", {}, vit_model.unused}, dinov2_state = vit_state;
    for (const TransformerStateNames& row : kTransformerStateNames) {
      vit_state.add(row.ours, row.vit_model);
      dinov2_state.add(row.ours, row.dinov2_model);
    }
    timm.to_ours = timm_to_ours;
    timm.to_theirs = timm_to_theirs;

    Naming torchvision{"torchvision", {}, {"fc.", ".num_batches_tracked"}};
    for (const std::string_view name : kResNetNames) torchvision.add(name, name);
    Naming authors{"authors", {}, {"cluster_metrics."}};
    for (const SegmenterNames& row : kSegmenterNames) authors.add(row.ours, row.theirs);
    return std::vector<Naming>{dino,        timm,    vit_model, dinov2_model, vit_state, dinov2_state, dinov2_training,
                               torchvision, authors, Naming()};
  }();
  return all;
}

/// One of ours, of which a tensor of theirs is the whole or a part.
struct OurName {
  std::string name;
  size_t part, parts;
};

/// The first of our names for one of theirs that `accept(name)` agrees to.
template <class Accept>
std::optional<OurName> our_name(const Naming& naming, std::string_view theirs, const Accept& accept) {
  if (naming.rules.empty()) {
    OurName same{std::string(theirs), 0, 1};
    return accept(same.name) ? std::optional(std::move(same)) : std::nullopt;
  }
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

/// What the names of a file begin with, and how they go on.
struct NamesFound {
  const Naming* naming = nullptr;
  std::string prefix;
  size_t count = 0;  ///< of our names that are there
};

/// Of several copies of a network in one file, which one it is meant to be used with: DINO's moving average, MoCo's
/// trained encoder.
inline constexpr std::array<std::string_view, 2> kPreferredCopies{"teacher", "encoder_q"};

/// Under each prefix, how many of our names are found in this naming.
template <class Accept>
std::vector<NamesFound> count_names(const TensorMap& tensors, const Naming& naming, const Accept& accept,
                                    const std::string& prefix) {
  std::map<std::string, std::set<std::string>> found;
  const auto look = [&](const std::string& name, size_t begin) {
    const auto ours = our_name(naming, std::string_view(name).substr(begin), accept);
    if (ours) found[name.substr(0, begin)].insert(ours->name);
  };
  for (const auto& item : tensors) {
    const std::string& name = item.first;
    if (!prefix.empty()) {
      if (name.compare(0, prefix.size(), prefix) == 0) look(name, prefix.size());
      continue;
    }
    look(name, 0);
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) look(name, dot + 1);
  }
  std::vector<NamesFound> counts;
  for (const auto& [beginning, names] : found) counts.push_back({&naming, beginning, names.size()});
  return counts;
}

/// The naming and prefix (ending in '.', or empty) under which the most of our names are found; a preferred copy of
/// the network also where it lacks some, so that a damaged one is noticed and no other taken in its place.
/// @param accept which of our names count. @param prefix the one to look under; empty: any.
/// @throws c10::Error naming the source where several prefixes would do.
template <class Accept>
NamesFound find_names(const TensorMap& tensors, const std::vector<Naming>& candidates, const Accept& accept,
                      const std::string& prefix, const std::string& source) {
  std::vector<NamesFound> all;  // of one prefix and count, the first naming is the one to use
  for (const Naming& naming : candidates) {
    for (const NamesFound& found : count_names(tensors, naming, accept, prefix)) all.push_back(found);
  }
  NamesFound best{nullptr, prefix, 0};
  for (const NamesFound& found : all) {
    if (found.count > best.count) best = found;
  }
  for (const NamesFound& found : all) {
    if (found.count == best.count && found.prefix.empty()) return found;
  }
  const auto is_copy = [](const NamesFound& found) {
    return std::any_of(kPreferredCopies.begin(), kPreferredCopies.end(),
                       [&](std::string_view copy) { return found.prefix.find(copy) != std::string::npos; });
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
/// @param wanted tells which of our names stay although they are those of tensors that inference never reads.
template <class Wanted>
TensorMap to_ours(const TensorMap& tensors, const Naming& naming, const std::string& prefix, const Wanted& wanted) {
  TensorMap result;
  std::map<std::string, std::vector<std::pair<std::string, Tensor>>> parts;  // by our name, theirs in order
  for (auto it = tensors.lower_bound(prefix); it != tensors.end(); ++it) {
    if (it->first.compare(0, prefix.size(), prefix) != 0) break;
    const std::string theirs = it->first.substr(prefix.size());
    if (naming.is_unused(theirs) && !wanted(theirs)) continue;
    const auto ours = our_name(naming, theirs, [](const std::string&) { return true; });
    if (ours && ours->parts == 1) {
      result[ours->name] = it->second;
    } else if (ours) {
      auto& list = parts[ours->name];
      list.resize(ours->parts);
      list[ours->part] = {theirs, it->second};
    } else {
      result[theirs] = it->second;
    }
  }
  for (const auto& [name, list] : parts) {
    std::vector<Tensor> whole;
    for (const auto& [theirs, tensor] : list) {
      // What cannot be put together stays as it is, for the report.
      const bool fits = tensor.defined() && list[0].second.defined() && tensor.dim() > 0 &&
                        tensor.sizes().slice(1) == list[0].second.sizes().slice(1) &&
                        tensor.scalar_type() == list[0].second.scalar_type();
      if (fits) whole.push_back(tensor);
    }
    if (whole.size() == list.size()) {
      result[name] = at::cat(whole);
    } else {
      for (const auto& [theirs, tensor] : list) {
        if (tensor.defined()) result[theirs] = tensor;
      }
    }
  }
  if (naming.to_ours != nullptr) naming.to_ours(result);
  return result;
}

/// The tensors in their names, or the first of our names that has none.
inline std::pair<TensorMap, std::string> to_theirs(TensorMap tensors, const Naming& naming) {
  if (naming.to_theirs != nullptr) naming.to_theirs(tensors);
  TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    const Naming::Rule* fitting = nullptr;
    std::optional<std::vector<std::string_view>> found;
    for (const Naming::Rule& rule : naming.rules) {
      if ((found = match(rule.ours, name))) {
        fitting = &rule;
        break;
      }
    }
    if (fitting == nullptr) return {TensorMap(), name};
    const auto parts = static_cast<int64_t>(fitting->theirs.size());
    if (parts > 1 && (tensor.dim() == 0 || tensor.size(0) % parts != 0)) return {TensorMap(), name};
    for (int64_t part = 0; part < parts; ++part) {
      result[fill(fitting->theirs[static_cast<size_t>(part)], *found)] =
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
/// @param tensors of a transformer, a ResNet or a SmooSeg checkpoint, in any known naming, as `read_tensors` gives
/// them.
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
