#include "report/gallery.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "data/encoded_image.hpp"
#include "data/transforms.hpp"
#include "model/labels.hpp"
#include "report/html.hpp"
#include "smooseg/detail/parallel.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using html::escaped;

constexpr int kQuality = 85;  // of JPEGs

/// The first run with scores, or null.
const RunFolder* scored_run(const std::vector<RunFolder>& runs) {
  const auto found =
      std::find_if(runs.begin(), runs.end(), [](const RunFolder& run) { return run.scores.has_value(); });
  return found == runs.end() ? nullptr : &*found;
}

/// Colours of which no two are the same, so that a page's script can tell classes by them; changes are invisible.
std::vector<Color> distinct(std::vector<Color> colors) {
  std::set<Color> taken;
  for (Color& color : colors) {
    for (int step = 1; !taken.insert(color).second; ++step) {
      auto& channel = color[static_cast<std::size_t>(step) % 3];
      channel = static_cast<uint8_t>(channel < 128 ? channel + 1 : channel - 1);
    }
  }
  return colors;
}

ClassTable with_no_class(ClassTable classes) {
  if (classes.size() > 254)
    throw std::runtime_error("report: expected at most 254 classes, found " + std::to_string(classes.size()));
  classes.names.emplace_back("no class");
  classes.colors.push_back({0, 0, 0});
  classes.colors = distinct(classes.colors);
  return classes;
}

/// The names of all labels, those of each run by its own clusters where there are no labels.
ClassTable class_table(const std::vector<RunFolder>& runs, const RunFolder* scored) {
  if (scored != nullptr) {
    for (const RunFolder& run : runs) {
      if (!run.scores || run.scores->classes.names == scored->scores->classes.names) continue;
      throw std::runtime_error(run.folder.string() + ": expected the classes of " + scored->folder.string() +
                               ", with which it is to be compared, found others: make a page of its own for it");
    }
    return with_no_class(scored->scores->classes);
  }
  int64_t most = 2;
  for (const RunFolder& run : runs) {
    const auto clusters = run.settings.find("classes");
    if (clusters != run.settings.end()) most = std::max<int64_t>(most, std::stoll(clusters->second));
  }
  ClassTable clusters = default_classes(most);
  for (int64_t k = 0; k < most; ++k) clusters.names[static_cast<std::size_t>(k)] = "cluster " + std::to_string(k);
  return with_no_class(clusters);
}

/// Pictures by number, with their groups; each once.
class Choice {
 public:
  explicit Choice(std::size_t count) : group_(count) {}

  /// Takes the first `many` of an order that are not taken yet.
  void take(const std::vector<std::size_t>& order, int64_t many, const std::string& group) {
    for (const std::size_t i : order) {
      if (many <= 0) return;
      if (!group_[i].empty()) continue;
      group_[i] = group;
      taken_.push_back(i);
      --many;
    }
  }
  const std::vector<std::size_t>& taken() const { return taken_; }
  const std::string& group(std::size_t i) const { return group_[i]; }

 private:
  std::vector<std::string> group_;
  std::vector<std::size_t> taken_;
};

/// The numbers of those that have a value, the smallest value first; equal ones in the order of numbers.
std::vector<std::size_t> ordered(const std::vector<double>& values) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i])) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
  return order;
}

/// Each sample's accuracy in each run, where there is one.
using Accuracies = std::vector<std::vector<std::optional<double>>>;

Accuracies accuracies_of(const Dataset& dataset, const std::vector<RunFolder>& runs) {
  Accuracies accuracies(dataset.samples.size(), std::vector<std::optional<double>>(runs.size()));
  for (std::size_t r = 0; r < runs.size(); ++r) {
    std::map<std::string, std::optional<double>> of_name;
    for (const PictureScore& picture : runs[r].pictures) of_name[picture.name] = picture.accuracy;
    for (std::size_t i = 0; i < dataset.samples.size(); ++i) {
      const auto found = of_name.find(dataset.samples[i].name);
      if (found != of_name.end()) accuracies[i][r] = found->second;
    }
  }
  return accuracies;
}

Choice choose(const Dataset& dataset, const Accuracies& accuracies, std::size_t scored, const GalleryOptions& options) {
  const std::size_t count = dataset.samples.size();
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](auto a, auto b) { return mixed(mixed(options.seed) ^ a) < mixed(mixed(options.seed) ^ b); });
  Choice choice(count);
  choice.take(order, options.pictures, "random");
  std::vector<double> accuracy(count, NAN), inverse(count, NAN), change(count, NAN);
  for (std::size_t i = 0; i < count; ++i) {
    if (accuracies[i].empty() || !accuracies[i][scored]) continue;
    accuracy[i] = *accuracies[i][scored];
    inverse[i] = -accuracy[i];
    double low = accuracy[i], high = accuracy[i];
    for (const auto& other : accuracies[i]) {
      low = std::min(low, other.value_or(low));
      high = std::max(high, other.value_or(high));
    }
    if (high > low) change[i] = low - high;
  }
  choice.take(ordered(accuracy), options.extremes, "worst");
  choice.take(ordered(inverse), options.extremes, "best");
  choice.take(ordered(change), options.extremes, "changed");
  return choice;
}

/// As large as the page shows it.
Tensor shown(const Tensor& picture, int64_t side) {
  const int64_t shorter = std::min(picture.size(0), picture.size(1));
  return shorter <= side ? picture : transformed(picture, Transform{side});
}

}  // namespace

const std::vector<std::pair<std::string, std::string>>& gallery_groups() {
  static const std::vector<std::pair<std::string, std::string>> groups{{"random", "Chosen at random"},
                                                                       {"worst", "The worst"},
                                                                       {"best", "The best"},
                                                                       {"changed", "Most different between the runs"}};
  return groups;
}

Gallery choose_pictures(const std::vector<RunFolder>& runs, const GalleryOptions& options, int threads) {
  Gallery gallery;
  gallery.side = options.side;
  const RunFolder* const scored = scored_run(runs);
  gallery.labelled = scored != nullptr;
  gallery.classes = class_table(runs, scored);
  const bool any_model = std::any_of(runs.begin(), runs.end(), [](const RunFolder& run) { return !run.model.empty(); });
  const std::string data = !options.data.empty() || scored == nullptr ? options.data : scored->scores->data;
  if (!any_model) {
    gallery.missing = "No run has a model.";
  } else if (data.empty()) {
    gallery.missing = "Which pictures to show is not known before smooseg evaluate: --data names a folder of them.";
  } else if (options.data.empty() && !fs::exists(data)) {
    gallery.missing = "The data set " + data + " is not there: --data says where it is now.";
  }
  if (!gallery.missing.empty() || options.pictures + options.extremes == 0) return gallery;

  std::string split = options.split;
  if (split.empty())
    split = scored != nullptr                                ? scored->scores->split
            : fs::exists(fs::path(data) / "images" / "test") ? "test"
                                                             : "train";
  Dataset dataset = open_dataset(data, split, gallery.labelled ? Labels::kAll : Labels::kNone);
  if (gallery.labelled && !dataset.labelled()) {
    throw std::runtime_error(data + ": expected labels for the split '" + split + "', which was scored, found none");
  }
  const auto accuracies = accuracies_of(dataset, runs);
  const Choice choice =
      choose(dataset, accuracies, scored == nullptr ? 0 : static_cast<std::size_t>(scored - runs.data()), options);
  std::vector<std::size_t> numbers = choice.taken();
  const auto& groups = gallery_groups();
  const auto rank = [&](std::size_t i) {
    return std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == choice.group(i); });
  };
  std::stable_sort(numbers.begin(), numbers.end(), [&](auto a, auto b) { return rank(a) < rank(b); });

  const Transform transform{gallery.labelled ? scored->scores->resolution : options.resolution, gallery.labelled};
  gallery.pictures.resize(numbers.size());
  smooseg::detail::parallel_for(static_cast<int64_t>(numbers.size()), threads, [&](int64_t n) {
    const std::size_t i = numbers[static_cast<std::size_t>(n)];
    GalleryPicture& picture = gallery.pictures[static_cast<std::size_t>(n)];
    picture.sample = dataset.samples[i];
    picture.group = choice.group(i);
    picture.accuracies = accuracies[i];
    const LabelledImage loaded = load_sample(picture.sample, dataset.classes, transform);
    picture.pixels = loaded.pixels;
    if (loaded.label) picture.label = *loaded.label;
  });
  for (GalleryPicture& picture : gallery.pictures) {
    if (!picture.label.defined()) continue;
    const auto highest = picture.label.max().item<int64_t>();
    if (highest + 1 >= gallery.classes.size()) {
      throw std::runtime_error(picture.sample.label->string() + ": expected the classes of scores.json, found class " +
                               std::to_string(highest));
    }
  }
  return gallery;
}

void add_maps(Gallery& gallery, const RunFolder& run, SegmenterImpl* segmenter, torch::Device device, int threads) {
  CrfSettings crf;
  if (run.scores) crf = crf_settings_from(run.scores->crf, run.folder.string());
  for (GalleryPicture& picture : gallery.pictures) {
    picture.maps.emplace_back();
    if (segmenter == nullptr || (gallery.labelled && !run.scores)) continue;
    const int64_t height = picture.pixels.size(0), width = picture.pixels.size(1);
    const Tensor image = normalize(picture.pixels, normalization_of(*segmenter->backbone)).unsqueeze(0).to(device);
    Tensor labels =
        crf.use ? crf_labels(crf, threads, picture.pixels, crf_energies(*segmenter, crf, image, height, width)[0])
                : labels_of(*segmenter, image, height, width)[0].to(torch::kCPU, torch::kInt64);
    if (gallery.labelled) {
      const int64_t clusters = segmenter->predictor->options.num_classes(), no_class = gallery.classes.size() - 1;
      std::vector<int64_t> classes(static_cast<std::size_t>(clusters), no_class);
      for (std::size_t k = 0; k < run.scores->class_of_cluster.size() && k < classes.size(); ++k) {
        if (run.scores->class_of_cluster[k] >= 0) classes[k] = run.scores->class_of_cluster[k];
      }
      labels = torch::tensor(classes, torch::kInt64).index_select(0, labels.reshape(-1)).view({height, width});
    }
    picture.maps.back() = labels;
  }
}

namespace {

/// Shares of a map's pixels by index, the largest first; -1 is left out.
std::vector<std::pair<double, std::size_t>> shares_of(const Tensor& map) {
  const Tensor known = map.masked_select(map >= 0);
  std::vector<std::pair<double, std::size_t>> shares;
  if (known.numel() == 0) return shares;
  const Tensor counts = at::bincount(known);
  for (int64_t k = 0; k < counts.numel(); ++k) {
    const auto share = static_cast<double>(counts[k].item<int64_t>()) / static_cast<double>(known.numel());
    if (share > 0) shares.emplace_back(-share, static_cast<std::size_t>(k));
  }
  std::sort(shares.begin(), shares.end());
  for (auto& share : shares) share.first = -share.first;
  return shares;
}

class GalleryWriter {
 public:
  GalleryWriter(const Gallery& gallery, const std::vector<RunFolder>& runs) : gallery_(gallery), runs_(runs) {}

  std::string html() {
    for (const auto& [group, title] : gallery_groups()) {
      const auto in_group = [&, &name = group](const GalleryPicture& picture) { return picture.group == name; };
      if (std::none_of(gallery_.pictures.begin(), gallery_.pictures.end(), in_group)) continue;
      out_ << "<section class=\"group\" data-group=\"" << group << "\"><h3>" << title << "</h3>\n";
      for (const GalleryPicture& picture : gallery_.pictures) {
        if (in_group(picture)) write(picture);
      }
      out_ << "</section>\n";
    }
    return out_.str();
  }

 private:
  void write(const GalleryPicture& picture) {
    const std::string name = escaped(picture.sample.name);
    const std::string photo = html::data_uri("image/jpeg", encode_jpeg(shown(picture.pixels, gallery_.side), kQuality));
    const auto first =
        std::find_if(picture.maps.begin(), picture.maps.end(), [](const Tensor& m) { return m.defined(); });
    out_ << "<article class=\"picture\" tabindex=\"0\" style=\"--photo:url(" << photo
         << ");--ratio:" << picture.pixels.size(1) << "/" << picture.pixels.size(0) << "\">\n<h4>" << name
         << "</h4><div class=\"tiles\">\n";
    tile("photo", "<span role=\"img\" aria-label=\"" + name + "\"></span>", "picture");
    if (picture.label.defined()) tile("", map_image(picture.label, "label", "label of " + name), "label");
    for (std::size_t r = 0; r < picture.maps.size(); ++r) {
      if (!picture.maps[r].defined()) continue;
      std::string caption = runs_.size() == 1 ? "prediction" : escaped(runs_[r].name);
      if (picture.accuracies[r]) caption += " <b>" + html::percent(*picture.accuracies[r]) + "\u202f%</b>";
      tile("", map_image(picture.maps[r], "run" + std::to_string(r), "prediction for " + name), caption);
    }
    if (first != picture.maps.end()) {
      tile("photo over", map_image(*first, "over", "prediction over " + name), "overlay");
    }
    out_ << "</div>";
    if (first != picture.maps.end()) chips(*first);
    out_ << "</article>\n";
  }

  void tile(const std::string& kind, const std::string& content, const std::string& caption) {
    out_ << "<figure><div class=\"view " << kind << "\">" << content << "</div><figcaption>" << caption
         << "</figcaption></figure>\n";
  }

  std::string map_image(const Tensor& whole, const std::string& source, const std::string& alt) const {
    const Tensor map = shown(whole, gallery_.side);
    return "<img class=\"map\" data-map=\"" + source + "\" alt=\"" + alt + "\" width=\"" + std::to_string(map.size(1)) +
           "\" height=\"" + std::to_string(map.size(0)) + "\" src=\"" +
           html::data_uri("image/png", encode_palette_png(map, gallery_.classes.colors)) + "\">";
  }

  /// The classes of a map in words, for those who have no pointer to hover with.
  void chips(const Tensor& map) {
    constexpr std::size_t kMost = 6;
    out_ << "<p class=\"chips\">";
    const auto shares = shares_of(map);
    for (std::size_t i = 0; i < std::min(kMost, shares.size()); ++i) {
      const auto [share, k] = shares[i];
      out_ << "<span class=\"chip\" data-class=\"" << k << "\"><i class=\"swatch c" << k << "\"></i>"
           << escaped(gallery_.classes.names[k]) << " " << html::percent(share) << "\u202f%</span> ";
    }
    if (shares.size() > kMost) out_ << "<span class=\"more\">and " << shares.size() - kMost << " more</span>";
    out_ << "</p>";
  }

  const Gallery& gallery_;
  const std::vector<RunFolder>& runs_;
  std::ostringstream out_;
};

}  // namespace

std::string gallery_html(const Gallery& gallery, const std::vector<RunFolder>& runs) {
  return GalleryWriter(gallery, runs).html();
}

}  // namespace smooseg::app
