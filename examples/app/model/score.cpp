#include "model/score.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "data/label_map.hpp"
#include "data/transforms.hpp"
#include "model/labels.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/parallel.hpp"

namespace smooseg::app {
namespace {

PictureCounts counts_of(const metrics::Counts& counts) {
  PictureCounts result;
  for (int64_t cluster = 0; cluster < counts.rows(); ++cluster) {
    for (int64_t label = 0; label < counts.cols(); ++label) {
      if (const int64_t pixels = counts(cluster, label); pixels > 0) result.pairs.push_back({cluster, label, pixels});
    }
  }
  return result;
}

/// The counts of all pictures, of which each process has some.
std::vector<PictureCounts> of_all(Processes& processes, const std::vector<PictureCounts>& own) {
  std::vector<int64_t> numbers;  // four of each pair
  for (std::size_t i = 0; i < own.size(); ++i) {
    for (const auto& pair : own[i].pairs) {
      numbers.insert(numbers.end(), {static_cast<int64_t>(i), pair.cluster, pair.label, pair.pixels});
    }
  }
  numbers = processes.gather(numbers);
  std::vector<PictureCounts> all(own.size());
  for (auto pair = numbers.begin(); pair != numbers.end(); pair += 4) {
    all.at(static_cast<std::size_t>(pair[0])).pairs.push_back({pair[1], pair[2], pair[3]});
  }
  return all;
}

/// Counts the labels of one picture that is not held as a whole.
void count_in_windows(SegmenterImpl& segmenter, const Dataset& dataset, const Sample& sample, torch::Device device,
                      const ScoreOptions& options, metrics::ConfusionMatrix& counts) {
  const Transform transform{options.resolution, /*square=*/true};
  auto source = open_picture(sample.image);
  auto label_source = open_label_map(sample.label.value(), *dataset.classes);
  check_label_size(sample, *label_source, source->height(), source->width());
  PictureWindows seen(std::move(source), transform), pixels(open_picture(sample.image), transform);
  LabelWindows truth(std::move(label_source), transform);
  const int64_t side = options.resolution;
  WindowSegmenter picture(segmenter, side, side, window_source(seen, normalization_of(*segmenter.backbone), device));
  label_rows(
      picture, side, side, options.crf, options.threads,
      [&](int64_t begin, int64_t end) { return pixels.read(begin, 0, end - begin, side); },
      [&](int64_t first, const Tensor& labels) {
        counts.update(labels.to(torch::kInt64), truth.read(first, 0, labels.size(0), side));
      });
  seen.finish();
  truth.finish();
}

}  // namespace

int64_t PictureCounts::pixels() const {
  return std::accumulate(pairs.begin(), pairs.end(), int64_t{0},
                         [](int64_t sum, const Pair& pair) { return sum + pair.pixels; });
}

std::optional<double> PictureCounts::accuracy(const metrics::Scores& matching) const {
  const int64_t all = pixels();
  if (all == 0) return std::nullopt;
  int64_t right = 0;
  for (const Pair& pair : pairs) {
    if (matching.class_of_cluster.at(static_cast<std::size_t>(pair.cluster)) == pair.label) right += pair.pixels;
  }
  return static_cast<double>(right) / static_cast<double>(all);
}

int64_t picture_count(const Dataset& dataset, const ScoreOptions& options) {
  const auto all = static_cast<int64_t>(dataset.samples.size());
  return options.limit > 0 ? std::min(options.limit, all) : all;
}

std::string flat_name(const Sample& sample) {
  std::string name = sample.name;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

void for_each_batch(const Dataset& dataset, const Normalization& with, torch::Device device,
                    const ScoreOptions& options, const std::function<void(int64_t, const LabelledBatch&)>& f) {
  using smooseg::detail::to_device;
  const int64_t count = picture_count(dataset, options);
  const int64_t at_once = options.features ? 1 : options.batch;  // maps need not have one size
  const int64_t rank = options.processes->rank(), stride = at_once * options.processes->size();
  for (int64_t first = rank * at_once; first < count; first += stride) {
    const auto size = static_cast<std::size_t>(std::min(at_once, count - first));
    if (options.features) {
      const Sample& sample = dataset.samples[static_cast<std::size_t>(first)];
      const Tensor map = options.features->read(feature_name(dataset, sample));
      const LabelledImage whole = load_sample(sample, dataset.classes, Transform{options.resolution});
      const auto middle = [](const Tensor& t) { return transformed(t, {0, /*square=*/true}).unsqueeze(0); };
      f(first, {to_device(map.unsqueeze(0), device), to_device(middle(*whole.label), device), middle(whole.pixels),
                whole.pixels.size(0), whole.pixels.size(1)});
      continue;
    }
    std::vector<Tensor> images(size), labels(size), pixels(size);
    smooseg::detail::parallel_for(static_cast<int64_t>(size), options.threads, [&](int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      const Sample& sample = dataset.samples[static_cast<std::size_t>(first) + at];
      const LabelledImage loaded = load_sample(sample, dataset.classes, {options.resolution, /*square=*/true});
      pixels[at] = loaded.pixels;
      images[at] = normalize(loaded.pixels, with);
      labels[at] = *loaded.label;
    });
    f(first, {to_device(torch::stack(images), device), to_device(torch::stack(labels), device), torch::stack(pixels),
              options.resolution, options.resolution});
  }
}

Tensor labels_of(SegmenterImpl& segmenter, const LabelledBatch& batch, const ScoreOptions& options) {
  const int64_t side = batch.labels.size(1);
  const auto middle = [&](const Tensor& maps) {
    return maps.slice(-2, middle_of(batch.height, side))
        .slice(-2, 0, side)
        .slice(-1, middle_of(batch.width, side))
        .slice(-1, 0, side);
  };
  if (!options.crf.use) return middle(labels_of(segmenter, batch.images, batch.height, batch.width)).contiguous();
  const Tensor energies =
      middle(crf_energies(segmenter, options.crf, batch.images, batch.height, batch.width)).contiguous();
  return crf_labels(options.crf, options.threads, batch.pixels, energies).to(batch.labels.device());
}

nlohmann::json conditions_of(const Dataset& dataset, const ScoreOptions& options, const ProtocolSettings& protocol) {
  return {{"images", picture_count(dataset, options)},
          {"resolution", options.resolution},
          {"crop", "center square"},
          {"crf", to_json(options.crf)},
          {"matching", protocol.matching},
          {"absent_classes", protocol.absent_classes},
          {"classes", dataset.classes->size()},
          {"ignored_labels", dataset.classes->ignore}};
}

bool in_windows(const ScoreOptions& options) {
  return !options.features && options.resolution > options.window_pixels / options.resolution;
}

metrics::ConfusionMatrix score(SegmenterImpl& segmenter, const Dataset& dataset, torch::Device device,
                               const ScoreOptions& options, std::vector<PictureCounts>* each) {
  const metrics::ConfusionMatrix none(segmenter.predictor->options.num_classes(), dataset.classes->size());
  metrics::ConfusionMatrix confusion = none;
  if (each != nullptr) each->assign(static_cast<std::size_t>(picture_count(dataset, options)), {});
  const auto add = [&](int64_t first, const LabelledBatch& batch) {
    const Tensor predictions = labels_of(segmenter, batch, options);
    if (each == nullptr) return confusion.update(predictions, batch.labels);
    for (int64_t i = 0; i < predictions.size(0); ++i) {
      metrics::ConfusionMatrix picture = none;
      picture.update(predictions[i], batch.labels[i]);
      confusion += picture;
      (*each)[static_cast<std::size_t>(first + i)] = counts_of(picture.counts());
    }
  };
  if (in_windows(options)) {
    const Processes& processes = *options.processes;
    for (int64_t i = processes.rank(); i < picture_count(dataset, options); i += processes.size()) {
      metrics::ConfusionMatrix picture = none;
      count_in_windows(segmenter, dataset, dataset.samples[static_cast<std::size_t>(i)], device, options, picture);
      confusion += picture;
      if (each != nullptr) (*each)[static_cast<std::size_t>(i)] = counts_of(picture.counts());
    }
  } else {
    for_each_batch(dataset, normalization_of(*segmenter.backbone), device, options, add);
  }
  if (options.processes->several()) {
    confusion.all_reduce(*options.processes);
    if (each != nullptr) *each = of_all(*options.processes, *each);
  }
  if (confusion.counts().sum() == 0) {
    const std::string first = dataset.samples.front().label->string(),
                      count = std::to_string(picture_count(dataset, options));
    throw std::runtime_error(first + ": expected labels of classes in this or another of the " + count +
                             " label maps, found only values that classes.json says to ignore");
  }
  return confusion;
}

}  // namespace smooseg::app
