// `smooseg compare`, and `train --without`: the paper's tables.

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "model/model.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

Words compare_arguments(const fs::path& out, const Words& more) {
  Words words = train_arguments(out);
  words.front() = "compare";
  return words + Words{"--iterations", "20", "--score-resolution", "64", "--linear-rate", "0.1"} + more;
}

nlohmann::json rows_in(const fs::path& out) {
  return nlohmann::json::parse(content_of(out / "compare.json"));
}

}  // namespace

TEST_CASE("methods are compared on the same features, and what is finished is not done again", "[compare]") {
  const TempDir dir;
  const fs::path out = dir.path / "out";
  const Words first{"--methods", "kmeans,linear", "--seeds", "3"};
  const Outcome o = check_runs(compare_arguments(out, first));
  CHECK(o.out.find("linear") != std::string::npos);
  REQUIRE(rows_in(out).size() == 2);

  // More methods and seeds go into the same folder; the first rows stay as they were.
  const auto before = fs::last_write_time(out / "kmeans-seed3" / "best.safetensors");
  const Words all{"--methods", "kmeans,kmeans+crf,stego,smooseg,smooseg+crf,linear", "--seeds", "3,4"};
  const Outcome more = check_runs(compare_arguments(out, all));
  INFO(more.out);
  const auto rows = rows_in(out);
  REQUIRE(rows.size() == 12);
  CHECK(rows[0].at("method") == "kmeans");
  CHECK(fs::last_write_time(out / "kmeans-seed3" / "best.safetensors") == before);
  double linear = 0;
  for (const auto& row : rows) {
    CHECK((row.at("seed") == 3 || row.at("seed") == 4));
    CHECK(row.at("accuracy").get<double>() > 0);
    CHECK(row.at("miou").get<double>() <= 1);
    CHECK(row.at("images") == 3);
    CHECK(row.at("crf").is_object() == (row.at("method").get<std::string>().find("+crf") != std::string::npos));
    if (row.at("method") == "linear") linear += row.at("accuracy").get<double>();
  }
  CHECK(linear / 2 > 0.3);  // of eight classes
  CHECK(more.out.find("smooseg+crf") != std::string::npos);
  CHECK(more.out.find(" ± ") != std::string::npos);

  // SmooSeg's row is that of `train` and `evaluate`, k-means' that of `evaluate --kmeans`; all features from one cache.
  const fs::path model = out / "smooseg-seed3" / "best.safetensors";
  check_runs({"evaluate", "--model", model.string(), "--data", scenes().string(), "--out", (dir.path / "e").string(),
              "--resolution", "64", "--panels", "0", "--kmeans", "--threads", "2", "--device", "cpu"});
  const auto scores = nlohmann::json::parse(content_of(dir.path / "e" / "scores.json"));
  for (const auto& row : rows) {
    if (row.at("seed") != 3) continue;
    if (row.at("method") == "smooseg") CHECK(row.at("iou") == scores.at("iou"));
    if (row.at("method") == "kmeans") CHECK(row.at("iou") == scores.at("kmeans").at("iou"));
  }
  CHECK(fs::exists(out / "features"));

  // Nothing left to do: the table alone.
  const Outcome again = check_runs(compare_arguments(out, all));
  CHECK(again.out == more.out);
  CHECK(again.err.find("step ") == std::string::npos);
  check_runs({"report", out.string(), "--patches", "0"});
  CHECK(content_of(out / "report.html").find("<th scope=\"row\">smooseg+crf</th>") != std::string::npos);

  check_fails(compare_arguments(out, first + Words{"--stego-rate", "0.5"}),
              "settings.json: cannot go on with other settings: --stego-rate was 0.0005, got 0.5");
  check_fails(compare_arguments(out, first + Words{"--momentum", "0.5"}), "--momentum was 0.998, got 0.5");
  check_fails(compare_arguments(out, first + Words{"--flip"}), "--flip was false, got true");
}

TEST_CASE("what compare refuses", "[compare][bad input]") {
  const TempDir dir;
  const auto refused = [&](const Words& more, const std::string& error, int status = 2) {
    check_fails(compare_arguments(dir.path / "out", more), error, status);
  };
  refused({"--methods", "kmeans,best"}, "each also with +crf, separated by commas, got 'best'");
  refused({"--methods", "kmeans+mrf"}, "got 'kmeans+mrf'");
  refused({"--methods", "stego,stego"}, "'stego' stands twice");
  refused({"--seeds", "1,-1"}, "expected whole numbers, separated by commas, got '-1'");
  const fs::path data = copy_of_scenes(dir.path);
  fs::remove_all(data / "labels" / "train");
  refused({"--data", data.string(), "--methods", "linear"}, "--methods linear learns from labels", 1);
  write_content(dir.path / "out" / "compare.json", "{");
  refused({"--methods", "kmeans"}, "compare.json: no JSON", 1);
  // A section [train] counts as far as it goes.
  for (const auto& entry : fs::directory_iterator(data_path("../../examples/configs"))) {
    INFO(entry.path().string());
    check_fails({"compare", "--config", entry.path().string(), "--data", "/nonexistent", "--out", "/nonexistent"},
                "/nonexistent: expected a folder of pictures, found nothing");
  }
}

TEST_CASE("training without a term", "[train]") {
  const TempDir dir;
  const auto tensors = [&](const std::string& without, const Words& more) {
    const fs::path out = dir.path / without;
    check_runs(train_arguments(out) + Words{"--without", without, "--log-every", "1"} + more);
    CHECK(settings_of(out / "best.safetensors").at("without") == without);
    return smooseg::io::read_tensors((out / "best.safetensors").string());
  };
  const auto log_of = [&](const std::string& without) {
    const std::string log = content_of(dir.path / without / "log.jsonl");
    return nlohmann::json::parse(log.substr(0, log.find('\n')));
  };
  const auto whole = tensors("nothing", {});
  const auto e = log_of("nothing");
  const double within = e.at("within"), across = e.at("across"), data = e.at("data");
  for (const auto& [without, total] : std::map<std::string, double>{
           {"data", within + across}, {"across", within + data}, {"within", across + data}, {"smoothness", data}}) {
    INFO(without);
    const auto learned = tensors(without, {});
    const auto line = log_of(without);
    CHECK(line.at("total").get<double>() == Catch::Approx(total).epsilon(1e-4));
    for (const char* term : {"within", "across", "data"})
      CHECK(line.at(term).get<double>() == Catch::Approx(e.at(term).get<double>()).epsilon(1e-4));
    const auto same = [&](const char* name) { return learned.at(name).equal(whole.at(name)); };
    CHECK_FALSE(same("projector.linear.weight"));
    // One set of prototypes, or a teacher behind its student.
    CHECK(learned.at("predictor.teacher").equal(learned.at("predictor.student")) == (without == "data"));
    CHECK_FALSE(same("predictor.student"));
  }
  // The prototypes that are learned by the smoothness do move.
  const auto still = dir.path / "still";
  check_runs(train_arguments(still) + Words{"--without", "data", "--predictor-rate", "0"});
  CHECK_FALSE(
      smooseg::io::read_tensors((still / "best.safetensors").string())
          .at("predictor.teacher")
          .equal(smooseg::io::read_tensors((dir.path / "data" / "best.safetensors").string()).at("predictor.teacher")));

  // Without the smoothness the projector stays as it was drawn, and a run goes on all the same.
  const fs::path parts = dir.path / "parts";
  const Words smoothness{"--without", "smoothness"};
  check_runs(train_arguments(parts) + smoothness + Words{"--iterations", "2"});
  const Tensor drawn = smooseg::io::read_tensors((parts / "best.safetensors").string()).at("projector.linear.weight");
  check_runs(train_arguments(parts) + smoothness + Words{"--resume"});
  check_same_tensors(parts / "best.safetensors", dir.path / "smoothness" / "best.safetensors");
  CHECK(smooseg::io::read_tensors((parts / "best.safetensors").string()).at("projector.linear.weight").equal(drawn));
  check_fails(train_arguments(parts) + Words{"--resume"}, "settings: --without was smoothness, got nothing");
  check_fails(train_arguments(dir.path / "bad") + Words{"--without", "across,within"}, "--without", 2);
}
