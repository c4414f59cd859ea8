// `smooseg report`: what the page says, and what it refuses.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "data/encoded_image.hpp"
#include "data/image_file.hpp"
#include "report/html.hpp"
#include "report/live.hpp"
#include "report/page.hpp"
#include "report/projection.hpp"
#include "report/run_folder.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A run with scores, made once.
const fs::path& scored_run() {
  static const TempDir dir;
  static const fs::path run = [] {
    const fs::path out = dir.path / "run";
    fs::create_directories(out);
    for (const char* file : {"best.safetensors", "log.jsonl"}) fs::copy(model_file().parent_path() / file, out / file);
    check_runs({"evaluate", "--model", (out / "best.safetensors").string(), "--data", scenes().string(), "--resolution",
                "64", "--panels", "0"});
    return out;
  }();
  return run;
}

}  // namespace

TEST_CASE("texts in HTML", "[report]") {
  CHECK(html::escaped("<a href=\"x\">&'") == "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  CHECK(html::escaped("\xff") == "\xEF\xBF\xBD");
  CHECK(html::script_json({{"name", "</script>"}}) == R"({"name":"\u003c/script>"})");
  CHECK(html::data_uri("text/plain", "") == "data:text/plain;base64,");
  CHECK(html::data_uri("a/b", "f") == "data:a/b;base64,Zg==");  // RFC 4648
  CHECK(html::data_uri("a/b", "fo") == "data:a/b;base64,Zm8=");
  CHECK(html::data_uri("a/b", "foobar") == "data:a/b;base64,Zm9vYmFy");
  CHECK(html::data_uri("a/b", "\xff\xfe\xfd") == "data:a/b;base64,//79");
  CHECK(html::percent(0.6573) == "65.7");
}

TEST_CASE("pictures as files in memory", "[report]") {
  const TempDir dir;
  const Tensor ramp = torch::arange(40 * 60).view({40, 60, 1}).div(10, "floor").expand({40, 60, 3}).to(torch::kUInt8);
  write_content(dir.path / "a.jpg", encode_jpeg(ramp, 95));
  const Tensor read = read_image(dir.path / "a.jpg");
  CHECK(read.sizes() == ramp.sizes());
  CHECK((read.to(torch::kInt64) - ramp.to(torch::kInt64)).abs().max().item<int64_t>() < 12);
  CHECK(encode_jpeg(ramp, 30).size() < encode_jpeg(ramp, 95).size());

  const Tensor map = torch::arange(12).view({3, 4}).remainder(3).sub(1);  // -1, 0, 1
  write_content(dir.path / "b.png", encode_palette_png(map, {{10, 20, 30}, {40, 50, 60}}));
  CHECK(read_label(dir.path / "b.png").equal(map + 1));  // entry 0 is what is transparent
  CHECK(read_image(dir.path / "b.png")[0][2].equal(torch::tensor({40, 50, 60}, torch::kUInt8)));
  CHECK_ERROR(encode_palette_png(map, {{1, 2, 3}}), "expected indices below 1, got 1");
  CHECK_ERROR(encode_jpeg(map, 85), "expected a picture of shape (H,W,3), uint8");
}

TEST_CASE("a page of a scored run", "[report]") {
  const TempDir dir;
  const fs::path page = dir.path / "page.html";
  const Outcome o =
      check_runs({"report", scored_run().string(), "-o", page.string(), "--pictures", "2", "--extremes", "1"});
  CHECK(o.out == "report: " + page.string() + "\n");
  const std::string html = content_of(page);
  const auto scores = nlohmann::json::parse(content_of(scored_run() / "evaluation" / "scores.json"));
  CHECK(contains(html, "id=\"accuracy\" data-value=\"" + scores["accuracy"].dump() + "\""));
  CHECK(contains(html, "id=\"miou\" data-value=\"" + scores["miou"].dump() + "\""));
  CHECK(count_of(html, "<article ") == 3);  // all there are: two at random, and the worst of the rest
  CHECK(count_of(html, "data-group=\"worst\"") == 1);
  CHECK(count_of(html, "data:image/jpeg") == 3);
  CHECK(count_of(html, "data-map=\"label\"") == 3);
  CHECK(count_of(html, "data-map=\"run0\"") == 3);
  CHECK(count_of(html, "data-cluster=") == static_cast<std::size_t>(scene_classes().size()));
  for (const std::string& name : scene_classes().names) CHECK(contains(html, "</i>" + name + "</th>"));
  // It needs nothing else.
  for (const char* link : {"src=\"http", "href=\"http", "url(http", "<link rel=\"stylesheet"})
    CHECK_FALSE(contains(html, link));
  CHECK(contains(html, "MIT License"));

  // The accuracies of pictures, weighted by their pixels, are that of all.
  double right = 0, all = 0;
  for (const auto& picture : nlohmann::json::parse(content_of(scored_run() / "evaluation" / "pictures.json"))) {
    right += picture.at("accuracy").get<double>() * picture.at("pixels").get<double>();
    all += picture.at("pixels").get<double>();
  }
  CHECK(right / all == Approx(scores["accuracy"].get<double>()));
  int64_t pixels = 0;
  for (const auto& row : scores["confusion"]) {
    for (const auto& count : row) pixels += count.get<int64_t>();
  }
  CHECK(static_cast<double>(pixels) == all);

  // The seed decides which pictures are taken.
  const auto pictures = [&](const Words& more) {
    check_runs(Words{"report", scored_run().string(), "-o", page.string(), "--pictures", "1", "--extremes", "0"} +
               more);
    const std::string text = content_of(page);
    const std::size_t at = text.find("<h4>");
    return text.substr(at, text.find("</h4>") - at);
  };
  std::set<std::string> names;
  for (const char* seed : {"0", "1", "2", "3", "4", "5"}) names.insert(pictures({"--seed", seed}));
  CHECK(names.size() > 1);
  CHECK(pictures({"--seed", "3"}) == pictures({"--seed", "3"}));
}

TEST_CASE("a page of several runs", "[report]") {
  const TempDir dir;
  const fs::path second = dir.path / "second";
  fs::copy(scored_run(), second, fs::copy_options::recursive);
  auto scores = nlohmann::json::parse(content_of(second / "evaluation" / "scores.json"));
  scores["accuracy"] = 0.25;
  const std::string hostile = "<script>alert(1)</script>";
  write_content(second / "evaluation" / "scores.json", scores.dump());
  write_content(second / "compare.json",
                nlohmann::json{{{"method", hostile}, {"seed", 0}, {"accuracy", 0.5}, {"miou", 0.25}},
                               {{"method", hostile}, {"seed", 1}, {"accuracy", 0.7}, {"miou", 0.75}}}
                    .dump());
  const fs::path page = dir.path / "page.html";
  check_runs({"report", scored_run().string(), second.string(), "-o", page.string(), "--pictures", "1", "--extremes",
              "0", "--title", hostile});
  const std::string html = content_of(page);
  CHECK_FALSE(contains(html, hostile));
  CHECK(contains(html, "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>"));
  CHECK(contains(html, "data-value=\"0.25\">25.0 <small class=\""));       // beside the difference
  CHECK(contains(html, "data-value=\"0.6\">60.0 <small>± 14.1</small>"));  // sqrt(0.02) = 0.1414
  CHECK(contains(html, "mean of seeds 0, 0"));
  CHECK(count_of(html, "data-map=\"run1\"") == 1);
}

TEST_CASE("a page of a run without labels", "[report]") {
  const TempDir dir;
  const std::string run = model_file().parent_path().string(), page = (dir.path / "page.html").string();
  const Outcome o = check_runs({"report", run, "-o", page});
  CHECK(contains(o.err, "--data names a folder of them"));
  CHECK(count_of(content_of(page), "<article ") == 0);
  check_runs({"report", run, "-o", page, "--data", (scenes() / "images" / "train").string(), "--resolution", "64",
              "--pictures", "2"});
  const std::string html = content_of(page);
  CHECK(count_of(html, "<article ") == 2);
  CHECK(count_of(html, "data-map=\"label\"") == 0);
  CHECK(contains(html, "</i>cluster 0 <small>"));
}

TEST_CASE("what the histogram of the penalty looks like", "[report]") {
  const auto text = [](const std::vector<double>& shares) {
    return penalty_text({{"step", 7}, {"penalty_histogram", shares}});
  };
  CHECK(contains(text({0.5, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.4}), ": bimodal"));
  CHECK(contains(text({0.5, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.4}), "at step 7: 50.0 %"));
  CHECK(contains(text({1, 0, 0, 0, 0, 0, 0, 0, 0, 0}), "not bimodal"));
  CHECK(contains(text({0.3, 0, 0, 0.2, 0.2, 0, 0, 0, 0, 0.3}), "not bimodal"));
  CHECK(penalty_text({{"step", 7}}).empty());
}

TEST_CASE("folders that are no runs", "[report][bad input]") {
  const TempDir dir;
  const auto refused = [&](const fs::path& run, const std::string& error, const Words& more = {}) {
    check_fails(Words{"report", run.string(), "-o", (dir.path / "page.html").string()} + more, error);
  };
  refused(dir.path / "none", "none: expected the folder of a run of smooseg train, found nothing of this name");
  refused(dir.path, "found neither model, log.jsonl nor scores.json in it");
  refused(scored_run(), "/nowhere", {"--data", "/nowhere"});
  const fs::path run = dir.path / "run";
  const std::string file = (run / "evaluation" / "scores.json").string();
  write_content(file, "{");
  refused(run, file + ": expected JSON");
  write_content(file, "{}");
  refused(run, file + ": expected the scores.json of smooseg evaluate");
  auto scores = nlohmann::json::parse(content_of(scored_run() / "evaluation" / "scores.json"));
  scores["class_of_cluster"][0] = 99;
  write_content(file, scores.dump());
  refused(run, file + ": damaged");
  CHECK_FALSE(fs::exists(dir.path / "page.html"));
}

TEST_CASE("principal components and t-SNE", "[report]") {
  torch::manual_seed(3);
  // An ellipse in a plane of five dimensions: its axes are the components.
  const Tensor angle = torch::linspace(0, 6.2, 40, torch::kFloat64);
  const Tensor plane = torch::stack({3 * angle.cos(), angle.sin()}, 1),
               turn = std::get<0>(at::linalg_qr(torch::randn({5, 2}, torch::kFloat64)));
  const Tensor found = principal_components(plane.matmul(turn.t()) + 7);
  const Tensor centred = plane - plane.mean(0, true);
  CHECK(relative_error(found.square().sum(1), centred.square().sum(1)) < 1e-9);
  CHECK((found.select(1, 0).var() > 5 * found.select(1, 1).var()).item<bool>());

  // Three heaps far apart stay heaps: each point's nearest neighbour is of its own.
  const Tensor heaps = torch::randn({60, 10}) + 20 * torch::eye(10).slice(0, 0, 3).repeat_interleave(20, 0);
  TsneOptions options;
  const Tensor map = tsne(heaps, options);
  const Tensor distance = torch::cdist(map, map) + 1e9 * torch::eye(60, torch::kFloat64);
  const Tensor own = torch::arange(60).div(20, "floor");
  CHECK(own.index_select(0, distance.argmin(1)).equal(own));
  options.threads = 3;
  CHECK(tsne(heaps, options).equal(map));
  // Points that are the same, and few of them.
  CHECK(tsne(torch::ones({9, 3}), options).isfinite().all().item<bool>());
  CHECK(tsne(torch::ones({1, 3}), options).sizes() == torch::IntArrayRef{1, 2});
  CHECK_ERROR(tsne(torch::full({4, 3}, NAN), options), "tsne: expected points that are finite");
}

TEST_CASE("a training that can be watched", "[report][train]") {
  const TempDir dir;
  const fs::path out = dir.path / "run";
  check_runs(train_arguments(out) + Words{"--log-every", "1", "--report", "--tensorboard"});
  const std::string html = content_of(out / "report.html");
  CHECK(contains(html, "id=\"last\""));
  CHECK(contains(html, "\"refresh\":0"));  // it is over
  CHECK(file_count(out / "tensorboard") == 1);
  const auto line =
      nlohmann::json::parse(content_of(out / "log.jsonl").substr(0, content_of(out / "log.jsonl").find('\n')));
  double sum = 0;
  for (const auto& share : line.at("penalty_histogram")) sum += share.get<double>();
  CHECK(sum == Approx(1).margin(2e-3));
  CHECK(line.at("classes_in_use").get<int64_t>() >= 1);
  CHECK(line.at("predictor_rate") == 5e-4);
  // Being watched changes nothing.
  check_runs(train_arguments(dir.path / "plain"));
  check_same_tensors(dir.path / "plain" / "last.safetensors", out / "last.safetensors");
  // While it goes on, the page loads itself.
  LivePage page(out);
  page.update();
  CHECK(contains(content_of(out / "report.html"), "\"refresh\":5"));
}
