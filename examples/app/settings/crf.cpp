#include "settings/crf.hpp"

#include <map>

namespace smooseg::app {
namespace {

const std::map<std::string, crf::Normalization>& normalizations() {
  static const std::map<std::string, crf::Normalization> names{{"symmetric", crf::Normalization::kSymmetric},
                                                               {"before", crf::Normalization::kBefore},
                                                               {"after", crf::Normalization::kAfter},
                                                               {"none", crf::Normalization::kNone}};
  return names;
}

/// The one list of settings: calls add(option, value, description) for each, which returns a CLI11 option.
template <class Add>
void list_settings(CrfSettings& s, Add add) {
  const auto side = CLI::Range(int64_t{1}, int64_t{1} << 20);
  add("--crf-scale", s.scale, "what the teacher's cosines are multiplied with to be logits")
      ->check(CLI::PositiveNumber);
  add("--crf-iterations", s.iterations, "updates of the marginals")->check(CLI::Range(int64_t{0}, int64_t{1000}));
  add("--crf-gaussian-sxy", s.gaussian_sxy, "Gaussian kernel: deviation of positions in pixels")
      ->check(CLI::PositiveNumber);
  add("--crf-gaussian-weight", s.gaussian_weight, "Gaussian kernel: weight; 0: none")->check(CLI::NonNegativeNumber);
  add("--crf-bilateral-sxy", s.bilateral_sxy, "bilateral kernel: deviation of positions in pixels")
      ->check(CLI::PositiveNumber);
  add("--crf-bilateral-srgb", s.bilateral_srgb, "bilateral kernel: deviation of colours in steps of 1/255")
      ->check(CLI::PositiveNumber);
  add("--crf-bilateral-weight", s.bilateral_weight, "bilateral kernel: weight; 0: none")->check(CLI::NonNegativeNumber);
  add("--crf-normalization", s.normalization, "of the kernels, by what each pixel gives and takes")
      ->check(CLI::IsMember(normalizations()));
  add("--crf-tile", s.tile, "longest side in pixels of the tiles into which larger pictures are cut")->check(side);
  add("--crf-overlap", s.overlap, "pixels that neighbouring tiles share")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
}

}  // namespace

void add_options(CLI::App& command, CrfSettings& settings) {
  command.add_flag("--crf", settings.use, "move borders to those of the picture with a dense CRF")->group("Dense CRF");
  list_settings(settings, [&](const char* name, auto& value, const char* description) {
    return command.add_option(name, value, description)->capture_default_str()->group("Dense CRF");
  });
}

crf::DenseCrf make_crf(const CrfSettings& s, int64_t threads) {
  std::vector<crf::PairwiseTerm> terms;
  if (s.gaussian_weight > 0) terms.push_back(crf::PairwiseTerm::gaussian(s.gaussian_sxy, s.gaussian_weight));
  if (s.bilateral_weight > 0) {
    terms.push_back(crf::PairwiseTerm::bilateral(s.bilateral_sxy, s.bilateral_srgb, s.bilateral_weight));
  }
  return crf::DenseCrf(crf::DenseCrfOptions()
                           .iterations(s.iterations)
                           .terms(terms)
                           .normalization(normalizations().at(s.normalization))
                           .tile(s.tile)
                           .overlap(s.overlap)
                           .threads(threads));
}

nlohmann::json to_json(const CrfSettings& settings) {
  if (!settings.use) return false;
  CLI::App unused;
  CrfSettings copy = settings;
  nlohmann::json json;
  list_settings(copy, [&](const char* name, auto& value, const char* description) {
    json[name + 2] = value;
    return unused.add_option(name, value, description);
  });
  return json;
}

Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width) {
  // The logarithm of the softmax of the logits differs from them by a constant for each pixel, which changes nothing.
  return segmenter.logits(images, out_height, out_width).to(torch::kCPU, torch::kFloat32).mul_(-settings.scale);
}

}  // namespace smooseg::app
