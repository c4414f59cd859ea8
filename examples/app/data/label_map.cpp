#include "data/label_map.hpp"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/codec.hpp"
#include "data/image_file.hpp"
#include "data/transforms.hpp"

namespace smooseg::app {
namespace {

constexpr int64_t kIgnored = -1;
constexpr int64_t kUnknown = -2;

int64_t packed(const Color& color) {
  return color[0] << 16 | color[1] << 8 | color[2];
}

std::string color_text(int64_t value) {
  char text[8];
  std::snprintf(text, sizeof text, "#%06x", static_cast<unsigned>(value));
  return text;
}

std::string value_text(int64_t value) {
  return std::to_string(value);
}

/// Throws the error about values or colours that mean nothing. @param counts of pixels.
[[noreturn]] void fail_unknown(const std::filesystem::path& path, const std::string& expected, const std::string& what,
                               const std::map<int64_t, int64_t>& counts, std::string (*text_of)(int64_t)) {
  constexpr std::size_t kShown = 5;
  std::vector<std::pair<int64_t, int64_t>> most(counts.begin(), counts.end());
  std::stable_sort(most.begin(), most.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string found = "the " + what;
  for (std::size_t i = 0; i < std::min(kShown, most.size()); ++i) {
    found += (i == 0 ? " " : ", ") + text_of(most[i].first) + " in " + std::to_string(most[i].second) +
             (most[i].second == 1 ? " pixel" : " pixels");
  }
  if (most.size() > kShown) found += " and " + std::to_string(most.size() - kShown) + " others";
  codec::fail(path, expected, found);
}

std::string ignored_text(const ClassTable& classes) {
  return ", or one to ignore (" + (classes.ignore.empty() ? "none" : c10::Join(", ", classes.ignore)) + ")";
}

/// "0..4, 7": the label values of all classes.
std::string ids_text(const ClassTable& classes) {
  std::vector<int64_t> ids;
  for (const auto& group : classes.ids) ids.insert(ids.end(), group.begin(), group.end());
  std::sort(ids.begin(), ids.end());
  std::string text;
  for (std::size_t i = 0; i < ids.size();) {
    std::size_t last = i;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(ids[i]) + (last > i ? ".." + std::to_string(ids[last]) : "");
    i = last + 1;
  }
  return text;
}

/// The class of each label value.
std::vector<int64_t> class_of_value(const ClassTable& classes) {
  std::vector<int64_t> class_of(std::size_t{1} << 16, kUnknown);
  const auto set = [&](int64_t value, int64_t meaning) {
    if (value >= 0 && value < static_cast<int64_t>(class_of.size())) {
      class_of[static_cast<std::size_t>(value)] = meaning;
    }
  };
  for (int64_t k = 0; k < classes.size(); ++k) {
    if (classes.ids.empty()) set(k, k);
    for (const int64_t id : classes.ids.empty() ? std::vector<int64_t>() : classes.ids[static_cast<std::size_t>(k)]) {
      set(id, k);
    }
  }
  for (const int64_t value : classes.ignore) set(value, kIgnored);
  return class_of;
}

/// The classes of colours, of those met before and of those near enough.
class ColorClasses {
 public:
  explicit ColorClasses(const ClassTable& classes) : tolerance_(classes.color_tolerance) {
    for (std::size_t k = 0; k < classes.label_colors.size(); ++k) {
      for (const Color& color : classes.label_colors[k]) known_.emplace_back(color, static_cast<int64_t>(k));
    }
    for (const Color& color : classes.ignore_colors) known_.emplace_back(color, kIgnored);
    for (const auto& [color, meaning] : known_) class_of_.emplace(packed(color), meaning);
  }

  int64_t operator()(int64_t value) {
    if (value == last_) return last_class_;
    const auto [at, is_new] = class_of_.emplace(value, kUnknown);
    if (is_new) at->second = nearest(value);
    last_ = value;
    return last_class_ = at->second;
  }

 private:
  int64_t nearest(int64_t value) const {
    int64_t meaning = kUnknown, least = tolerance_ + 1;
    for (const auto& [color, known] : known_) {
      int64_t distance = 0;
      for (std::size_t c = 0; c < 3; ++c) {
        const int64_t level = value >> (16 - 8 * static_cast<int>(c)) & 255;
        distance = std::max(distance, std::abs(level - color[c]));
      }
      if (distance >= least) continue;
      least = distance;
      meaning = known;
    }
    return meaning;
  }

  int64_t tolerance_;
  std::vector<std::pair<Color, int64_t>> known_;
  std::unordered_map<int64_t, int64_t> class_of_;
  int64_t last_ = -1, last_class_ = kUnknown;
};

/// A label map whose values are turned into classes by a function.
template <class ClassOf>
class ClassRows : public LabelRows {
 public:
  /// @param fail_with throws the error about the values without a class.
  ClassRows(std::unique_ptr<LabelRows> source, ClassOf class_of,
            std::function<void(const std::map<int64_t, int64_t>&)> fail_with)
      : source_(std::move(source)), class_of_(std::move(class_of)), fail_with_(std::move(fail_with)) {}
  int64_t height() const override { return source_->height(); }
  int64_t width() const override { return source_->width(); }
  void read(int64_t y, int64_t* values) override {
    source_->read(y, values);
    for (int64_t x = 0; x < width(); ++x) {
      const int64_t value = values[x];
      values[x] = class_of_(value);
      if (values[x] == kUnknown) ++unknown_[value];
    }
  }
  void finish() override {
    source_->finish();
    if (!unknown_.empty()) fail_with_(unknown_);
  }

 private:
  std::unique_ptr<LabelRows> source_;
  ClassOf class_of_;
  std::function<void(const std::map<int64_t, int64_t>&)> fail_with_;
  std::map<int64_t, int64_t> unknown_;  // values, and of how many pixels
};

template <class ClassOf>
std::unique_ptr<LabelRows> class_rows(std::unique_ptr<LabelRows> source, ClassOf class_of,
                                      std::function<void(const std::map<int64_t, int64_t>&)> fail_with) {
  return std::make_unique<ClassRows<ClassOf>>(std::move(source), std::move(class_of), std::move(fail_with));
}

std::unique_ptr<LabelRows> open_values(const std::filesystem::path& path, const ClassTable& classes) {
  const std::string known = classes.ids.empty() ? "0.." + std::to_string(classes.size() - 1) : ids_text(classes);
  const std::string expected =
      "label values " + known + " for " + std::to_string(classes.size()) + " classes" + ignored_text(classes);
  return class_rows(
      open_label(path),
      [table = class_of_value(classes)](int64_t value) { return table[static_cast<std::size_t>(value)]; },
      [path, expected](const std::map<int64_t, int64_t>& unknown) {
        fail_unknown(path, expected, unknown.size() == 1 ? "value" : "values", unknown, value_text);
      });
}

std::unique_ptr<LabelRows> open_colors(const std::filesystem::path& path, const ClassTable& classes) {
  const std::string expected = "the colours of " + std::to_string(classes.size()) + " classes, or one to ignore";
  return class_rows(open_color_label(path), ColorClasses(classes),
                    [path, expected](const std::map<int64_t, int64_t>& unknown) {
                      fail_unknown(path, expected, unknown.size() == 1 ? "colour" : "colours", unknown, color_text);
                    });
}

}  // namespace

std::unique_ptr<LabelRows> open_label_map(const std::filesystem::path& path, const ClassTable& classes) {
  return classes.label_colors.empty() ? open_values(path, classes) : open_colors(path, classes);
}

Tensor read_label_map(const std::filesystem::path& path, const ClassTable& classes) {
  const auto label = open_label_map(path, classes);
  codec::check_whole(path, "a label map", label->height(), label->width());
  return read_transformed(*label, Transform{});
}

}  // namespace smooseg::app
