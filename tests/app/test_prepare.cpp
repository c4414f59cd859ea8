// The cache of features, as `train`, `prepare features` and `evaluate --kmeans` share it.

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

TEST_CASE("a cache of features changes no bit", "[prepare][feature cache]") {
  const TempDir dir;
  const std::vector<std::string> cached{"--cache", (dir.path / "cache").string()};
  const auto last = [&](const char* run) { return dir.path / run / "last.safetensors"; };
  check_runs(train_arguments(dir.path / "plain"));
  check_runs(train_arguments(dir.path / "first") + cached);
  check_same_tensors(last("plain"), last("first"));
  const Outcome again = run_program(train_arguments(dir.path / "again") + cached);
  CHECK(again.status == 0);
  CHECK(again.err.find("to be written") == std::string::npos);
  check_same_tensors(last("plain"), last("again"));
  check_runs(train_arguments(dir.path / "mapped") + Words{"--cache-memory", "0", "--workers", "3", "--crops", "five"} +
             cached);
  check_runs(train_arguments(dir.path / "workers") + Words{"--workers", "1", "--crops", "five"});
  check_same_tensors(last("mapped"), last("workers"));

  const std::vector<std::string> half{"--feature-dtype", "float16"};
  check_runs(train_arguments(dir.path / "half") + half);
  check_runs(train_arguments(dir.path / "half cached") + half + cached);
  check_same_tensors(last("half"), last("half cached"));
  const auto weight = [&](const char* run) {
    return smooseg::io::read_tensors(last(run).string()).at("projector.linear.weight");
  };
  CHECK_FALSE(weight("half").equal(weight("plain")));
  CHECK(relative_error(weight("half"), weight("plain")) < 1e-3);

  // Prepared ahead with the same settings, nothing is left to compute.
  const std::string other = (dir.path / "prepared").string();
  const Outcome prepared = run_program({"prepare", "features", "--data", scenes().string(), "--cache", other,
                                        "--resolution", "64", "--textons", "8", "--threads", "2", "--device", "cpu"});
  INFO(prepared.err);
  CHECK(prepared.status == 0);
  CHECK(prepared.out == "features of 6 crops: " + other + "\n");
  const Outcome o = run_program(train_arguments(dir.path / "o") + Words{"--cache", other});
  CHECK(o.err.find("to be written") == std::string::npos);
  check_same_tensors(last("plain"), last("o"));

  // k-means takes the features that the training left.
  const auto scores = [&](const char* out, const std::vector<std::string>& more) {
    const Outcome e =
        run_program(Words{"evaluate", "--model", last("plain").string(), "--data", scenes().string(), "--out",
                          (dir.path / out).string(), "--resolution", "64", "--kmeans", "--threads", "2"} +
                    more);
    CHECK(e.status == 0);
    CHECK(e.err.find("to be written") == std::string::npos);
    return nlohmann::json::parse(content_of(dir.path / out / "scores.json"));
  };
  CHECK(scores("with", cached).at("kmeans") == scores("without", {}).at("kmeans"));
  check_fails(train_arguments(dir.path / "bad") + Words{"--cache", last("plain").string()},
              "cannot create the folder ");
  check_fails({"prepare", "features", "--data", scenes().string()}, "--cache is required for 'prepare features'");
  for (const char* option : {"--train=0", "--test=100001", "--height=8", "--width=4097"}) {
    check_fails({"prepare", "scenes", "--out", (dir.path / "none").string(), option}, std::string(option).substr(0, 6),
                2);
    CHECK_FALSE(fs::exists(dir.path / "none"));
  }
  check_fails({"prepare", "scenes", "--out", (last("plain") / "x").string()}, "--out: cannot create the folder ");
  check_fails({"prepare", "scenes"}, "--out is required for 'prepare scenes'");
}
