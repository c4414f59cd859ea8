// What the Python package calls of the library: functions of tensors that take part in autograd. Modules, with their
// parameters, are Python's own (modules.py).

#include <ATen/Functions.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/io/safetensors.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "smooseg/projector.hpp"
#include "smooseg/version.hpp"

namespace py = pybind11;

namespace smooseg {
namespace {

/// The words that stand for an enum's values in Python.
template <class Enum>
using Words = std::vector<std::pair<const char*, Enum>>;

const Words<Centering> kCenterings{
    {"row-keep-mean", Centering::kRowKeepMean}, {"row", Centering::kRow}, {"none", Centering::kNone}};
const Words<Reduction> kReductions{{"mean", Reduction::kMean}, {"sum", Reduction::kSum}};
const Words<Evaluation> kEvaluations{
    {"auto", Evaluation::kAuto}, {"factorized", Evaluation::kFactorized}, {"pairwise", Evaluation::kPairwise}};
const Words<crf::Normalization> kNormalizations{{"symmetric", crf::Normalization::kSymmetric},
                                                {"before", crf::Normalization::kBefore},
                                                {"after", crf::Normalization::kAfter},
                                                {"none", crf::Normalization::kNone}};
const Words<metrics::Matching> kMatchings{{"hungarian", metrics::Matching::kHungarian},
                                          {"majority", metrics::Matching::kMajority}};
const Words<metrics::AbsentClasses> kAbsentClasses{{"skip", metrics::AbsentClasses::kSkip},
                                                   {"skip-unlabelled", metrics::AbsentClasses::kSkipUnlabelled},
                                                   {"zero", metrics::AbsentClasses::kZero}};

template <class Enum>
Enum value_of(const std::string& word, const Words<Enum>& words, const char* option) {
  std::string expected;
  for (const auto& [name, value] : words) {
    if (word == name) return value;
    expected += (expected.empty() ? "'" : ", '") + std::string(name) + "'";
  }
  TORCH_CHECK(false, "smooseg: expected ", option, " to be one of ", expected, ", got '", word, "'");
}

template <class Enum>
std::string word_of(Enum value, const Words<Enum>& words) {
  for (const auto& [name, other] : words) {
    if (other == value) return name;
  }
  TORCH_CHECK(false, "smooseg: a value without a word");
}

SmoothnessOptions smoothness_options(double within_threshold, double across_threshold, const std::string& centering,
                                     const std::string& reduction, const std::string& evaluation, int64_t block_bytes) {
  return SmoothnessOptions()
      .within_threshold(within_threshold)
      .across_threshold(across_threshold)
      .centering(value_of(centering, kCenterings, "centering"))
      .reduction(value_of(reduction, kReductions, "reduction"))
      .evaluation(value_of(evaluation, kEvaluations, "evaluation"))
      .block_bytes(block_bytes);
}

EnergyOptions energy_options(const SmoothnessOptions& smoothness, double temperature, bool check_finite) {
  const EnergyOptions options =
      EnergyOptions().smoothness(smoothness).temperature(temperature).check_finite(check_finite);
  EnergyLossImpl<>{options};  // throws what is wrong with them
  return options;
}

/// The arguments in Python that give these options.
py::dict smoothness_settings(const SmoothnessOptions& o) {
  using namespace py::literals;
  return py::dict("within_threshold"_a = o.within_threshold(), "across_threshold"_a = o.across_threshold(),
                  "centering"_a = word_of(o.centering(), kCenterings),
                  "reduction"_a = word_of(o.reduction(), kReductions),
                  "evaluation"_a = word_of(o.evaluation(), kEvaluations), "block_bytes"_a = o.block_bytes());
}

py::dict energy_settings(const EnergyOptions& o) {
  py::dict settings = smoothness_settings(o.smoothness());
  settings["temperature"] = o.temperature();
  settings["check_finite"] = o.check_finite();
  return settings;
}

std::array<Tensor, 4> smoothness(const Tensor& features, const Tensor& assignments, const Tensor& pairing,
                                 const SmoothnessOptions& options) {
  const SmoothnessTerms t = functional::smoothness(features, assignments, pairing, options);
  return {t.within, t.across, t.within_penalty_mean, t.across_penalty_mean};
}

std::array<Tensor, 6> energy(const Tensor& features, const Tensor& student, const Tensor& teacher,
                             const Tensor& pairing, const EnergyOptions& options) {
  const EnergyTerms t = EnergyLossImpl<>(options).forward(features, {student, teacher}, pairing);
  return {t.total, t.within, t.across, t.data, t.within_penalty_mean, t.across_penalty_mean};
}

/// The projector's code z, of masked features (B,C,h,w), by the kernels of `Projector` where they can be used.
/// @param masks factors for each image's channels, (B,C); nothing where all are 1. @param p weight and bias of
///   "linear", "mlp.0" and "mlp.2".
Tensor project(const Tensor& features, const std::optional<Tensor>& linear_mask,
               const std::optional<Tensor>& hidden_mask, const std::array<Tensor, 6>& p) {
  constexpr auto kName = "smooseg.Projector";
  detail::check_map(features, kName, "features", "(B,C,h,w)", 4);
  TORCH_CHECK(features.size(1) == p[0].size(1), kName, ": expected features of ", p[0].size(1), " channels, got ",
              detail::shape_of(features));
  detail::check_same_device(features, p[0], kName, "features", "parameters");
  const bool autocast = detail::is_autocast(features), records = torch::GradMode::is_enabled();
  TORCH_CHECK(autocast || features.scalar_type() == p[0].scalar_type(), kName,
              ": expected features of the parameters' dtype ", p[0].scalar_type(), ", got ", features.scalar_type(),
              "; convert one of them with to()");
  if (!detail::has_kernels(features) || autocast || (records && features.requires_grad())) {
    const auto masked = [&](const std::optional<Tensor>& mask) {
      return mask ? features * mask->unsqueeze(2).unsqueeze(3) : features;
    };
    const Tensor hidden = at::conv2d(masked(hidden_mask), p[2], p[3]);
    return at::conv2d(masked(linear_mask), p[0], p[1]) + at::conv2d(at::silu(hidden), p[4], p[5]);
  }
  bool keeps = false;
  for (const Tensor& parameter : p) keeps = keeps || (records && parameter.requires_grad());
  const detail::ChannelMasks masks{linear_mask.value_or(Tensor()), hidden_mask.value_or(Tensor())};
  const Tensor code = detail::ProjectorFunction::apply(features.flatten(2).contiguous(), masks, p[0].flatten(1), p[1],
                                                       p[2].flatten(1), p[3], p[4].flatten(1), p[5], keeps);
  return code.unflatten(2, {features.size(2), features.size(3)});
}

/// Standard deviation in pixels, weight, and standard deviation of colours, nothing of it in a Gaussian.
using Term = std::tuple<double, double, std::optional<double>>;

crf::DenseCrf dense_crf(int64_t iterations, const std::vector<Term>& terms, const std::string& normalization,
                        const std::optional<Tensor>& compatibility, double min_probability, int64_t tile,
                        int64_t overlap, int64_t threads) {
  std::vector<crf::PairwiseTerm> pairwise;
  for (const auto& [sxy, weight, srgb] : terms) pairwise.push_back({sxy, srgb, weight});
  return crf::DenseCrf(crf::DenseCrfOptions()
                           .iterations(iterations)
                           .terms(pairwise)
                           .normalization(value_of(normalization, kNormalizations, "normalization"))
                           .compatibility(compatibility.value_or(Tensor()))
                           .min_probability(min_probability)
                           .tile(tile)
                           .overlap(overlap)
                           .threads(threads));
}

/// The arguments in Python that give the defaults.
py::dict crf_settings() {
  using namespace py::literals;
  const crf::DenseCrfOptions o;
  std::vector<Term> terms;
  for (const auto& term : o.terms()) terms.emplace_back(term.sxy, term.weight, term.srgb);
  return py::dict("iterations"_a = o.iterations(), "terms"_a = terms,
                  "normalization"_a = word_of(o.normalization(), kNormalizations),
                  "min_probability"_a = o.min_probability(), "tile"_a = o.tile(), "overlap"_a = o.overlap(),
                  "threads"_a = o.threads());
}

/// Accuracy, mIoU, IoU of each class and class of each cluster, of the pixels of all pictures.
std::tuple<double, double, std::vector<double>, std::vector<int64_t>> scores(
    const std::vector<std::pair<Tensor, Tensor>>& pictures, int64_t num_clusters, int64_t num_classes,
    const std::string& matching, const std::string& absent) {
  const metrics::Protocol protocol{value_of(matching, kMatchings, "matching"),
                                   value_of(absent, kAbsentClasses, "absent")};
  metrics::ConfusionMatrix confusion(num_clusters, num_classes);
  for (const auto& [predictions, labels] : pictures) confusion.update(predictions, labels);
  const metrics::Scores s = confusion.scores(protocol);
  return {s.accuracy, s.miou, s.iou, s.class_of_cluster};
}

/// Errors without LibTorch's backtrace, of the type that Python's torch raises for them.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const c10::Error& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
  }
}

}  // namespace
}  // namespace smooseg

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace smooseg;
  using Unlocked = py::call_guard<py::gil_scoped_release>;  // other threads of Python go on
  py::register_local_exception_translator(translate);
  m.attr("__version__") = SMOOSEG_VERSION;

  py::class_<SmoothnessOptions>(m, "SmoothnessOptions")
      .def(py::init(&smoothness_options), py::kw_only(), py::arg("within_threshold"), py::arg("across_threshold"),
           py::arg("centering"), py::arg("reduction"), py::arg("evaluation"), py::arg("block_bytes"));
  py::class_<EnergyOptions>(m, "EnergyOptions")
      .def(py::init(&energy_options), py::kw_only(), py::arg("smoothness"), py::arg("temperature"),
           py::arg("check_finite"));
  m.attr("PRESETS") = py::dict();
  m.attr("PRESETS")["paper"] = energy_settings(EnergyOptions::paper());
  m.attr("PRESETS")["cityscapes"] = energy_settings(EnergyOptions::cityscapes());
  m.attr("PRESETS")["cocostuff"] = energy_settings(EnergyOptions::cocostuff());
  m.attr("PRESETS")["potsdam"] = energy_settings(EnergyOptions::potsdam());
  m.attr("MOMENTUM") = PrototypePredictorOptions(2, 1).momentum();
  m.attr("DROPOUT") = ProjectorOptions(1, 1).dropout();
  m.attr("DENSE_CRF") = crf_settings();

  m.def("smoothness", &smoothness, Unlocked());
  m.def("energy", &energy, Unlocked());
  m.def("random_pairing", &functional::random_pairing, Unlocked());
  m.def("soft_assignments", &functional::soft_assignments, Unlocked());
  m.def("prototype_logits", &functional::prototype_logits, Unlocked());
  m.def(
      "update_average",
      [](const Tensor& target, const Tensor& source, double momentum) { EmaUpdater(momentum).update(target, source); },
      Unlocked());
  m.def("project", &project, Unlocked());

  py::class_<crf::DenseCrf>(m, "DenseCrf")
      .def(py::init(&dense_crf), py::kw_only(), py::arg("iterations"), py::arg("terms"), py::arg("normalization"),
           py::arg("compatibility"), py::arg("min_probability"), py::arg("tile"), py::arg("overlap"),
           py::arg("threads"))
      .def("__call__", &crf::DenseCrf::operator(), Unlocked());
  m.def("scores", &scores, Unlocked());

  m.def(
      "read_safetensors",
      [](const std::string& path) {
        const io::SafetensorsContent content = io::read_safetensors_content(path);
        return std::make_pair(content.tensors, content.metadata);
      },
      Unlocked());
  m.def("write_safetensors", &io::write_safetensors, Unlocked());
}
