#pragma once

// The names that other programs give to the tensors of our modules, and renaming by the tables of them. To add a
// program, add a column or a table in detail/name_tables.hpp.

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

#include "smooseg/io/detail/name_tables.hpp"
#include "smooseg/io/detail/text.hpp"
#include "smooseg/io/safetensors.hpp"

namespace smooseg::io {

namespace detail {

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

/// "a.{b,c}" as "a.b" and "a.c"; of "a.{b,,c}" the second is "".
inline std::vector<std::string> alternatives(std::string_view pattern) {
  const size_t open = pattern.find('{'), close = pattern.find('}');
  if (open == std::string_view::npos) return {std::string(pattern)};
  const std::string before(pattern.substr(0, open)), after(pattern.substr(close + 1));
  std::istringstream inside(std::string(pattern.substr(open + 1, close - open - 1)));
  std::vector<std::string> all;
  for (std::string part; std::getline(inside, part, ',');) all.push_back(part.empty() ? "" : before + part + after);
  return all;
}

/// A program's names for the tensors of one kind of module.
struct Naming {
  struct Rule {
    std::string ours;
    std::vector<std::string> theirs;  ///< several: the parts of ours along dimension 0; "": one that is 0
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

/// Applies the masks of biases in DINOv3's published files: what is masked counts as 0, and may be anything, also no
/// number. Periods in bfloat16 mean that all is rounded to it, see `RotaryPositions`.
inline void published_rotary_to_ours(TensorMap& tensors) {
  constexpr std::string_view kMask = "_mask";
  TensorMap unmasked;
  for (const auto& [name, mask] : tensors) {
    if (!match("blocks.#.attn.qkv.bias_mask", name)) continue;
    const std::string bias = name.substr(0, name.size() - kMask.size());
    const auto found = tensors.find(bias);
    if (found == tensors.end() || found->second.sizes() != mask.sizes()) continue;  // stays, for the report
    unmasked[bias] = at::where(mask == 0, at::zeros_like(found->second), found->second);
  }
  for (const auto& [bias, tensor] : unmasked) {
    tensors[bias] = tensor;
    tensors.erase(bias + std::string(kMask));
  }
  const auto periods = tensors.find("rope_embed.periods");
  if (periods == tensors.end()) return;
  const bool rounds = periods->second.scalar_type() == torch::kBFloat16;
  tensors["rope_embed.bfloat16"] = at::full({}, rounds, torch::kBool);
}

inline void published_rotary_to_theirs(TensorMap& tensors) {
  TensorMap masks;
  for (const auto& [name, bias] : tensors) {
    if (!match("blocks.#.attn.qkv.bias", name) || bias.dim() != 1 || bias.size(0) % 3 != 0) continue;
    const auto of_keys = [&](const Tensor& t) { return t.narrow(0, t.size(0) / 3, t.size(0) / 3); };
    if (of_keys(bias).count_nonzero().item<int64_t>() > 0) continue;
    masks[name + "_mask"] = at::ones_like(bias);
    of_keys(masks[name + "_mask"]).zero_();
  }
  tensors.merge(masks);
  const auto rounds = tensors.find("rope_embed.bfloat16"), periods = tensors.find("rope_embed.periods");
  if (rounds == tensors.end() || periods == tensors.end()) return;
  if (rounds->second.item<bool>()) periods->second = periods->second.to(torch::kBFloat16);
  tensors.erase(rounds);
}

/// Where an MLP has a gate, its last layer is w3; timm and Hugging Face call it as that of an MLP without.
inline void unpublished_rotary_to_ours(TensorMap& tensors) {
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    const auto found = match("blocks.#.mlp.fc2.*", name);
    const bool gated = found && tensors.count(fill("blocks.#.mlp.w12.weight", {found->at(0)})) > 0;
    renamed[gated ? fill("blocks.#.mlp.w3.*", *found) : name] = tensor;
  }
  tensors = std::move(renamed);
}

/// timm and Hugging Face compute the periods.
inline void unpublished_rotary_to_theirs(TensorMap& tensors) {
  tensors.erase("rope_embed.periods");
  tensors.erase("rope_embed.bfloat16");
}

/// DINOv3's published ConvNeXts have their last norm twice.
inline void published_convnext_to_theirs(TensorMap& tensors) {
  for (const char* part : {"weight", "bias"}) {
    const auto norm = tensors.find(std::string("norms.3.") + part);
    if (norm != tensors.end()) tensors.emplace(std::string("norm.") + part, norm->second);
  }
}

/// What a module computes itself where a file does not have it, as timm's and Hugging Face's never do.
inline bool is_computed(const std::string& ours) {
  return ends_with(ours, "rope_embed.periods") || ends_with(ours, "rope_embed.bfloat16");
}

/// Queries, keys and values without biases are those with biases of 0: so a module that has them takes a file that
/// does not. Only where positions are not learned: of such models both kinds exist.
template <class Wanted>
void add_zero_biases(TensorMap& tensors, const Wanted& wanted) {
  if (tensors.count("pos_embed") > 0 || wanted("pos_embed")) return;
  TensorMap biases;
  for (const auto& [name, tensor] : tensors) {
    if (match("blocks.#.attn.qkv.bias", name)) return;
    const auto found = match("blocks.#.attn.qkv.weight", name);
    if (!found || tensor.dim() != 2) continue;
    const std::string bias = fill("blocks.#.attn.qkv.bias", *found);
    if (wanted(bias)) biases[bias] = at::zeros({tensor.size(0)}, tensor.options());
  }
  tensors.merge(biases);
}

/// All namings, those for the more specific modules first; of several with one name, `with_names` takes the first that
/// fits.
inline const std::vector<Naming>& namings() {
  static const std::vector<Naming> all = [] {
    const std::vector<std::string> head{"mask_token", "head.", "rasa_head."}, pooler{"mask_token", "pooler."};
    // What has rotary positions fits the names for learned ones too, so it comes first.
    const std::vector<std::string> of_published{"mask_token", "head.", "local_cls_norm."};
    std::vector<Naming> rotary{{"dino", {}, of_published, published_rotary_to_ours, published_rotary_to_theirs},
                               {"timm", {}, head, unpublished_rotary_to_ours, unpublished_rotary_to_theirs},
                               {"huggingface", {}, pooler, unpublished_rotary_to_ours, unpublished_rotary_to_theirs}};
    std::vector<Naming> convnext{{"dino", {}, {"norm.", "head."}, nullptr, published_convnext_to_theirs},
                                 {"timm", {}, {"head.fc."}},
                                 {"huggingface", {}, pooler}};
    for (size_t i = 0; i < rotary.size(); ++i) {
      for (const auto& row : kRotaryTransformerNames) rotary[i].add(row[0], row[i + 1]);
      for (const auto& row : kConvNeXtNames) convnext[i].add(row[0], row[i]);
    }
    for (const std::string part : {"weight", "bias"}) convnext[0].add("norm." + part, "norm." + part);
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
    result.insert(result.begin(), rotary.begin(), rotary.end());
    result.insert(result.end(), convnext.begin(), convnext.end());
    result.insert(result.end(), {dinov2_training, torchvision, authors, {"", {{"*", {"*"}}}, {}}});
    return result;
  }();
  return all;
}

/// Our name for a tensor of theirs, which is the whole of ours or one of several parts.
struct OurName {
  std::string name;
  size_t part;
  const Naming::Rule* rule;
  std::vector<std::string> all;  ///< their names for the parts; "" for one that is 0
};

/// The first of our names for one of theirs that `accept(OurName)` accepts.
template <class Accept>
std::optional<OurName> our_name(const Naming& naming, std::string_view theirs, const Accept& accept) {
  for (const Naming::Rule& rule : naming.rules) {
    for (size_t part = 0; part < rule.theirs.size(); ++part) {
      const auto found = rule.theirs[part].empty() ? std::nullopt : match(rule.theirs[part], theirs);
      if (!found) continue;
      OurName ours{fill(rule.ours, *found), part, &rule, {}};
      for (const std::string& pattern : rule.theirs) ours.all.push_back(pattern.empty() ? "" : fill(pattern, *found));
      ours.all[part] = theirs;  // also a number that is left out
      if (accept(ours)) return ours;
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
    const auto ours =
        our_name(naming, std::string_view(name).substr(begin), [&](const OurName& o) { return accept(o.name); });
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

/// The tensors of a file that are parts of one of ours, by its name.
using TensorParts = std::map<std::string, std::vector<Tensor>>;

/// Parts that fit together as one tensor; undefined where they do not, or one is missing.
/// @param parts undefined for what is 0 by the rule, which is filled in. @param later where the parts go instead, so that
///   they need no memory twice: the result then has the shape and dtype of the whole, but not its elements.
inline Tensor joined(const Naming::Rule& rule, std::vector<Tensor> parts, const std::string& name, TensorParts* later) {
  const auto first = std::find_if(parts.begin(), parts.end(), [](const Tensor& t) { return t.defined(); });
  if (first == parts.end() || first->dim() == 0) return {};
  const Tensor model = *first;
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (rule.theirs[i].empty()) parts[i] = at::zeros_like(model);
    const bool fits = parts[i].defined() && parts[i].dim() > 0 && parts[i].scalar_type() == model.scalar_type() &&
                      parts[i].sizes().slice(1) == model.sizes().slice(1);
    if (!fits) return {};
    rows += parts[i].size(0);
  }
  if (later == nullptr) return at::cat(parts);
  (*later)[name] = std::move(parts);
  auto shape = model.sizes().vec();
  shape[0] = rows;
  return at::empty({1}, model.options()).expand(shape);
}

/// The tensors under a prefix in our names; those that have none keep theirs.
/// @param wanted tells which names stay although inference never reads them.
/// @param later as for `joined`.
template <class Wanted>
TensorMap to_ours(const TensorMap& tensors, const Naming& naming, const std::string& prefix, const Wanted& wanted,
                  TensorParts* later = nullptr) {
  TensorMap result;
  struct Parts {
    OurName ours;
    std::vector<Tensor> tensors;
  };
  std::map<std::string, Parts> parts;  // by our name
  const auto are_all_there = [&](const OurName& ours) {
    return std::all_of(ours.all.begin(), ours.all.end(),
                       [&](const std::string& theirs) { return theirs.empty() || tensors.count(prefix + theirs) > 0; });
  };
  for (auto it = tensors.lower_bound(prefix); it != tensors.end(); ++it) {
    if (!starts_with(it->first, prefix)) break;
    const std::string theirs = it->first.substr(prefix.size());
    if (naming.is_unused(theirs) && !wanted(theirs)) continue;
    const auto ours = our_name(naming, theirs, are_all_there);
    if (ours && ours->all.size() > 1) {
      Parts& of_ours = parts.try_emplace(ours->name, Parts{*ours, std::vector<Tensor>(ours->all.size())}).first->second;
      of_ours.tensors[ours->part] = it->second;
    } else {
      result[ours ? ours->name : theirs] = it->second;
    }
  }
  for (const auto& [name, of_ours] : parts) {
    const Tensor whole = joined(*of_ours.ours.rule, of_ours.tensors, name, later);
    if (whole.defined()) {
      result[name] = whole;
      continue;
    }
    for (size_t i = 0; i < of_ours.tensors.size(); ++i) {  // they stay as they are, for the report
      if (of_ours.tensors[i].defined()) result[of_ours.ours.all[i]] = of_ours.tensors[i];
    }
  }
  if (naming.to_ours != nullptr) naming.to_ours(result);
  add_zero_biases(result, wanted);
  return result;
}

/// The tensors in their names, and those of our names that they have none for.
inline std::pair<TensorMap, std::vector<std::string>> to_theirs(TensorMap tensors, const Naming& naming) {
  if (naming.to_theirs != nullptr) naming.to_theirs(tensors);
  TensorMap result;
  std::vector<std::string> without;
  for (const auto& [name, tensor] : tensors) {
    const auto rule = std::find_if(naming.rules.begin(), naming.rules.end(),
                                   [&ours = name](const Naming::Rule& r) { return match(r.ours, ours).has_value(); });
    const auto parts = rule == naming.rules.end() ? 0 : static_cast<int64_t>(rule->theirs.size());
    bool fits = parts == 1 || (parts > 1 && tensor.dim() > 0 && tensor.size(0) % parts == 0);
    for (int64_t part = 0; fits && part < parts; ++part) {
      const std::string& theirs = rule->theirs[static_cast<size_t>(part)];
      const Tensor value = parts == 1 ? tensor : tensor.chunk(parts)[static_cast<size_t>(part)];
      if (theirs.empty()) {
        fits = value.count_nonzero().item<int64_t>() == 0;
      } else {
        result[fill(theirs, *match(rule->ours, name))] = value;
      }
    }
    if (!fits) without.push_back(name);
  }
  return {result, without};
}

}  // namespace detail

/// The namings that `with_names` knows: "dino", "timm", "huggingface" (transformers), "torchvision" (ResNets),
/// "authors" (SmooSeg's published checkpoints).
inline std::vector<std::string> known_namings() {
  std::vector<std::string> names;
  for (const detail::Naming& naming : detail::namings()) {
    const bool is_new = std::find(names.begin(), names.end(), naming.name) == names.end();
    if (!naming.name.empty() && is_new) names.push_back(naming.name);
  }
  return names;
}

/// The tensors of a file in our names, without a prefix and without what inference never reads (a mask token, a head).
/// No module is needed: the naming and the prefix are those under which the most names are known.
/// @param tensors of a transformer, a ResNet, a ConvNeXt or a SmooSeg checkpoint, in any known naming, as from `read_tensors`.
/// @param source what errors call the tensors.
/// @throws c10::Error naming the source where no name is known, several copies of a network are equally good, or some
///   names of a backbone's are not known: then it is another network, of which a part alone would be taken.
inline TensorMap with_our_names(const TensorMap& tensors, const std::string& source) {
  auto named = detail::namings();
  named.pop_back();  // ours for any module: whatever it is would be known
  const auto found = detail::find_names(
      tensors, named, [](const std::string&) { return true; }, "", source);
  TORCH_CHECK(found.naming != nullptr, source, ": none of its ", tensors.size(), " names is known",
              tensors.empty() ? "" : "; the first is '" + tensors.begin()->first + "'");
  TensorMap ours = detail::to_ours(tensors, *found.naming, found.prefix, [](const std::string&) { return false; });
  if (found.naming->name == "authors") return ours;  // a checkpoint, which holds more than the network
  const auto is_ours = [&](const auto& item) {
    const auto& rules = found.naming->rules;
    return detail::is_computed(item.first) || std::any_of(rules.begin(), rules.end(), [&](const auto& rule) {
             return detail::match(rule.ours, item.first).has_value();
           });
  };
  const auto unknown = std::find_if_not(ours.begin(), ours.end(), is_ours);
  TORCH_CHECK(unknown == ours.end(), source, ": fits no known naming: ", found.count, " of its ", tensors.size(),
              " names are known, but not '", unknown->first, "'");
  return ours;
}

/// Tensors in another program's names.
/// @param tensors in our names: a backbone's, or for "authors" a Segmenter's, a Projector's or a PrototypePredictor's.
/// @param naming one of `known_namings()`.
/// @throws c10::Error for another naming, and naming the tensor that the other program's model does not have.
inline TensorMap with_names(const TensorMap& tensors, const std::string& naming) {
  std::vector<std::string> without;  // of the naming that fits best
  for (const detail::Naming& candidate : detail::namings()) {
    if (naming.empty() || candidate.name != naming) continue;
    auto [renamed, missing] = detail::to_theirs(tensors, candidate);
    if (missing.empty()) return std::move(renamed);
    if (without.empty() || missing.size() < without.size()) without = missing;
  }
  std::string known;
  for (const std::string& name : known_namings()) known += (known.empty() ? "" : ", ") + name;
  TORCH_CHECK(!without.empty(), "with_names: expected one of ", known, ", got '", naming, "'");
  TORCH_CHECK(false, "with_names: '", without[0], "' has no name in the naming '", naming, "'");
}

}  // namespace smooseg::io
