// Many runs at a time, `smooseg sweep` and `smooseg plot`, and what they draw.

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "commands/run_all.hpp"
#include "data/image_file.hpp"
#include "report/projection.hpp"
#include "report/svg.hpp"
#include "report/sweep.hpp"
#include "support/moments.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A program that notes its arguments, and fails where one of them is "bad".
std::string stand_in(const fs::path& folder) {
  const std::string path =
      write_content(folder / "program.sh",
                    "#!/bin/sh\necho \"$@\"\n"
                    "for word; do [ \"$word\" = bad ] && { echo oh no >&2; exit 3; }; done\n"
                    "for word; do case $word in --out=*) : > \"${word#--out=}/done\";; esac; done\n"
                    "exit 0\n");
  fs::permissions(path, fs::perms::owner_all);
  return path;
}

/// A run without scores.
std::string unscored_model(const TempDir& dir) {
  fs::create_directories(dir.path / "unscored");
  fs::copy(model_file(), dir.path / "unscored" / "best.safetensors");
  return (dir.path / "unscored").string();
}

/// A run with scores, made once.
const std::string& scored_model() {
  static const TempDir dir;
  static const std::string run = [] {
    const fs::path out = dir.path / "run";
    fs::create_directories(out);
    fs::copy(model_file(), out / "best.safetensors");
    check_runs({"evaluate", "--model", (out / "best.safetensors").string(), "--data", scenes().string(), "--resolution",
                "64", "--panels", "0"});
    return out.string();
  }();
  return run;
}

}  // namespace

TEST_CASE("runs of the program that are not done yet", "[experiments]") {
  const TempDir dir;
  const ScopedVariable program("SMOOSEG_PROGRAM", stand_in(dir.path));
  std::vector<Run> runs;
  for (int i = 0; i < 3; ++i) {
    const fs::path folder = dir.path / std::to_string(i);
    runs.push_back({"run " + std::to_string(i), folder, {"train", "--out=" + folder.string()}, folder / "done"});
  }
  runs[1].arguments.emplace_back("bad");
  std::ostringstream out, err;
  CHECK_ERROR(run_all(runs, 1, {out, err}),
              "the run 'run 1' ended with status 3; the last lines of " + (dir.path / "1" / "output.txt").string());
  CHECK(fs::exists(runs[0].result));
  CHECK_FALSE(fs::exists(runs[2].folder));  // it was not begun
  CHECK(holds(content_of(dir.path / "1" / "output.txt"), "oh no"));
  CHECK(holds(content_of(dir.path / "0" / "output.txt"), "--resume"));

  runs[1].arguments.pop_back();
  const auto first = fs::last_write_time(dir.path / "0" / "output.txt");
  std::ostringstream again;
  run_all(runs, 2, {out, again});
  CHECK(holds(again.str(), "2 runs, 2 at a time; 1 done before"));
  CHECK(holds(again.str(), "run 3/3"));
  CHECK(fs::last_write_time(dir.path / "0" / "output.txt") == first);
  CHECK_ERROR(run_all(runs, 0, {out, err}), "--parallel: expected at least 1, got 0");

  const ScopedVariable nothing("SMOOSEG_PROGRAM", (dir.path / "nothing").string());
  fs::remove(runs[0].result);
  CHECK_ERROR(run_all(runs, 1, {out, err}), "the program cannot be started");

  CHECK(arguments_of({"", "", {"evaluate", "--threads=3"}, ""}, 2) == Words{"evaluate", "--threads=3"});
  CHECK(arguments_of({"", "", {"train", "--overwrite", "--threads", "3"}, ""}, 2).size() == 4);
}

TEST_CASE("a sweep", "[experiments]") {
  const TempDir dir;
  const ScopedVariable program("SMOOSEG_PROGRAM", kProgram);
  const std::string out = (dir.path / "sweep").string();
  const std::string config = write_content(
      dir.path / "sweep.toml",
      "[sweep]\nvary = 'temperature=0.3,0.1 dropout=0.1'\nseeds = '0,1'\nparallel = 2\n"
      "[train]\nresolution = 64\ntextons = 8\nbatch = 4\nembed-dim = 8\niterations = 4\n[evaluate]\nresolution = 64\n");
  check_fails({"sweep", "--config", config, "--data", "/nonexistent", "--out", out},
              "/nonexistent: expected a folder of pictures, found nothing");
  // What failed at once does not bind the next attempt.
  const Words command{"sweep", "--config", config, "--data", scenes().string(), "--out", out, "--device", "cpu"};
  const Words one = command + Words{"--vary", "dropout=0", "--seeds", "0"};
  const Outcome first = check_runs(one);
  INFO(first.out + first.err);
  CHECK(holds(first.out, "temperature  accuracy %  mIoU %  seeds"));
  const auto results = nlohmann::json::parse(content_of(fs::path(out) / "sweep.json"));
  REQUIRE(results.size() == 2);
  CHECK(results[0]["settings"] == nlohmann::json{{"dropout", 0.0}, {"temperature", 0.3}});
  CHECK(results[0]["seed"] == 0);
  const fs::path run = fs::path(out) / "runs" / "temperature=0.3,dropout=0.0,seed=0";
  const auto scores = nlohmann::json::parse(content_of(run / "evaluation" / "scores.json"));
  CHECK(results[0]["accuracy"] == scores["accuracy"]);
  CHECK(results[0]["miou"] == scores["miou"]);
  CHECK(settings_of(run / "best.safetensors").at("temperature") == "0.3");
  CHECK(settings_of(run / "best.safetensors").at("embed-dim") == "8");
  CHECK(holds(content_of(fs::path(out) / "sweep.csv"), "dropout,temperature,seed,accuracy,miou\n0.0,0.3,0,"));
  CHECK(holds(content_of(fs::path(out) / "sweep.svg"), ">temperature</text>"));
  CHECK(file_count(fs::path(out) / "features") > 0);

  // Again nothing is left to do.
  CHECK(check_runs(one).err.empty());
  check_fails(one + Words{"--", "--batch", "5"}, "--out: " + out + " holds runs with other options of train");

  const std::string page = (dir.path / "page.html").string();
  check_runs({"report", out, "-o", page});
  CHECK(holds(content_of(page), "<h3>Settings swept over: sweep</h3>"));
  CHECK(holds(content_of(page), "<svg "));
}

TEST_CASE("sweeps that are refused", "[experiments][bad input]") {
  const TempDir dir;
  const auto refused = [&](const Words& more, const std::string& error) {
    check_fails(Words{"sweep", "--data", scenes().string(), "--out", (dir.path / "out").string()} + more, error);
  };
  refused({"--vary", "temprature=1"}, "--vary: expected a setting of train, got 'temprature'; there are ");
  refused({"--vary", "temperature=hot"}, "--vary: --temperature");
  refused({"--vary", "temperature=0.1,0.10"}, "--vary: temperature has the value 0.1 twice");
  refused({"--vary", "temperature"}, "--vary: expected NAME=VALUE,..., got 'temperature'");
  refused({"--vary", "seed=1"}, "--vary: the seeds are those of --seeds");
  refused({"--seeds", "0,x"}, "--seeds: expected a whole number of at least 0, got 'x'");
  refused({"--seeds", "1,1"}, "--seeds: expected different ones, got 1,1");
  CHECK_FALSE(fs::exists(dir.path / "out"));
}

TEST_CASE("results of a sweep", "[experiments]") {
  std::vector<SweepResult> results;
  for (const char* temperature : {"0.2", "0.1"}) {
    for (const uint64_t seed : {0, 1}) {
      results.push_back({{{"temperature", temperature}}, seed, seed == 0 ? 0.5 : 0.7, 0.25});
    }
  }
  const auto back = sweep_results_from(to_json(results), "test");
  REQUIRE(back.size() == 4);
  CHECK(back[2].settings == results[2].settings);
  CHECK(back[3].accuracy == results[3].accuracy);
  CHECK_ERROR(sweep_results_from({{{"seed", 1}}}, "FILE"), "FILE: expected the sweep.json of smooseg sweep");
  REQUIRE(rows_of(results).size() == 2);
  const Moments moments = moments_of(rows_of(results).front().accuracies);
  CHECK(std::abs(moments.mean - 0.6) < 1e-12);
  CHECK(std::abs(moments.deviation - std::sqrt(0.02)) < 1e-12);

  std::ostringstream table;
  print_sweep(table, results);
  CHECK(holds(table.str(), "        0.2  60.0 ± 14.1  25.0 ± 0.0      2\n"));
  const std::string lines = sweep_svg(results);
  CHECK(lines.find(">0.1</text>") < lines.find(">0.2</text>"));  // numbers stand in their order
  results.push_back({{{"temperature", "0.3"}}, 0, 0.1, 0.1});
  for (auto& result : results) result.settings["momentum"] = result.settings["temperature"] == "0.3" ? "0.9" : "0.99";
  CHECK(holds(sweep_svg(results), "class=\"heat\""));
  results.resize(1);
  CHECK(sweep_svg(results).empty());
}

TEST_CASE("plots as SVG", "[experiments]") {
  svg::Histogram histogram{"a & <b>", "x", "y", {{"within", {0.5, 0.25, 0.25}}}};
  CHECK(holds(svg::figure({histogram}), ">a &amp; &lt;b&gt;</text>"));
  svg::LinePlot lines{"title", "x", "y", {"one", "two"}, {{"line", {1, 2}, {0, 0}}}};
  CHECK(holds(svg::figure({lines, histogram}), "prefers-color-scheme:dark"));
  lines.lines[0].means.pop_back();
  CHECK_ERROR(svg::figure({lines}), "expected a mean and a deviation for each of 2 columns, got 1 and 2");
  CHECK_ERROR(svg::figure({svg::HeatMap{"", "", "", {"a"}, {"b"}, {}}}), "expected 1 rows of 1 values");
  CHECK_ERROR(svg::figure({svg::ScatterPlot{}}), "expected at least one point");
  CHECK_ERROR(svg::figure({}), "expected plots and columns, got none");
}

TEST_CASE("t-SNE's neighbourhoods have the perplexity that was asked for", "[experiments]") {
  torch::manual_seed(3);
  const Tensor points = torch::randn({60, 5}) * torch::linspace(0.1, 10, 60).unsqueeze(1);
  for (const double perplexity : {2.0, 12.0, 40.0}) {
    const Tensor p = neighbour_probabilities(points, perplexity, 2).to(torch::kFloat64);
    CHECK((p.sum(1) - 1).abs().max().item<double>() < 1e-5);
    CHECK(p.diagonal().abs().max().item<double>() == 0);
    const Tensor entropy = -torch::xlogy(p, p).sum(1);
    CHECK((entropy.exp() / perplexity - 1).abs().max().item<double>() < 1e-3);
  }
}

TEST_CASE("figures of runs", "[experiments]") {
  const TempDir dir;
  const std::string& run = scored_model();
  const auto file = [&](const std::string& name) { return (dir.path / name).string(); };
  const auto draw = [&](const Words& words) { return check_runs(Words{"plot"} + words + Words{"--pictures", "2"}); };

  const Outcome penalty = draw({"penalty", run, "-o", file("p.svg"), "--bins", "10"});
  CHECK(holds(penalty.out, "run: The label penalty at step 30: "));
  CHECK(holds(content_of(file("p.svg")), ">across pictures</text>"));

  const Outcome both = draw({"panels", run, run, "-o", file("p.png")});
  CHECK(holds(both.out, "columns: picture | label | "));
  CHECK(holds(both.out, "/run (2)\n"));
  const Tensor panels = read_image(file("p.png"));
  CHECK(panels.size(0) == 2 * (64 + 4));
  CHECK(panels.size(1) == 4 * 64 + 3 * 4);
  // Both runs are the same model.
  CHECK(panels.slice(1, 136, 200).equal(panels.slice(1, 204, 268)));
  draw({"panels", run, "-o", file("panels.svg")});
  CHECK(holds(content_of(file("panels.svg")), "data:image/png;base64,"));

  const Outcome embedding = draw({"embedding", run, "-o", file("e.svg"), "--patches", "40"});
  CHECK(holds(embedding.err, "step 1000/1000"));
  const std::string map = content_of(file("e.svg"));
  CHECK(holds(map, "run: learnt embedding"));
  draw({"embedding", run, "-o", file("again.svg"), "--patches", "40"});
  CHECK(content_of(file("again.svg")) == map);

  // Without labels the colours are clusters.
  const std::string folder = model_file().parent_path().string();
  draw(
      {"panels", folder, "--data", (scenes() / "images" / "test").string(), "-o", file("u.svg"), "--resolution", "64"});
  CHECK(holds(content_of(file("u.svg")), ">cluster "));
}

TEST_CASE("figures that cannot be drawn", "[experiments][bad input]") {
  const TempDir dir;
  check_fails({"plot", "histogram", scored_model()}, "kind", 2);
  check_fails({"plot", "penalty", scored_model(), "-o", "a.png"}, "--out: expected a file ending in .svg, got a.png");
  check_fails({"plot", "panels", scored_model(), "-o", "a.jpg"}, "--out: expected a file ending in .svg or .png");
  const std::string unscored = unscored_model(dir);
  check_fails({"plot", "panels", unscored}, "no pictures to plot: ");
  write_content(dir.path / "log.jsonl", "{\"step\":1}\n");
  check_fails({"plot", "penalty", scored_model(), dir.path.string(), "-o", (dir.path / "a.svg").string()},
              "expected a run with a model");
  check_fails({"plot", "panels", scored_model(), unscored, "-o", (dir.path / "a.png").string()},
              "expected the run's scores, which say what class each cluster is");
}
