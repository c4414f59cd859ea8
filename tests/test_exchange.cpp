// Several processes that learn one model: what each gets is what one process with all images gets. The processes are
// threads here; those of the program are in app/test_processes.cpp.

#include <ATen/CPUGeneratorImpl.h>
#include <torch/optim/adam.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/exchange.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "smooseg/projector.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

const auto kExact = torch::TensorOptions().dtype(torch::kFloat64);

/// Where threads that play processes meet.
class Meeting {
 public:
  explicit Meeting(int64_t size) : told_(static_cast<std::size_t>(size)) {}

  std::vector<Tensor> meet(int64_t rank, const Tensor& tensor) {
    std::unique_lock<std::mutex> lock(mutex_);
    told_[static_cast<std::size_t>(rank)] = tensor.detach().clone();
    const int64_t round = round_;
    if (++arrived_ == static_cast<int64_t>(told_.size())) {
      arrived_ = 0;
      ++round_;
      all_ = told_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return round_ != round; })) {
      throw std::runtime_error("a process did not come");
    }
    return all_;  // the next round cannot end before this thread comes to it
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Tensor> told_, all_;
  int64_t arrived_ = 0, round_ = 0;
};

class ThreadExchange : public Exchange {
 public:
  ThreadExchange(Meeting& meeting, int64_t rank, int64_t size) : meeting_(meeting), rank_(rank), size_(size) {}

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  Tensor all_gather(const Tensor& tensor) override {
    told += tensor.numel();
    return torch::cat(meeting_.meet(rank_, tensor));
  }
  Tensor all_reduce(const Tensor& tensor) override { return torch::stack(meeting_.meet(rank_, tensor)).sum(0); }

  int64_t told = 0;  // numbers given to `all_gather`

 private:
  Meeting& meeting_;
  int64_t rank_, size_;
};

/// What f returns in each of several processes.
template <class F>
auto in_processes(int64_t size, const F& f) {
  using Result = decltype(f(std::declval<const std::shared_ptr<ThreadExchange>&>()));
  Meeting meeting(size);
  std::vector<Result> results(static_cast<std::size_t>(size));
  std::vector<std::exception_ptr> errors(results.size());
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank, at = static_cast<std::size_t>(rank)] {
      try {
        results[at] = f(std::make_shared<ThreadExchange>(meeting, rank, size));
      } catch (...) {
        errors[at] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return results;
}

struct Trained {
  Tensor losses;  // (steps,6)
  std::vector<Tensor> weights;
};

struct Start {
  Projector projector{ProjectorOptions(12, 6)};
  PrototypePredictor predictor{PrototypePredictorOptions(5, 6).momentum(0.9)};
  Tensor pool = torch::randn({40, 12, 5, 5}, kExact);

  Start() {
    projector->to(torch::kFloat64);
    predictor->to(torch::kFloat64);
  }
};

/// Some steps of Algorithm 1 over batches of 32 images, of which this process has its part.
Trained learn(const Start& start, EnergyOptions options, const std::shared_ptr<ThreadExchange>& exchange) {
  const int64_t size = exchange ? exchange->size() : 1, own = 32 / size, first = exchange ? exchange->rank() * own : 0;
  Projector projector(std::dynamic_pointer_cast<ProjectorImpl>(start.projector->clone()));
  PrototypePredictor predictor(std::dynamic_pointer_cast<PrototypePredictorImpl>(start.predictor->clone()));
  std::vector<Tensor> weights = projector->parameters();
  weights.push_back(predictor->student);
  torch::optim::Adam adam(weights, 1e-2);
  projector->options.exchange(exchange);
  options.smoothness().exchange(exchange);
  EnergyLoss energy(options);
  std::vector<Tensor> losses;
  for (int64_t step = 0; step < 15; ++step) {
    const Tensor batch = (torch::arange(32) * 7 + step * 11).remainder(40).slice(0, first, first + own);
    const Tensor pairing = (torch::arange(32) + 1 + step).remainder(32);
    const auto masks = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(step));
    const ProjectorOutput o = projector(start.pool.index_select(0, batch), masks);
    const EnergyTerms e = energy(o.features, predictor(o.code), pairing);
    const Tensor terms =
        torch::stack({e.total, e.within, e.across, e.data, e.within_penalty_mean, e.across_penalty_mean});
    losses.push_back(exchange ? exchange->all_reduce(terms) / size : terms.detach());
    adam.zero_grad();
    e.total.backward();
    for (Tensor& weight : weights) {
      if (exchange) weight.mutable_grad().copy_(exchange->all_reduce(weight.grad()) / size);
    }
    predictor->update_teacher();
    adam.step();
  }
  weights.push_back(predictor->teacher);
  return {torch::stack(losses), weights};
}

}  // namespace

TEST_CASE("processes with a part of the batch each learn as one with all of it", "[exchange][loss]") {
  const auto [centering, reduction] = GENERATE(table<Centering, Reduction>({{Centering::kRowKeepMean, Reduction::kMean},
                                                                            {Centering::kRow, Reduction::kSum},
                                                                            {Centering::kNone, Reduction::kMean}}));
  const auto size = GENERATE(as<int64_t>(), 2, 4);
  torch::manual_seed(21);
  const Start start;
  EnergyOptions options;
  options.smoothness().centering(centering).reduction(reduction).within_threshold(0.02).across_threshold(0.1);
  const Trained alone = learn(start, options, nullptr);
  CHECK(relative_error(alone.losses[0], alone.losses[14]) > 1e-3);  // it does learn
  for (const Trained& one : in_processes(size, [&](const auto& exchange) { return learn(start, options, exchange); })) {
    CHECK(relative_error(one.losses, alone.losses) < 1e-9);
    for (std::size_t i = 0; i < alone.weights.size(); ++i)
      CHECK(relative_error(one.weights[i], alone.weights[i]) < 1e-7);
  }
}

TEST_CASE("smoothness over processes: gradients to all inputs, and what travels", "[exchange][smoothness]") {
  torch::manual_seed(22);
  const int64_t batch = 6, channels = 7, classes = 4;
  const Tensor x = torch::randn({batch, channels, 3, 3}, kExact), a = torch::rand({batch, classes, 3, 3}, kExact);
  const Tensor pairing = torch::tensor({3, 2, 3, 5, 0, 3}, torch::kInt64);  // some are nobody's partner, 3 is of three
  const auto gradients = [&](const std::shared_ptr<ThreadExchange>& exchange) {
    const int64_t size = exchange ? exchange->size() : 1, own = batch / size;
    const auto part = [&](const Tensor& t) {
      return t.narrow(0, exchange ? exchange->rank() * own : 0, own).clone().requires_grad_();
    };
    const Tensor own_x = part(x), own_a = part(a);
    const SmoothnessTerms s =
        functional::smoothness(own_x, own_a, pairing, SmoothnessOptions().across_threshold(0.2).exchange(exchange));
    (s.within + 2 * s.across + 0.3 * s.within_penalty_mean).backward();
    const Tensor told = torch::tensor(exchange ? exchange->told : 0, torch::kInt64);
    return std::vector<Tensor>{own_x.grad() / size, own_a.grad() / size, s.total().detach(), told};
  };
  const auto whole = gradients(nullptr);
  const auto parts = in_processes(3, gradients);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(relative_error(torch::cat({parts[0][i], parts[1][i], parts[2][i]}), whole[i]) < 1e-12);
  }
  for (const auto& part : parts) {
    CHECK(part[2].equal(parts[0][2]));
    CHECK(relative_error(part[2], whole[2]) < 1e-12);
    CHECK(part[3].item<int64_t>() == batch / 3 * ((classes + 1) * channels + classes));
  }

  Meeting nobody(2);
  const auto exchange = std::make_shared<ThreadExchange>(nobody, 0, 2);
  CHECK_ERROR(SmoothnessLoss(SmoothnessOptions().evaluation(Evaluation::kPairwise).exchange(exchange)),
              "smooseg::SmoothnessLoss: an exchange with other processes needs factorised evaluation");
  CHECK_ERROR(functional::smoothness(x, a, pairing, SmoothnessOptions().exchange(exchange)),
              "expected pairing of shape (12) and dtype Long, got (6)");
}

TEST_CASE("k-means over processes finds the centres of all vectors", "[exchange][baselines]") {
  torch::manual_seed(23);
  const int64_t clusters = 4;
  const Tensor directions = torch::eye(6, kExact).narrow(0, 0, clusters).repeat({60, 1});
  const Tensor vectors = directions + 0.05 * torch::randn(directions.sizes(), kExact);
  const auto options = [&](int64_t k, const std::shared_ptr<ThreadExchange>& exchange) {
    return baselines::KMeansOptions(k).exchange(exchange);
  };
  const auto part = [](const Tensor& t, const std::shared_ptr<ThreadExchange>& exchange) {
    return exchange ? t.slice(0, exchange->rank(), t.size(0), exchange->size()) : t;
  };
  const auto generator = [] { return at::make_generator<at::CPUGeneratorImpl>(5); };
  const auto fit = [&](const std::shared_ptr<ThreadExchange>& exchange) {
    baselines::KMeans kmeans(options(clusters, exchange), generator());
    const double similarity = kmeans.fit(part(vectors, exchange));
    return std::vector<Tensor>{std::get<0>(kmeans.centers().sort(0)), torch::tensor(similarity, kExact)};
  };
  const auto alone = fit(nullptr);
  const auto two = in_processes(2, fit);
  CHECK(two[0][0].equal(two[1][0]));
  CHECK(relative_error(two[0][0], alone[0]) < 1e-9);
  CHECK(relative_error(two[0][1], alone[1]) < 1e-9);

  // Batches that differ in size, and more clusters than there are directions, so that some are seeded again and again.
  const auto stream = [&](const std::shared_ptr<ThreadExchange>& exchange) {
    baselines::KMeans kmeans(options(9, exchange), generator());
    for (int64_t i = 0; i < 4; ++i) kmeans.update(part(directions.slice(0, 0, 41 + i), exchange));
    return kmeans.centers();
  };
  const auto centers = in_processes(2, stream);
  CHECK(centers[0].equal(centers[1]));
  CHECK(relative_error(centers[0].norm(2, {1}), 1) < 1e-12);
}

TEST_CASE("textons and scores over processes", "[exchange][texture][metrics]") {
  torch::manual_seed(24);
  const auto fit = [](const std::shared_ptr<ThreadExchange>& exchange) {
    backbone::Texture texture(backbone::TextureOptions().textons(6).exchange(exchange));
    int64_t looked_at = 0;
    const auto picture = [&](int64_t i) {
      ++looked_at;
      const Tensor stripes = torch::arange(64).floor_divide(2 + i % 3).remainder(2).to(torch::kFloat32) * 2 - 1;
      return (i % 2 == 0 ? stripes.view({1, 1, 1, 64}) : stripes.view({1, 1, 64, 1}))
          .expand({1, 3, 64, 64})
          .contiguous();
    };
    const double similarity = texture->fit(picture, 12, at::make_generator<at::CPUGeneratorImpl>(3));
    return std::vector<Tensor>{texture->mean, texture->deviation, texture->textons, torch::tensor(similarity),
                               torch::tensor(looked_at)};
  };
  const auto alone = fit(nullptr);
  const auto three = in_processes(3, fit);
  for (const auto& one : three) {
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(one[i].equal(three[0][i]));
    CHECK(relative_error(one[0], alone[0]) < 1e-5);  // all patches are seen
    CHECK(relative_error(one[1], alone[1]) < 1e-5);
    CHECK(relative_error(one[3], alone[3]) < 0.05);
    CHECK(one[4].item<int64_t>() == 4);
  }

  const Tensor predictions = torch::randint(4, {6, 50}, torch::kInt64),
               labels = torch::randint(3, {6, 50}, torch::kInt64);
  metrics::ConfusionMatrix whole(4, 3);
  whole.update(predictions, labels);
  const auto counts = in_processes(2, [&](const auto& exchange) {
    metrics::ConfusionMatrix part(4, 3);
    part.update(predictions.narrow(0, 3 * exchange->rank(), 3), labels.narrow(0, 3 * exchange->rank(), 3));
    part.all_reduce(*exchange);
    return part.counts();
  });
  CHECK(counts[0] == whole.counts());
  CHECK(counts[1] == whole.counts());
}
