#include "data/bad_files.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "smooseg/detail/parallel.hpp"
#include "support/error_text.hpp"

namespace smooseg::app {
namespace {

/// What is wrong with each sample; "" where nothing is.
std::vector<std::string> problems_of(const Dataset& dataset, const SampleCheck& check, int threads) {
  std::vector<std::string> problems(dataset.samples.size());
  smooseg::detail::parallel_for(static_cast<int64_t>(problems.size()), threads, [&](int64_t i) {
    try {
      check(i);
    } catch (const std::exception& e) {
      problems[static_cast<std::size_t>(i)] = text_of(e);
    }
  });
  return problems;
}

std::vector<std::string> without_empty(std::vector<std::string> problems) {
  problems.erase(std::remove(problems.begin(), problems.end(), ""), problems.end());
  return problems;
}

bool is_about(const std::string& message, const Sample& sample) {
  const auto begins_with = [&](const std::filesystem::path& path) {
    return message.rfind(path.string() + ": ", 0) == 0;
  };
  return begins_with(sample.image) || (sample.label && begins_with(*sample.label));
}

}  // namespace

SampleCheck check_of(Crops crops) {
  return [crops = std::move(crops)](int64_t picture) {
    std::vector<int64_t> all(static_cast<std::size_t>(crops.per_picture()));
    std::iota(all.begin(), all.end(), picture * crops.per_picture());
    crops.images(all, {});
  };
}

SampleCheck check_of(const Dataset& dataset, const Transform& transform) {
  return [&dataset, transform](int64_t i) {
    load_sample(dataset.samples[static_cast<std::size_t>(i)], dataset.classes, transform);
  };
}

std::string bad_files_text(const std::vector<std::string>& problems, std::size_t count) {
  std::string text = std::to_string(problems.size()) + " of " + std::to_string(count) + " pictures cannot be used:";
  for (const std::string& problem : problems) text += "\n  " + problem;
  return text;
}

void leave_out_bad(Dataset& dataset, const SampleCheck& check, int threads, std::ostream& err) {
  const std::vector<std::string> all = problems_of(dataset, check, threads), bad = without_empty(all);
  if (bad.empty()) return;
  const std::string text = bad_files_text(bad, all.size());
  if (bad.size() == all.size()) throw std::runtime_error(text);
  err << text << "\nthey are left out" << std::endl;
  std::vector<Sample> good;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].empty()) good.push_back(std::move(dataset.samples[i]));
  }
  dataset.samples = std::move(good);
}

void naming_all_bad(const Dataset& dataset, const SampleCheck& check, int threads, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    const std::string message = text_of(e);
    const auto& samples = dataset.samples;
    if (std::none_of(samples.begin(), samples.end(), [&](const Sample& s) { return is_about(message, s); })) throw;
    const std::vector<std::string> bad = without_empty(problems_of(dataset, check, threads));
    if (bad.empty()) throw;
    throw std::runtime_error(bad_files_text(bad, samples.size()) + "\n--on-error skip leaves them out");
  }
}

}  // namespace smooseg::app
