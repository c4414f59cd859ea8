// `smooseg tune`, `--classes auto`, and by what partitions are compared without labels.

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "model/criteria.hpp"
#include "report/tuning.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

nlohmann::json json_at(const fs::path& path) {
  return nlohmann::json::parse(content_of(path));
}

Words tune_arguments(const fs::path& out, const fs::path& data = scenes()) {
  return {"tune", "--data",       data.string(), "--out",        out.string(), "--resolution", "64",  "--textons",
          "8",    "--batch",      "4",           "--embed-dim",  "8",          "--device",     "cpu", "--threads",
          "2",    "--candidates", "3",           "--iterations", "9",          "--rungs",      "2"};
}

/// The silhouettes' mean, pair by pair.
double textbook_silhouette(const Tensor& x, const std::vector<int64_t>& classes, int64_t num_classes) {
  const Tensor distance = 1 - x.mm(x.t());
  const auto n = static_cast<int64_t>(classes.size());
  double total = 0;
  for (int64_t p = 0; p < n; ++p) {
    std::vector<double> sum(static_cast<std::size_t>(num_classes), 0), count = sum;
    for (int64_t q = 0; q < n; ++q) {
      const auto k = static_cast<std::size_t>(classes[static_cast<std::size_t>(q)]);
      sum[k] += distance[p][q].item<double>();
      ++count[k];
    }
    const auto own = static_cast<std::size_t>(classes[static_cast<std::size_t>(p)]);
    double other = std::numeric_limits<double>::infinity();
    for (std::size_t k = 0; k < sum.size(); ++k) {
      if (k != own && count[k] > 0) other = std::min(other, sum[k] / count[k]);
    }
    const double a = sum[own] / count[own];
    total += (other - a) / std::max(a, other);
  }
  return total / static_cast<double>(n);
}

}  // namespace

TEST_CASE("criteria of a partition", "[tune]") {
  torch::manual_seed(0);
  const Tensor features = torch::randn({2, 5, 3, 4}, torch::kFloat64);
  const Tensor classes = torch::randint(3, {2, 3, 4}, torch::kInt64);
  const PartitionCriteria c = partition_criteria(features, classes, 4);  // of which the last is not in use
  const Tensor flat = features.flatten(2).transpose(1, 2).flatten(0, 1), x = flat / flat.norm(2, {1}, true);
  const auto* const first = classes.data_ptr<int64_t>();
  const std::vector<int64_t> labels(first, first + classes.numel());
  CHECK(c.silhouette == Approx(textbook_silhouette(x, labels, 4)).epsilon(1e-9));
  CHECK(c.classes_in_use == 3);

  const Tensor mean = x.mean(0);
  double between = 0, entropy = 0, chance = 0;
  for (int64_t k = 0; k < 3; ++k) {
    const Tensor members = x.index({classes.flatten().eq(k)});
    const double share = static_cast<double>(members.size(0)) / 24;
    between += share * (members.mean(0) - mean).square().sum().item<double>();
    entropy -= share * std::log(share);
    chance += share * share;
  }
  CHECK(c.between == Approx(between / (1 - mean.square().sum().item<double>())).epsilon(1e-9));
  CHECK(c.entropy == Approx(entropy / std::log(4)).epsilon(1e-9));
  double alike = 0;
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t y = 0; y < 3; ++y) {
      for (int64_t z = 0; z < 4; ++z) {
        const auto at = [&](int64_t row, int64_t column) { return classes[i][row][column].item<int64_t>(); };
        if (z < 3) alike += at(y, z) == at(y, z + 1) ? 1 : 0;
        if (y < 2) alike += at(y, z) == at(y + 1, z) ? 1 : 0;
      }
    }
  }
  CHECK(c.agreement == Approx((alike / 34 - chance) / (1 - chance)).epsilon(1e-9));
  CHECK_ERROR(partition_criteria(features, classes.slice(1, 0, 2), 4), "expected features (M,C,h,w)");
}

TEST_CASE("a rank correlation", "[tune]") {
  CHECK(rank_correlation({1, 2, 3, 4}, {10, 20, 30, 40}) == Approx(1));
  CHECK(rank_correlation({1, 2, 3, 4}, {4, 3, 2, 1}) == Approx(-1));
  CHECK(rank_correlation({1, 1, 2, 3}, {1, 2, 3, 4}) == Approx(0.9487).epsilon(1e-3));
  CHECK(std::isnan(rank_correlation({1, 1}, {1, 2})));
}

TEST_CASE("tuning", "[tune]") {
  const TempDir dir;
  const fs::path out = dir.path / "tune";
  const Outcome o = check_runs(tune_arguments(out));
  const nlohmann::json result = json_at(out / "tune.json"), list = result.at("candidates");
  REQUIRE(list.size() == 4);
  CHECK(list[0].at("steps") == 9);
  CHECK(list[1].at("steps") == 9);
  CHECK(list[2].at("steps") == 3);
  CHECK(list[0].at("between") >= list[1].at("between"));
  CHECK(list[0].contains("miou"));
  CHECK(result.at("rank_correlations").size() == 2);
  const std::string options = result.at("options");
  CHECK(o.out.find("chosen: " + options) != std::string::npos);
  CHECK(content_of(out / "tune.svg").find("across") != std::string::npos);

  // What it says are options of train; the same again gives the same.
  Words words;
  std::istringstream stream(options);
  for (std::string word; stream >> word;) words.push_back(word);
  check_runs(train_arguments(dir.path / "model") + words);
  const fs::path again = dir.path / "again";
  check_runs(tune_arguments(again));
  CHECK(json_at(again / "tune.json") == result);

  // Without labels nothing judges.
  const fs::path pictures = scenes() / "images" / "train";
  const fs::path unlabelled = dir.path / "unlabelled";
  check_runs(tune_arguments(unlabelled, pictures) + Words{"--classes", "auto", "--rungs", "1"});
  const nlohmann::json plain = json_at(unlabelled / "tune.json");
  CHECK_FALSE(plain.at("candidates")[0].contains("miou"));
  CHECK_FALSE(plain.contains("rank_correlations"));
  check_fails(tune_arguments(unlabelled, pictures), "say --classes K, or --classes auto");
}

TEST_CASE("training counts the classes itself", "[tune]") {
  const TempDir dir;
  const fs::path out = dir.path / "model";
  const Words arguments = train_arguments(out) + Words{"--classes", "auto"};
  const Outcome o = check_runs(arguments);
  const int64_t classes = std::stoll(settings_of(out / "best.safetensors").at("classes").get<std::string>());
  CHECK(classes >= 2);
  CHECK(o.err.find("classes: " + std::to_string(classes) + ", as many as the features suggest") != std::string::npos);
  CHECK(fs::exists(out / "classes.svg"));
  check_runs(arguments + Words{"--iterations", "6", "--resume"});
  CHECK(settings_of(out / "best.safetensors").at("classes") == std::to_string(classes));
  check_runs({"evaluate", "--model", (out / "best.safetensors").string(), "--data", scenes().string(), "--resolution",
              "64", "--panels", "0", "--matching", "majority"});
  check_fails(train_arguments(dir.path / "x") + Words{"--classes", "some"}, "or auto", 2);
  check_fails({"compare", "--data", scenes().string(), "--out", (dir.path / "c").string(), "--classes", "auto"},
              "one number of classes");
}
