#pragma once

// Prototypes that no patch is nearest to.

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/predictor.hpp"

namespace smooseg {

/// Options for `PrototypeRestarts`.
struct PrototypeRestartOptions {
  /// Calls from one look at the prototypes to the next; of the batches between, every tenth is counted. Default: 100
  TORCH_ARG(int64_t, interval) = 100;

  /// A prototype is dead that less than this share of an equal share 1/K of the patches is nearest to. Default: 0.01
  TORCH_ARG(double, least_share) = 0.01;

  /// Whether dead prototypes are restarted, or only found. Default: true
  TORCH_ARG(bool, restart) = true;
};

/// Finds dead prototypes while a model learns, and puts each where a patch is that no other prototype is near to, as
/// dead codes of a quantiser are (Dhariwal et al., "Jukebox", 2020, section 3). A dead one gets no gradient
/// of the smoothness, and the data term only pushes it away, so that without help it stays dead.
///
///     PrototypeRestarts restarts;
///     for (...) {
///       ... backward pass, optimiser, predictor->update_teacher() ...
///       restarts.update(predictor, logits, code);
///     }
///
/// Nothing waits for the device.
class PrototypeRestarts {
 public:
  /// @throws c10::Error for options out of range.
  explicit PrototypeRestarts(const PrototypeRestartOptions& options_ = {}) : options(options_) {
    TORCH_CHECK(options.interval() >= 1, kName, ": expected an interval of at least 1, got ", options.interval());
    TORCH_CHECK(options.least_share() >= 0 && options.least_share() <= 1, kName,
                ": expected least_share in [0,1], got ", options.least_share());
  }

  /// Counts a batch, and at every `interval`-th call looks for the dead. The next call restarts them, the student's
  /// prototypes and the teacher's alike, so that a training which ends with a look does not end with prototypes that
  /// have learned nothing. Call it after the optimiser's step, since it changes parameters in place.
  /// @param logits (B,K,...), of the predictor; the teacher's count. @param code z, (B,D,...), that they are of.
  /// @param generator source of randomness (CPU); the default one where none is given.
  /// @throws c10::Error for shapes that do not fit.
  void update(PrototypePredictor& predictor, const PrototypeLogits& logits, const Tensor& code,
              std::optional<at::Generator> generator = {}) {
    constexpr auto kUpdate = "smooseg::PrototypeRestarts::update";
    const int64_t classes = predictor->options.num_classes();
    detail::check_map(logits.teacher, kUpdate, "logits.teacher", "(B,K,...)");
    detail::check_map(code, kUpdate, "code", "(B,D,...)");
    TORCH_CHECK(logits.teacher.size(1) == classes && code.size(1) == predictor->options.embed_dim() &&
                    code.size(0) == logits.teacher.size(0) && code.sizes().slice(2) == logits.teacher.sizes().slice(2),
                kUpdate, ": expected logits of ", classes, " classes and a code of ", predictor->options.embed_dim(),
                " channels for the same patches, got ", detail::shape_of(logits.teacher), " and ",
                detail::shape_of(code));
    const torch::NoGradGuard no_grad;
    const bool looks = ++calls_ % options.interval() == 0, restarts = restarted();
    if (!looks && !restarts && calls_ % kEvery != 0) return;
    const Tensor scores = logits.teacher.detach().flatten(2);  // (B,K,N)
    if (restarts) {
      dead_ = dead_.to(scores.device());
      restart(*predictor, dead_, scores.transpose(0, 1).flatten(1), code.detach(), generator);
      restarts_ = restarts_.defined() ? restarts_.to(scores.device()) + dead_ : dead_.to(torch::kInt64);
    }
    if (!looks && calls_ % kEvery != 0) return;
    const Tensor nearest = scores.argmax(1).flatten();
    if (!counts_.defined()) counts_ = torch::zeros({classes}, nearest.options());
    counts_ = counts_.to(nearest.device()).scatter_add(0, nearest, torch::ones_like(nearest));
    if (!looks) return;

    const double least = options.least_share() / static_cast<double>(classes);
    dead_ = counts_ < counts_.sum().to(torch::kFloat64) * least;
    counts_.zero_();
  }

  /// Whether the last `update` restarted what the one before had found, and so may have changed prototypes.
  bool restarted() const { return options.restart() && dead_.defined() && (calls_ - 1) % options.interval() == 0; }

  /// The prototypes that were dead at the last look: (K) bool on the device of the logits; undefined before the first.
  const Tensor& dead() const { return dead_; }

  /// How often each prototype was restarted, (K) int64 likewise; undefined before the first restart.
  const Tensor& restarts() const { return restarts_; }

  /// What a checkpoint needs so that a run that goes on does the same.
  std::map<std::string, Tensor> state() const {
    std::map<std::string, Tensor> state{{"calls", torch::tensor(calls_, torch::kInt64)}};
    if (counts_.defined()) state["counts"] = counts_;
    if (dead_.defined()) state["dead"] = dead_.to(torch::kInt64);
    if (restarts_.defined()) state["restarts"] = restarts_;
    return state;
  }

  /// Goes on from a state; from an empty one anew.
  /// @throws c10::Error for tensors of another kind.
  void load_state(const std::map<std::string, Tensor>& state) {
    const auto tensor = [&](const char* name, int64_t dims) {
      const auto found = state.find(name);
      if (found == state.end()) return Tensor();
      TORCH_CHECK(found->second.dim() == dims && found->second.scalar_type() == torch::kInt64, kName,
                  "::load_state: expected '", name, "' of ", dims, " dimensions and int64, got ",
                  detail::shape_of(found->second), " of ", found->second.scalar_type());
      return found->second.clone();
    };
    const Tensor calls = tensor("calls", 0), dead = tensor("dead", 1);
    calls_ = calls.defined() ? calls.item<int64_t>() : 0;
    counts_ = tensor("counts", 1);
    dead_ = dead.defined() ? dead.to(torch::kBool) : dead;
    restarts_ = tensor("restarts", 1);
  }

  PrototypeRestartOptions options;

 private:
  static constexpr auto kName = "smooseg::PrototypeRestarts";
  static constexpr int64_t kEvery = 10;  // calls of which one is counted

  /// Draws patches by their distance from the nearest living prototype, as k-means++ does, and puts the dead there.
  /// @param dead (K) bool. @param scores (K,P), cosines of prototypes and patches. @param code (B,D,...).
  static void restart(PrototypePredictorImpl& predictor, const Tensor& dead, const Tensor& scores, const Tensor& code,
                      std::optional<at::Generator> generator) {
    const int64_t classes = scores.size(0), patches = scores.size(1);
    const Tensor similarity = std::get<0>(scores.masked_fill(dead.unsqueeze(1), -1).max(0));  // (P)
    // The greatest sums of log-weights and Gumbel noise are draws without replacement.
    const Tensor uniform = at::rand({patches}, detail::torch_generator(generator), torch::kFloat64);
    const Tensor noise = -(-(uniform.clamp_min(1e-300)).log()).clamp_min(1e-300).log();
    const Tensor keys =
        (1 - similarity.to(torch::kFloat64)).clamp_min(1e-12).log() + detail::to_device(noise, similarity.device());
    const Tensor chosen = std::get<1>(keys.topk(std::min(classes, patches)));
    const Tensor vectors = code.flatten(2).transpose(0, 1).flatten(1).index_select(1, chosen).t();  // (K or P,D)
    const Tensor place =
        (dead.cumsum(0) - 1).clamp_min(0).remainder(vectors.size(0));  // the first draw to the first dead
    // Of a usual prototype's length, since a learning rate means more to a short one.
    const Tensor length = predictor.teacher.norm(2, {1}).mean();
    const Tensor wide = vectors.index_select(0, place).to(predictor.teacher.dtype());
    const Tensor fresh = wide / wide.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12) * length;
    const Tensor rows = dead.unsqueeze(1);
    predictor.teacher.copy_(at::where(rows, fresh, predictor.teacher));
    predictor.student.copy_(at::where(rows, fresh.to(predictor.student.dtype()), predictor.student));
  }

  int64_t calls_ = 0;
  Tensor counts_;  // (K) int64: the patches that each was nearest to since the last look
  Tensor dead_, restarts_;
};

}  // namespace smooseg
