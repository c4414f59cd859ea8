// Eqs. 2 to 7 in Eigen alone: against the published program, the LibTorch form, finite differences and dual numbers.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "eigen_maps.hpp"
#include "smooseg/eigen/energy.hpp"
#include "smooseg/loss.hpp"
#include "support.hpp"

namespace {

/// A number and its derivative: v + d epsilon, with epsilon^2 = 0.
struct Dual {
  Dual(double value = 0, double derivative = 0) : v(value), d(derivative) {}  // NOLINT: converts as numbers do
  double v, d;

  Dual& operator+=(const Dual& o) { return *this = {v + o.v, d + o.d}; }
  Dual& operator-=(const Dual& o) { return *this = {v - o.v, d - o.d}; }
  Dual& operator*=(const Dual& o) { return *this = {v * o.v, d * o.v + v * o.d}; }
  Dual& operator/=(const Dual& o) { return *this = {v / o.v, (d * o.v - v * o.d) / (o.v * o.v)}; }
  friend Dual operator+(Dual a, const Dual& b) { return a += b; }
  friend Dual operator-(Dual a, const Dual& b) { return a -= b; }
  friend Dual operator*(Dual a, const Dual& b) { return a *= b; }
  friend Dual operator/(Dual a, const Dual& b) { return a /= b; }
  friend Dual operator-(const Dual& a) { return {-a.v, -a.d}; }
  friend bool operator<(const Dual& a, const Dual& b) { return a.v < b.v; }
  friend bool operator>(const Dual& a, const Dual& b) { return a.v > b.v; }
  friend bool operator==(const Dual& a, const Dual& b) { return a.v == b.v; }
  friend Dual exp(const Dual& a) { return {std::exp(a.v), std::exp(a.v) * a.d}; }
  friend Dual log(const Dual& a) { return {std::log(a.v), a.d / a.v}; }
  friend Dual sqrt(const Dual& a) { return {std::sqrt(a.v), a.d / (2 * std::sqrt(a.v))}; }
};

}  // namespace

namespace Eigen {
template <>
struct NumTraits<Dual> : NumTraits<double> {
  using Real = Dual;
  using NonInteger = Dual;
  using Nested = Dual;
  enum { RequireInitialization = 1, ReadCost = 2, AddCost = 2, MulCost = 6 };
};
}  // namespace Eigen

namespace {

using namespace smooseg;
using eigen::Matrix;

std::vector<int> partners_in(const Tensor& pairing) {
  std::vector<int> result;
  for (int64_t i = 0; i < pairing.numel(); ++i) result.push_back(static_cast<int>(pairing[i].item<int64_t>()));
  return result;
}

/// The arguments of `eigen::energy`.
template <class Scalar>
struct EnergyProblem {
  std::vector<Matrix<Scalar>> features, code;
  Matrix<Scalar> student, teacher;
  std::vector<int> pairing;
  eigen::EnergyOptions options;

  eigen::Energy<Scalar> energy(eigen::EnergyGradient<Scalar>* gradient = nullptr) const {
    return eigen::energy(features, code, student, teacher, pairing, options, gradient);
  }
};

struct EnergySizes {
  int64_t batch, channels, patches, dim, classes;
};

/// A problem with numbers of the LibTorch form, in float64.
struct EnergyTensors {
  explicit EnergyTensors(const EnergySizes& s, const std::vector<int64_t>& partners = {}) {
    torch::manual_seed(4);
    features = torch::randn({s.batch, s.channels, s.patches}, torch::kFloat64) + 0.3;
    code = torch::randn({s.batch, s.dim, s.patches}, torch::kFloat64);
    student = torch::randn({s.classes, s.dim}, torch::kFloat64);
    teacher = student + 0.3 * torch::randn({s.classes, s.dim}, torch::kFloat64);
    pairing = partners.empty() ? functional::random_pairing(s.batch) : torch::tensor(partners);
  }

  template <class Scalar>
  EnergyProblem<Scalar> problem(const eigen::EnergyOptions& options = {}) const {
    return {maps_of<Scalar>(features),  maps_of<Scalar>(code), matrix_of<Scalar>(student),
            matrix_of<Scalar>(teacher), partners_in(pairing),  options};
  }

  Tensor features, code, student, teacher, pairing;
};

smooseg::EnergyOptions torch_options(const eigen::EnergyOptions& o, Evaluation evaluation) {
  return smooseg::EnergyOptions()
      .smoothness(SmoothnessOptions()
                      .within_threshold(o.within_threshold)
                      .across_threshold(o.across_threshold)
                      .centering(o.centering)
                      .reduction(o.reduction)
                      .evaluation(evaluation))
      .temperature(o.temperature);
}

double relative(double got, double expected) {
  return std::abs(got - expected) / std::abs(expected);
}

}  // namespace

TEST_CASE("energy in Eigen: the published program's values and gradients", "[eigen][golden]") {
  for (const char* file :
       {"loss_small.safetensors", "loss_cityscapes_shape.safetensors", "loss_potsdam_shape.safetensors"}) {
    INFO(file);
    const auto g = golden(file);
    const auto settings = io::read_safetensors_metadata(data_path(file));
    EnergyProblem<double> problem{maps_of<double>(g.at("features")),
                                  maps_of<double>(g.at("code")),
                                  matrix_of<double>(g.at("student_prototypes")),
                                  matrix_of<double>(g.at("teacher_prototypes")),
                                  partners_in(g.at("pairing")),
                                  {}};
    problem.options.within_threshold = std::stod(settings.at("within_threshold"));
    problem.options.across_threshold = std::stod(settings.at("across_threshold"));
    problem.options.temperature = std::stod(settings.at("temperature"));

    eigen::EnergyGradient<double> gradient;
    const auto e = problem.energy(&gradient);
    const auto expected = [&](const char* name) { return g.at(name).item<double>(); };
    CHECK(relative(e.within, expected("within_loss")) < 1e-12);
    CHECK(relative(e.across, expected("across_loss")) < 1e-12);
    CHECK(relative(e.data, expected("data_loss")) < 1e-12);
    CHECK(relative(e.total, expected("total_loss")) < 1e-12);
    CHECK(relative_error(torch_tensor_of(gradient.student), g.at("grad_student_prototypes")) < 1e-12);
    const Tensor grad_code = g.at("grad_code").flatten(2);
    REQUIRE(gradient.code.size() == static_cast<size_t>(grad_code.size(0)));
    for (size_t i = 0; i < gradient.code.size(); ++i) {
      CHECK(relative_error(torch_tensor_of(gradient.code[i]), grad_code[static_cast<int64_t>(i)]) < 1e-12);
    }
    CHECK(problem.energy().total == e.total);  // the same without a gradient

    const auto thresholds = problem.options;
    problem.options = eigen::EnergyOptions::paper();
    problem.options.within_threshold = thresholds.within_threshold;
    problem.options.across_threshold = thresholds.across_threshold;
    const auto paper = problem.energy();
    CHECK(relative(paper.within, expected("paper_within_sum")) < 1e-12);
    CHECK(relative(paper.across, expected("paper_across_sum")) < 1e-12);
  }
}

TEST_CASE("energy in Eigen: the LibTorch form's values and gradients, in any setting", "[eigen][loss]") {
  const std::vector<std::pair<EnergySizes, std::vector<int64_t>>> cases{
      {{4, 20, 33, 7, 5}, {}},
      {{3, 9, 40, 6, 3}, {1, 1, 1}},  // one partner of all, of itself too
      {{1, 5, 12, 4, 2}, {}},         // an image alone is its own partner
      {{2, 1, 1, 1, 1}, {}},          // nothing but ones
  };
  for (const auto& [sizes, partners] : cases) {
    const EnergyTensors tensors(sizes, partners);
    for (const auto centering : {Centering::kNone, Centering::kRow, Centering::kRowKeepMean}) {
      for (const auto reduction : {Reduction::kMean, Reduction::kSum}) {
        for (const auto evaluation : {Evaluation::kFactorized, Evaluation::kPairwise}) {
          INFO("patches " << sizes.patches << ", centering " << static_cast<int>(centering) << ", reduction "
                          << static_cast<int>(reduction) << ", evaluation " << static_cast<int>(evaluation));
          eigen::EnergyOptions options;
          options.within_threshold = 0.07;
          options.across_threshold = 0.31;
          options.temperature = 0.23;
          options.centering = centering;
          options.reduction = reduction;

          const Tensor code = tensors.code.clone().requires_grad_(), student = tensors.student.clone().requires_grad_();
          const PrototypeLogits logits{functional::prototype_logits(student, code.detach()),
                                       functional::prototype_logits(tensors.teacher, code)};
          EnergyLoss torch_form(torch_options(options, evaluation));
          const EnergyTerms expected = torch_form(tensors.features, logits, tensors.pairing);
          expected.total.backward();

          eigen::EnergyGradient<double> gradient;
          const auto e = tensors.problem<double>(options).energy(&gradient);
          const double scale = expected.total.abs().item<double>() + expected.within.abs().item<double>() +
                               expected.across.abs().item<double>() + 1e-3;
          const auto differs = [&](double got, const Tensor& wanted) {
            return std::abs(got - wanted.item<double>()) / scale;
          };
          CHECK(differs(e.within, expected.within) < 1e-12);
          CHECK(differs(e.across, expected.across) < 1e-12);
          CHECK(differs(e.data, expected.data) < 1e-12);
          CHECK(differs(e.total, expected.total) < 1e-12);
          const auto close = [&](const Tensor& got, const Tensor& wanted) {
            return (got - wanted).abs().max().item<double>() <= 1e-12 * (wanted.abs().max().item<double>() + 1e-3);
          };
          CHECK(close(torch_tensor_of(gradient.student), student.grad()));
          for (int64_t i = 0; i < sizes.batch; ++i) {
            CHECK(close(torch_tensor_of(gradient.code[static_cast<size_t>(i)]), code.grad()[i]));
          }
        }
      }
    }
  }
}

TEST_CASE("energy in Eigen: float as the LibTorch form in float32", "[eigen][loss]") {
  const EnergyTensors tensors({3, 64, 100, 16, 9});
  eigen::EnergyGradient<float> gradient;
  eigen::EnergyGradient<double> expected_gradient;
  const auto e = tensors.problem<float>().energy(&gradient);
  const auto expected = tensors.problem<double>().energy(&expected_gradient);
  CHECK(std::abs(e.total - static_cast<float>(expected.total)) < 1e-5);
  const PrototypeLogits logits{
      functional::prototype_logits(tensors.student.to(torch::kFloat32), tensors.code.to(torch::kFloat32)),
      functional::prototype_logits(tensors.teacher.to(torch::kFloat32), tensors.code.to(torch::kFloat32))};
  EnergyLoss torch_form;  // whose defaults are the same
  const EnergyTerms in_torch = torch_form(tensors.features.to(torch::kFloat32), logits, tensors.pairing);
  CHECK(std::abs(e.total - in_torch.total.item<float>()) < 1e-5);
  for (size_t i = 0; i < gradient.code.size(); ++i) {
    CHECK(relative_error(torch_tensor_of(gradient.code[i]), torch_tensor_of(expected_gradient.code[i])) < 1e-4);
  }
}

TEST_CASE("energy in Eigen: gradients by finite differences in long double", "[eigen]") {
  using Real = long double;
  const EnergyTensors tensors({3, 6, 5, 4, 3}, {1, 2, 1});
  for (const auto centering : {Centering::kNone, Centering::kRow, Centering::kRowKeepMean}) {
    INFO("centering " << static_cast<int>(centering));
    eigen::EnergyOptions options;
    options.centering = centering;
    EnergyProblem<Real> problem = tensors.problem<Real>(options);
    eigen::EnergyGradient<Real> gradient;
    problem.energy(&gradient);
    // The difference quotient of fourth order.
    const auto slope = [&](Real& x, const auto& value) {
      const Real step = 2e-5L, at = x;
      const auto moved = [&](Real by) {
        x = at + by;
        return value(problem.energy());
      };
      const Real result = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step);
      x = at;
      return result;
    };
    const auto smoothness = [](const eigen::Energy<Real>& e) { return e.within + e.across; };
    const auto data = [](const eigen::Energy<Real>& e) { return e.data; };
    Real worst = 0;
    for (size_t i = 0; i < problem.code.size(); ++i) {
      for (Eigen::Index n = 0; n < problem.code[i].size(); ++n) {
        worst = std::max(worst, std::abs(slope(problem.code[i](n), smoothness) - gradient.code[i](n)));
      }
    }
    CHECK(worst < 1e-11L);
    worst = 0;
    for (Eigen::Index n = 0; n < problem.student.size(); ++n) {
      worst = std::max(worst, std::abs(slope(problem.student(n), data) - gradient.student(n)));
      CHECK(slope(problem.student(n), smoothness) == 0);
    }
    CHECK(worst < 1e-11L);
    CHECK(gradient.student.cwiseAbs().maxCoeff() > 1e-3L);
    CHECK(gradient.code[0].cwiseAbs().maxCoeff() > 1e-3L);
  }
}

TEST_CASE("energy in Eigen: gradients by dual numbers", "[eigen]") {
  const EnergyTensors tensors({3, 8, 11, 5, 4});
  const EnergyProblem<double> numbers = tensors.problem<double>();
  eigen::EnergyGradient<double> gradient;
  const auto e = numbers.energy(&gradient);

  // Along a direction for the code and one for the student.
  EnergyProblem<Dual> problem = tensors.problem<Dual>();
  torch::manual_seed(8);
  double along_code = 0, along_student = 0;
  const auto direct = [](Matrix<Dual>& m, const Matrix<double>& gradient_of_m) {
    const Matrix<double> direction = matrix_of<double>(torch::randn({m.rows(), m.cols()}, torch::kFloat64));
    for (Eigen::Index n = 0; n < m.size(); ++n) m(n).d = direction(n);
    return direction.cwiseProduct(gradient_of_m).sum();
  };
  for (size_t i = 0; i < problem.code.size(); ++i) along_code += direct(problem.code[i], gradient.code[i]);
  const auto by_code = problem.energy();
  CHECK(relative(by_code.total.v, e.total) < 1e-14);
  CHECK(relative((by_code.within + by_code.across).d, along_code) < 1e-12);

  problem = tensors.problem<Dual>();
  along_student = direct(problem.student, gradient.student);
  const auto by_student = problem.energy();
  CHECK(relative(by_student.data.d, along_student) < 1e-12);
  CHECK(by_student.within.d == 0);
  CHECK(by_student.across.d == 0);
}

TEST_CASE("energy in Eigen: zero vectors are close to nothing", "[eigen]") {
  const EnergyTensors tensors({2, 5, 6, 3, 3});
  tensors.features.select(2, 1).zero_();
  tensors.code.select(2, 4).zero_();
  eigen::EnergyGradient<double> gradient;
  const auto e = tensors.problem<double>().energy(&gradient);
  const Tensor code = tensors.code.clone().requires_grad_();
  EnergyLoss torch_form;
  const PrototypeLogits logits{functional::prototype_logits(tensors.student, code.detach()),
                               functional::prototype_logits(tensors.teacher, code)};
  const EnergyTerms expected = torch_form(tensors.features, logits, tensors.pairing);
  expected.total.backward();
  CHECK(std::abs(e.total - expected.total.item<double>()) < 1e-12);
  for (int64_t i = 0; i < 2; ++i) {
    CHECK(relative_error(torch_tensor_of(gradient.code[static_cast<size_t>(i)]), code.grad()[i]) < 1e-12);
  }
}

TEST_CASE("energy in Eigen: no matrix of patches by patches", "[eigen]") {
  const EnergyTensors tensors({2, 3, 30000, 2, 2});  // whose matrices would have 7 GB each
  eigen::EnergyGradient<double> gradient;
  const auto e = tensors.problem<double>().energy(&gradient);
  CHECK(std::isfinite(e.total));
  CHECK(gradient.code[1].allFinite());
}

TEST_CASE("energy in Eigen: what does not fit is refused", "[eigen][bad input]") {
  const EnergyProblem<double> good = EnergyTensors({2, 5, 6, 3, 4}).problem<double>();
  const auto error_with = [&](const auto& change) {
    EnergyProblem<double> p = good;
    change(p);
    return error_of([&] { p.energy(); });
  };
  struct Case {
    std::function<void(EnergyProblem<double>&)> change;
    std::string error;
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Case> cases{
      {[](auto& p) { p.features.clear(); },
       "features, code and pairing of one number of images, at least 1, got 0, 2 and 2"},
      {[](auto& p) { p = {}; }, "at least 1, got 0, 0 and 0"},
      {[](auto& p) { p.code.pop_back(); }, "got 2, 1 and 2"},
      {[](auto& p) { p.pairing.push_back(0); }, "got 2, 2 and 3"},
      {[](auto& p) { p.pairing[1] = 2; }, "expected pairing[1] of 0 to 1, got 2"},
      {[](auto& p) { p.pairing[0] = -1; }, "expected pairing[0] of 0 to 1, got -1"},
      {[](auto& p) { p.features[1].resize(5, 7); },
       "features[1] of shape (C,N), with no dimension of size 0 and as those of "
       "image 0 (5, 6), got (5, 7)"},
      {[](auto& p) { p.features[0].resize(0, 6); }, "got (0, 6)"},
      {[](auto& p) { p.features[0].resize(5, 0); }, "got (5, 0)"},
      {[](auto& p) { p.code[1].resize(3, 5); },
       "expected code[1] of shape (D,N) for prototypes (4, 3) and features (5, 6), got (3, 5)"},
      {[](auto& p) { p.code[0].resize(2, 6); }, "got (2, 6)"},
      {[](auto& p) { p.teacher.resize(3, 3); },
       "student and teacher of one shape (K,D), with no dimension of size 0, got (4, 3) and (3, 3)"},
      {[](auto& p) { p.student.resize(0, 3), p.teacher.resize(0, 3); }, "got (0, 3) and (0, 3)"},
      {[](auto& p) { p.options.temperature = 0; }, "expected a temperature above 0, got 0"},
      {[](auto& p) { p.options.temperature = kNan; }, "expected a temperature above 0, got nan"},
      {[](auto& p) { p.options.across_threshold = kNan; }, "expected finite thresholds, got -0.02"},
      {[](auto& p) { p.features[1](2, 3) = kNan; }, "expected features[1] to be finite"},
      {[](auto& p) { p.code[0](1, 5) = INFINITY; }, "that of vector 5 is not"},
      {[](auto& p) { p.student(2, 0) = 1e200; },
       "expected student to be finite, and so the squares of its vectors' norms; that of vector 2"},
      {[](auto& p) { p.teacher(0, 0) = -INFINITY; }, "expected teacher to be finite"},
  };
  CHECK(error_with([](auto&) {}).empty());
  for (const Case& c : cases) {
    const std::string error = error_with(c.change);
    INFO(error << "\nexpected: " << c.error);
    CHECK(error.find("smooseg::eigen::energy: expected ") == 0);
    CHECK(error.find(c.error) != std::string::npos);
  }
  EnergyProblem<double> bad = good;
  bad.pairing[0] = 9;
  CHECK_THROWS_AS(bad.energy(), std::invalid_argument);
}
