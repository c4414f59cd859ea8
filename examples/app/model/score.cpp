#include "model/score.hpp"

#include <algorithm>
#include <vector>

#include "data/transforms.hpp"
#include "model/labels.hpp"
#include "smooseg/detail/parallel.hpp"

namespace smooseg::app {

int64_t picture_count(const Dataset& dataset, const ScoreOptions& options) {
  const auto all = static_cast<int64_t>(dataset.samples.size());
  return options.limit > 0 ? std::min(options.limit, all) : all;
}

std::string flat_name(const Sample& sample) {
  std::string name = sample.name;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

void for_each_batch(const Dataset& dataset, torch::Device device, const ScoreOptions& options,
                    const std::function<void(int64_t, const LabelledBatch&)>& f) {
  const int64_t count = picture_count(dataset, options);
  for (int64_t first = 0; first < count; first += options.batch) {
    const auto size = static_cast<std::size_t>(std::min(options.batch, count - first));
    std::vector<Tensor> images(size), labels(size), pixels(size);
    smooseg::detail::parallel_for(static_cast<int64_t>(size), options.threads, [&](int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      const Sample& sample = dataset.samples[static_cast<std::size_t>(first) + at];
      const LabelledImage loaded = load_sample(sample, dataset.classes, {options.resolution, /*square=*/true});
      pixels[at] = loaded.pixels;
      images[at] = normalize(loaded.pixels);
      labels[at] = *loaded.label;
    });
    f(first, {torch::stack(images).to(device), torch::stack(labels).to(device), torch::stack(pixels)});
  }
}

Tensor labels_of(SegmenterImpl& segmenter, const LabelledBatch& batch, const ScoreOptions& options) {
  const int64_t height = batch.images.size(2), width = batch.images.size(3);
  if (!options.crf.use) return labels_of(segmenter, batch.images, height, width);
  const Tensor energies = crf_energies(segmenter, options.crf, batch.images, height, width);
  return crf_labels(options.crf, options.threads, batch.pixels, energies).to(batch.labels.device());
}

metrics::ConfusionMatrix score(SegmenterImpl& segmenter, const Dataset& dataset, torch::Device device,
                               const ScoreOptions& options) {
  metrics::ConfusionMatrix confusion(segmenter.predictor->options.num_classes(), dataset.classes->size());
  for_each_batch(dataset, device, options, [&](int64_t, const LabelledBatch& batch) {
    confusion.update(labels_of(segmenter, batch, options), batch.labels);
  });
  return confusion;
}

}  // namespace smooseg::app
