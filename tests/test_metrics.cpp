// Confusion counts, Hungarian matching and scores, against the published evaluation and brute force.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "smooseg/metrics/confusion.hpp"
#include "smooseg/metrics/hungarian.hpp"
#include "smooseg/metrics/scores.hpp"
#include "support.hpp"

using Catch::Approx;
using smooseg::Tensor;
using namespace smooseg::metrics;
namespace io = smooseg::io;

namespace {

/// The smallest cost of assigning all rows of a matrix with rows <= columns, by trying every permutation.
double smallest_cost(const Eigen::MatrixXd& cost) {
  if (cost.rows() > cost.cols()) return smallest_cost(cost.transpose());
  std::vector<Eigen::Index> columns(static_cast<size_t>(cost.cols()));
  std::iota(columns.begin(), columns.end(), 0);
  double smallest = std::numeric_limits<double>::infinity();
  do {
    double sum = 0;
    for (Eigen::Index row = 0; row < cost.rows(); ++row) sum += cost(row, columns[static_cast<size_t>(row)]);
    smallest = std::min(smallest, sum);
  } while (std::next_permutation(columns.begin(), columns.end()));
  return smallest;
}

/// The cost of an assignment, after checking that it is one of as many pairs as fit.
double cost_of(const Eigen::MatrixXd& cost, const std::vector<int64_t>& column_of_row) {
  REQUIRE(column_of_row.size() == static_cast<size_t>(cost.rows()));
  double sum = 0;
  std::set<int64_t> used;
  for (size_t row = 0; row < column_of_row.size(); ++row) {
    const int64_t column = column_of_row[row];
    if (column == -1) continue;
    REQUIRE((column >= 0 && column < cost.cols()));
    REQUIRE(used.insert(column).second);
    sum += cost(static_cast<Eigen::Index>(row), column);
  }
  REQUIRE(static_cast<Eigen::Index>(used.size()) == std::min(cost.rows(), cost.cols()));
  return sum;
}

Tensor labels_of(std::vector<int64_t> values) {
  return torch::tensor(values, torch::kInt64);
}

}  // namespace

TEST_CASE("hungarian finds what brute force finds", "[metrics]") {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> real(-5, 5);
  std::uniform_int_distribution<int> tied(-2, 2);
  for (Eigen::Index rows = 1; rows <= 6; ++rows) {
    for (Eigen::Index columns = 1; columns <= 6; ++columns) {
      for (int repeat = 0; repeat < 10; ++repeat) {
        const bool ties = repeat % 2 == 0;
        const Eigen::MatrixXd cost =
            Eigen::MatrixXd::NullaryExpr(rows, columns, [&] { return ties ? tied(random) : real(random); });
        INFO("cost\n" << cost);
        CHECK(cost_of(cost, hungarian(cost)) == Approx(smallest_cost(cost)).margin(1e-12));
      }
    }
  }
}

TEST_CASE("hungarian on matrices worked by hand", "[metrics]") {
  Eigen::MatrixXd cost(3, 3);
  cost << 4, 1, 3, 2, 0, 5, 3, 2, 2;  // 1 + 2 + 2; the greedy choice 0 + 2 + 4 is worse
  CHECK(hungarian(cost) == std::vector<int64_t>{1, 0, 2});
  CHECK(hungarian(-cost) == std::vector<int64_t>{0, 2, 1});
  CHECK(hungarian(cost.leftCols(1)) == std::vector<int64_t>{-1, 0, -1});
  CHECK(hungarian(cost.topRows(1)) == std::vector<int64_t>{1});
  CHECK(hungarian(Eigen::MatrixXd::Constant(1, 1, -3)) == std::vector<int64_t>{0});
  CHECK(hungarian(Eigen::MatrixXd(2, 0)) == std::vector<int64_t>{-1, -1});
  CHECK(hungarian(Eigen::MatrixXd(0, 2)).empty());

  cost(1, 2) = std::nan("");
  CHECK_ERROR(hungarian(cost), "hungarian: expected finite costs, got NaN or infinity in a matrix of 3 x 3");
  cost(1, 2) = INFINITY;
  CHECK_ERROR(hungarian(cost), "expected finite costs");
}

TEST_CASE("scores equal the published evaluation's", "[metrics]") {
  const auto check = [](const std::string& name, int64_t classes) {
    INFO(name);
    const io::TensorMap expected = golden(name);
    const Tensor predictions = expected.at("predictions"), labels = expected.at("labels");
    ConfusionMatrix confusion(classes, classes);
    confusion.update(predictions, labels);

    const Tensor counts = expected.at("confusion_cluster_by_class").t().contiguous();
    CHECK(confusion.counts() == Eigen::Map<const Counts>(counts.data_ptr<int64_t>(), classes, classes));

    const Scores scores = confusion.scores();
    // The published evaluation divides and averages in float32; its accuracy is ours rounded once, its mean of
    // quotients within float32's precision of ours.
    const auto percent = [&](const char* name) { return expected.at(name).item<double>(); };
    CHECK(std::abs(100. * static_cast<float>(scores.accuracy) - percent("accuracy")) < 1e-10);
    CHECK(std::abs(scores.miou / (percent("miou") / 100) - 1) < std::numeric_limits<float>::epsilon());
    for (int64_t row = 0; row < classes; ++row) {
      const auto cluster = expected.at("cluster_of_row")[row].item<int64_t>();
      CHECK(scores.class_of_cluster.at(static_cast<size_t>(cluster)) ==
            expected.at("class_of_row")[row].item<int64_t>());
    }

    // In parts, of other integer types, merged.
    ConfusionMatrix first(classes, classes), second(classes, classes);
    first.update(predictions[0].to(torch::kUInt8), labels[0].to(torch::kInt8));
    second.update(predictions.slice(0, 1).to(torch::kInt32), labels.slice(0, 1).to(torch::kInt16));
    first += second;
    CHECK(first.counts() == confusion.counts());
  };
  check("metrics_k3.safetensors", 3);
  check("metrics_k27.safetensors", 27);
}

TEST_CASE("scores worked by hand", "[metrics]") {
  SECTION("as many clusters as classes") {
    ConfusionMatrix confusion(2, 2);
    // Cluster 1 is class 0: right are 2 of 3 pixels of class 0 and both of class 1; -1 and 255 are ignored, whatever
    // the cluster there.
    confusion.update(labels_of({1, 1, 0, 0, 0, 9, -4}), labels_of({0, 0, 0, 1, 1, -1, 255}));
    const Scores scores = confusion.scores();
    CHECK(scores.class_of_cluster == std::vector<int64_t>{1, 0});
    CHECK(scores.accuracy == Approx(4. / 5));
    REQUIRE(scores.iou.size() == 2);
    CHECK(scores.iou[0] == Approx(2. / 3));
    CHECK(scores.iou[1] == Approx(2. / 3));
    CHECK(scores.miou == Approx(2. / 3));
  }
  SECTION("more clusters than classes: those left over count as errors") {
    Counts counts(3, 2);
    counts << 4, 1, 3, 0, 0, 2;
    const Scores scores = smooseg::metrics::scores(counts);
    CHECK(scores.class_of_cluster == std::vector<int64_t>{0, -1, 1});
    CHECK(scores.accuracy == Approx(6. / 10));
    CHECK(scores.iou[0] == Approx(4. / 8));  // 7 of the class, 5 in its cluster
    CHECK(scores.iou[1] == Approx(2. / 3));
  }
  SECTION("fewer clusters than classes: those left over have IoU 0") {
    Counts counts(1, 2);
    counts << 1, 3;
    const Scores scores = smooseg::metrics::scores(counts);
    CHECK(scores.class_of_cluster == std::vector<int64_t>{1});
    CHECK(scores.accuracy == Approx(3. / 4));
    CHECK(scores.iou == std::vector<double>{0, 3. / 4});
    CHECK(scores.miou == Approx(3. / 8));
  }
  SECTION("a class that occurs nowhere is no part of the mean") {
    Counts counts(3, 3);
    counts << 2, 0, 0, 0, 5, 0, 0, 0, 0;
    const Scores scores = smooseg::metrics::scores(counts);
    CHECK(std::isnan(scores.iou[2]));
    CHECK(scores.miou == 1.0);
  }
}

TEST_CASE("scores by other conventions, worked by hand", "[metrics]") {
  Counts counts(4, 4);
  // Class 2 is predicted alone, class 3 occurs nowhere, cluster 3 is empty.
  counts << 6, 2, 0, 0, 3, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0;
  const double hungarian_0 = 6. / 11, hungarian_1 = 4. / 7;
  const Scores one_to_one = smooseg::metrics::scores(counts);
  CHECK(one_to_one.class_of_cluster[0] == 0);
  CHECK(one_to_one.class_of_cluster[2] == 1);
  CHECK(one_to_one.accuracy == Approx(10. / 16));
  CHECK(one_to_one.iou[0] == Approx(hungarian_0));
  CHECK(one_to_one.iou[1] == Approx(hungarian_1));

  // What counts in the mean; clusters 1 and 3 have the classes 2 and 3 between them.
  const bool class_2_is_predicted = one_to_one.class_of_cluster[1] == 2;
  const double sum = hungarian_0 + hungarian_1;
  CHECK(std::isnan(one_to_one.iou[class_2_is_predicted ? 3 : 2]));
  CHECK(one_to_one.miou == Approx(sum / 3));
  CHECK(smooseg::metrics::scores(counts, {Matching::kHungarian, AbsentClasses::kSkipUnlabelled}).miou ==
        Approx(sum / 2));
  const Scores zero = smooseg::metrics::scores(counts, {Matching::kHungarian, AbsentClasses::kZero});
  CHECK(zero.miou == Approx(sum / 4));
  CHECK(zero.accuracy == one_to_one.accuracy);

  // Each cluster its most frequent class: two have class 0.
  const Scores majority = smooseg::metrics::scores(counts, {Matching::kMajority, AbsentClasses::kSkip});
  CHECK(majority.class_of_cluster == std::vector<int64_t>{0, 0, 1, -1});
  CHECK(majority.accuracy == Approx(13. / 16));
  CHECK(majority.iou[0] == Approx(9. / 12));
  CHECK(majority.iou[1] == Approx(4. / 7));
  CHECK(std::isnan(majority.iou[2]));
  CHECK(majority.miou == Approx((9. / 12 + 4. / 7) / 2));

  // More clusters than classes: none is left over, and of two classes with equally many pixels the first is taken.
  Counts many(3, 2);
  many << 4, 1, 3, 0, 2, 2;
  const Scores merged = smooseg::metrics::scores(many, {Matching::kMajority});
  CHECK(merged.class_of_cluster == std::vector<int64_t>{0, 0, 0});
  CHECK(merged.accuracy == Approx(9. / 12));
  CHECK(merged.iou == std::vector<double>{9. / 12, 0});
  ConfusionMatrix confusion(3, 2);
  confusion.update(labels_of({0, 1, 1}), labels_of({1, 1, 1}));
  CHECK(confusion.scores({Matching::kMajority}).accuracy == 1.0);
  CHECK(confusion.scores().accuracy == Approx(2. / 3));
}

TEST_CASE("confusion counts of two parts add up", "[metrics]") {
  ConfusionMatrix sum(2, 3), part(2, 3);
  sum.update(labels_of({0, 1, 1}), labels_of({2, 0, 0}));
  part.update(labels_of({0, 0, 1}), labels_of({2, 1, 2}));
  Counts of_part(2, 3), expected(2, 3);
  of_part << 0, 1, 1, 0, 0, 1;
  expected << 0, 1, 2, 2, 0, 1;
  CHECK(&(sum += part) == &sum);
  CHECK(sum.counts() == expected);
  CHECK(part.counts() == of_part);
  sum += sum;
  CHECK(sum.counts() == 2 * expected);

  CHECK_ERROR(sum += ConfusionMatrix(3, 3), "expected 2 clusters and 3 classes to add, got 3 and 3");
  CHECK_ERROR(sum += ConfusionMatrix(2, 2), "expected 2 clusters and 3 classes to add, got 2 and 2");
  CHECK(sum.counts() == 2 * expected);
}

TEST_CASE("confusion counts say what is wrong", "[metrics]") {
  ConfusionMatrix confusion(3, 2);
  CHECK_ERROR(confusion.update(labels_of({0, 1}), labels_of({0})),
              "ConfusionMatrix::update: expected predictions and labels of one shape, got (2) and (1)");
  CHECK_ERROR(confusion.update(torch::zeros({2}), labels_of({0, 1})), "expected predictions of an integer dtype");
  CHECK_ERROR(confusion.update(labels_of({0, 1}), torch::zeros({2}, torch::kBool)),
              "expected labels of an integer dtype");
  CHECK_ERROR(confusion.update(Tensor(), labels_of({0})), "predictions is undefined");
  CHECK_ERROR(confusion.update(labels_of({0, 3}), labels_of({0, 1})),
              "expected predictions of 0 to 2 where the label counts, got 0 to 3");
  CHECK_ERROR(confusion.update(labels_of({-1, 0}), labels_of({0, 1})), "got -1 to 0");
  CHECK_ERROR(ConfusionMatrix(0, 2), "expected at least one cluster and one class, got 0 and 2");

  confusion.update(labels_of({0, 1}), labels_of({-1, 2}));
  confusion.update(labels_of({}), labels_of({}));
  CHECK(confusion.counts() == Counts::Zero(3, 2));
  CHECK_ERROR(confusion.scores(), "scores: expected counts of at least one labelled pixel, got none");
}
