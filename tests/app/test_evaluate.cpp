// `smooseg evaluate` and `smooseg segment`: scores and pictures, with and without the dense CRF.

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "data/image_file.hpp"
#include "data/tiff_writer.hpp"
#include "data/transforms.hpp"
#include "model/labels.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "smooseg/version.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

TEST_CASE("scores, panels and pictures of any size", "[evaluate][segment]") {
  const TempDir dir;
  const std::string model = model_file().string();
  const fs::path scored = dir.path / "scores";
  const Outcome o = check_runs({"evaluate", "--model", model, "--data", scenes().string(), "--out", scored.string(),
                                "--resolution", "64", "--kmeans", "--flip", "--panels", "2"});
  const auto scores = nlohmann::json::parse(content_of(scored / "scores.json"));
  CHECK(scores.at("images") == 3);
  for (const auto& s : {scores, scores.at("kmeans")}) {
    CHECK(s.at("accuracy").get<double>() > 0);
    CHECK(s.at("accuracy").get<double>() <= 1);
    CHECK(s.at("iou").size() == static_cast<std::size_t>(scene_classes().size()));
    CHECK(s.at("class_of_cluster").size() == static_cast<std::size_t>(scene_classes().size()));
  }
  for (const char* word : {"SmooSeg", "k-means", "mIoU", "accuracy"}) CHECK(o.out.find(word) != std::string::npos);
  CHECK(file_count(scored / "panels") == 2);
  CHECK(read_image(first_file(scored / "panels")).sizes() == torch::IntArrayRef{64, 3 * 64 + 2 * 4, 3});

  write_png(dir.path / "odd.png", torch::randint(256, {37, 101, 3}, torch::kUInt8));
  const fs::path drawn = dir.path / "drawn";
  check_runs({"segment", "--model", model, (dir.path / "odd.png").string(), (scenes() / "images" / "test").string(),
              "--out", drawn.string(), "--scores", (scored / "scores.json").string()});
  CHECK(file_count(drawn) == 3 * 4);

  // A folder of outputs among the pictures is left out; as the folder of the pictures it is refused.
  const fs::path mixed = dir.path / "mixed";
  fs::copy(scenes() / "images" / "test", mixed);
  for (int i = 0; i < 2; ++i) {
    check_runs({"segment", "--model", model, mixed.string(), "--out", (mixed / "labels").string()});
    CHECK(file_count(mixed / "labels") == 3 * 3);
  }
  check_fails({"segment", "--model", model, mixed.string(), "--out", mixed.string() + "/."},
              "is a folder of pictures to label");

  const Tensor index = read_label(drawn / "odd_index.png");
  CHECK(index.sizes() == torch::IntArrayRef{37, 101});
  CHECK(((index < scene_classes().size()) | (index == 255)).all().item<bool>());
  const Tensor color = read_image(drawn / "odd_color.png");
  CHECK(read_image(drawn / "odd_overlay.png").sizes() == color.sizes());
  const auto expected = scene_classes().colors.at(static_cast<std::size_t>(index[5][7].item<int64_t>()));
  for (int64_t c = 0; c < 3; ++c) CHECK(color[5][7][c].item<uint8_t>() == expected.at(static_cast<std::size_t>(c)));
}

TEST_CASE("the protocol of scoring is chosen and written down", "[evaluate]") {
  const TempDir dir;
  // More clusters than the data set has classes.
  check_runs(train_arguments(dir.path / "model") + Words{"--classes", "12"});
  const auto scores = [&](const Words& more) {
    check_runs(Words{"evaluate", "--model", (dir.path / "model/best.safetensors").string(), "--data", scenes().string(),
                     "--out", (dir.path / "scores").string(), "--resolution", "64", "--panels", "0", "--kmeans",
                     "--threads", "2"} +
               more);
    return nlohmann::json::parse(content_of(dir.path / "scores" / "scores.json"));
  };
  const auto published = scores({});
  const std::map<std::string, nlohmann::json> expected{
      {"split", "test"},       {"images", 3},  {"resolution", 64},        {"crop", "center square"},
      {"flip", false},         {"crf", false}, {"matching", "hungarian"}, {"absent_classes", "skip"},
      {"clusters", 12},        {"classes", 8}, {"data_set", ""},          {"smooseg", SMOOSEG_VERSION},
      {"precision", "float32"}};
  for (const auto& [key, value] : expected) {
    INFO(key);
    CHECK(published.at(key) == value);
  }
  const auto without_class = [](const nlohmann::json& json) {
    const auto classes = json.at("class_of_cluster").get<std::vector<int64_t>>();
    return std::count(classes.begin(), classes.end(), -1);
  };
  CHECK(without_class(published) == 4);
  const auto majority = scores({"--matching", "majority"});
  CHECK(majority.at("matching") == "majority");
  CHECK(majority.at("accuracy").get<double>() >= published.at("accuracy").get<double>());
  CHECK(majority.at("kmeans").at("accuracy").get<double>() >= published.at("kmeans").at("accuracy").get<double>());
  CHECK(majority.at("class_of_cluster") != published.at("class_of_cluster"));

  // With a ninth class that no label has, which a cluster gets all the same where it counts.
  const fs::path data = copy_of_scenes(dir.path);
  auto json = nlohmann::json::parse(content_of(data / "classes.json"));
  json["classes"].push_back("nothing");
  json["colors"].push_back({1, 2, 3});
  write_content(data / "classes.json", json.dump());
  const Words ninth{"--data", data.string(), "--matching", "majority", "--absent-classes"};
  const double skip = scores(ninth + Words{"skip"}).at("miou"), zero = scores(ninth + Words{"zero"}).at("miou");
  CHECK(zero < skip);
  CHECK(scores(ninth + Words{"skip-unlabelled"}).at("absent_classes") == "skip-unlabelled");
  check_fails(Words{"evaluate", "--model", model_file().string()} + ninth + Words{"never"}, "--absent-classes", 2);
  check_fails({"evaluate", "--model", model_file().string(), "--data", scenes().string(), "--matching", "best"},
              "--matching", 2);
}

TEST_CASE("the dense CRF in evaluate and segment", "[evaluate][crf]") {
  const TempDir dir;
  const std::string model = model_file().string();
  const auto evaluate = [&](const std::string& out, const std::vector<std::string>& more) {
    check_runs(Words{"evaluate", "--model", model, "--data", scenes().string(), "--out", (dir.path / out).string(),
                     "--resolution", "64", "--panels", "1"} +
               more);
    return nlohmann::json::parse(content_of(dir.path / out / "scores.json"));
  };
  const auto plain = evaluate("plain", {}), with = evaluate("with", {"--crf", "--threads", "2"});
  CHECK(plain.at("crf") == false);
  CHECK(with.at("crf").at("crf-bilateral-sxy") == 67);
  CHECK(with.at("iou") != plain.at("iou"));
  const auto panel = [&](const char* out) { return read_image(first_file(dir.path / out / "panels")); };
  CHECK_FALSE(panel("with").equal(panel("plain")));
  // Each option is read: another value, other scores. No iteration and no kernel are no CRF.
  const auto iou = [&](const std::vector<std::string>& more) {
    return evaluate("more", Words{"--crf"} + more).at("iou");
  };
  CHECK(iou({"--threads", "1"}) == with.at("iou"));
  CHECK(iou({"--crf-iterations", "0"}) == plain.at("iou"));
  CHECK(iou({"--crf-gaussian-weight", "0", "--crf-bilateral-weight", "0"}) == plain.at("iou"));
  for (const auto& [option, value] : std::map<std::string, std::string>{{"--crf-scale", "20"},
                                                                        {"--crf-iterations", "1"},
                                                                        {"--crf-gaussian-sxy", "3"},
                                                                        {"--crf-gaussian-weight", "0.1"},
                                                                        {"--crf-bilateral-sxy", "5"},
                                                                        {"--crf-bilateral-srgb", "30"},
                                                                        {"--crf-bilateral-weight", "0.1"},
                                                                        {"--crf-normalization", "none"},
                                                                        {"--crf-tile", "40"}}) {
    INFO(option);
    auto arguments = Words{option, value};
    if (option == "--crf-tile") arguments = arguments + Words{"--crf-overlap", "4"};
    CHECK(iou(arguments) != with.at("iou"));
  }
  CHECK(iou({"--crf-tile", "40", "--crf-overlap", "4"}) != iou({"--crf-tile", "40", "--crf-overlap", "19"}));

  write_content(dir.path / "crf.toml", "[evaluate]\ncrf = true\ncrf-iterations = 3\n[segment]\ncrf = true\n");
  const auto from_file = evaluate("file", {"--config", (dir.path / "crf.toml").string()});
  CHECK(from_file.at("crf").at("crf-iterations") == 3);
  CHECK(from_file.at("crf").size() == 10);

  // Pictures of several sizes, at a time and one by one.
  write_png(dir.path / "odd.png", torch::randint(256, {37, 101, 3}, torch::kUInt8));
  const auto segment = [&](const std::string& out, const std::vector<std::string>& more) {
    check_runs(Words{"segment", "--model", model, (dir.path / "odd.png").string(),
                     (scenes() / "images" / "test").string(), "--out", (dir.path / out).string()} +
               more);
    CHECK(file_count(dir.path / out) == 3 * 4);
    std::string all;
    for (const char* name : {"odd", "0000", "0002"})
      all += content_of(dir.path / out / (name + std::string("_index.png")));
    return all;
  };
  const std::string one = segment("one", {"--crf", "--threads", "1"});
  CHECK(segment("three", {"--crf", "--threads", "3"}) == one);
  CHECK(segment("config", {"--config", (dir.path / "crf.toml").string()}) == one);
  CHECK(segment("none", {}) != one);
  CHECK(read_label(dir.path / "one" / "odd_index.png").sizes() == torch::IntArrayRef{37, 101});

  const auto refused = [&](const std::vector<std::string>& more, const std::string& error, int status) {
    check_fails(Words{"evaluate", "--model", model, "--data", scenes().string(), "--out",
                      (dir.path / "refused").string(), "--crf"} +
                    more,
                error, status);
    check_fails(Words{"segment", "--model", model, (dir.path / "odd.png").string(), "--out",
                      (dir.path / "refused").string(), "--crf"} +
                    more,
                error, status);
  };
  refused({"--crf-bilateral-sxy", "0"}, "--crf-bilateral-sxy", 2);
  refused({"--crf-iterations", "-1"}, "--crf-iterations", 2);
  refused({"--crf-normalization", "all"}, "--crf-normalization", 2);
  refused({"--crf-tile", "100", "--crf-overlap", "50"},
          "expected a tile of more than twice the overlap, got 100 and 50", 1);
}

TEST_CASE("large pictures and GeoTIFFs are segmented in windows, as the whole is", "[segment]") {
  if (!reads_tiff()) return;
  const TempDir dir;
  const std::string model = model_file().string();
  const Tensor scene = read_image(first_file(scenes() / "images" / "test"));  // 64 x 80
  const Tensor picture = scene.repeat({5, 4, 1}).slice(0, 0, 301).slice(1, 0, 290).contiguous();
  write_png(dir.path / "a.png", picture);
  GeoReference reference;
  reference.pixel_scale = {0.5, 0.5, 0};
  reference.tie_points = {0, 0, 0, 368000.5, 5807000.25, 0};
  reference.keys = {1, 1, 0, 1, 3072, 0, 1, 32633};
  fs::create_directory(dir.path / "geo");
  {
    TiffWriter writer(dir.path / "geo" / "a.tif", {301, 290, 3, {}, reference});
    writer.write(picture);
    writer.finish();
  }
  for (const Words& more :
       {Words{}, Words{"--resolution", "200", "--flip"}, Words{"--crf", "--crf-tile", "150", "--crf-overlap", "30"}}) {
    const auto segment = [&](const fs::path& image, const char* out, const Words& other) {
      check_runs(Words{"segment", "--model", model, image.string(), "--out", (dir.path / out).string(), "--resolution",
                       "0", "--tile", "128", "--threads", "2"} +
                 more + other);
    };
    segment(dir.path / "a.png", "whole", {});
    segment(dir.path / "a.png", "windows", {"--window-pixels", "1000"});
    segment(dir.path / "geo" / "a.tif", "geo_out", {});
    const auto whole = [&](const char* kind) { return dir.path / "whole" / (std::string("a_") + kind + ".png"); };
    const Tensor index = read_label(whole("index"));
    CHECK(index.min().item<int64_t>() < index.max().item<int64_t>());
    for (const char* out : {"windows", "geo_out"}) {
      INFO(out);
      const auto path = [&](const char* kind) { return dir.path / out / (std::string("a_") + kind + ".tif"); };
      CHECK(file_count(dir.path / out) == 3);
      CHECK(read_label(path("index")).eq(index).to(torch::kFloat64).mean().item<double>() > 0.999);
      for (const char* kind : {"color", "overlay"}) {
        const Tensor found = read_image(path(kind)), expected = read_image(whole(kind));
        CHECK(found.eq(expected).to(torch::kFloat64).mean().item<double>() > 0.998);
        CHECK(read_georeference(path(kind)).keys == (out[0] == 'g' ? reference.keys : std::vector<uint16_t>{}));
      }
      CHECK(read_georeference(path("index")).tie_points ==
            (out[0] == 'g' ? reference.tie_points : std::vector<double>{}));
    }
  }
}

TEST_CASE("crops scored in windows count as those that are held", "[evaluate]") {
  auto loaded = load_model(model_file(), torch::kCPU, smooseg::SegmenterOptions().tile(128));
  const Dataset dataset = open_dataset(scenes(), "test");
  for (const bool crf : {false, true}) {
    ScoreOptions options;
    options.resolution = 150;
    options.crf.use = crf;
    const auto whole = score(*loaded.model.segmenter, dataset, torch::kCPU, options).counts();
    CHECK_FALSE(in_windows(options));
    options.window_pixels = 1000;
    CHECK(in_windows(options));
    std::vector<PictureCounts> each;
    const auto windows = score(*loaded.model.segmenter, dataset, torch::kCPU, options, &each).counts();
    CHECK(each.size() == 3);
    CHECK(windows.sum() == 3 * 150 * 150);
    CHECK((windows - whole).cwiseAbs().sum() < 3 * 150 * 150 / 500);
  }
}

TEST_CASE("the CRF of a large picture, a row of tiles at a time, has the labels of the whole", "[segment][crf]") {
  auto loaded = load_model(model_file(), torch::kCPU);
  auto& segmenter = *loaded.model.segmenter;
  const Tensor picture = read_image(first_file(scenes() / "images" / "test"));
  const Tensor image = normalize(picture, normalization_of(*segmenter.backbone)).unsqueeze(0);
  CrfSettings settings;
  settings.use = true;
  settings.options.tile(40).overlap(8);
  const Tensor whole = crf_labels(settings, 2, picture, crf_energies(segmenter, settings, image, 64, 80)[0]);
  CHECK(whole.min().item<int64_t>() < whole.max().item<int64_t>());
  const Tensor tiled = crf_labels_of(segmenter, settings, 2, image, picture);
  CHECK(tiled.eq(whole.to(torch::kUInt8)).to(torch::kFloat64).mean().item<double>() > 0.999);
}

TEST_CASE("bad models and pictures to segment", "[evaluate][bad input]") {
  const TempDir dir;
  const std::string picture = first_file(scenes() / "images" / "test").string();
  const auto segment = [&](const fs::path& model, const std::string& image, const std::string& error) {
    check_fails({"segment", "--model", model.string(), image, "--out", (dir.path / "out").string()}, error);
  };
  segment(dir.path / "none.safetensors", picture, "none.safetensors: ");
  segment(data_path("loss_small.safetensors"), picture, "not a model of smooseg: its metadata has no 'format'");
  const fs::path cut = dir.path / "cut.safetensors";
  fs::copy(model_file(), cut);
  fs::resize_file(cut, fs::file_size(cut) / 2);
  segment(cut, picture, "cut.safetensors: ");

  // A byte that was changed on the way.
  const fs::path flipped = dir.path / "flipped.safetensors";
  std::string bytes = content_of(model_file());
  bytes[bytes.size() - 5] ^= 4;
  write_content(flipped, bytes);
  segment(flipped, picture, "flipped.safetensors: damaged: its tensors are not those that were saved");
  segment(data_path("dino_vit_p8.pth"), picture, "; expected a model of smooseg train");

  write_png(dir.path / "tiny.png", torch::zeros({5, 60, 3}, torch::kUInt8));
  segment(model_file(), (dir.path / "tiny.png").string(),
          "tiny.png: expected a picture of at least 8 x 8 pixels, found 60 x 5");
  segment(model_file(), (dir.path / "gone.png").string(), "gone.png");

  fs::create_directories(dir.path / "other");
  fs::copy(picture, dir.path / "other" / fs::path(picture).filename());
  check_fails({"segment", "--model", model_file().string(), picture, (dir.path / "other").string(), "--out",
               (dir.path / "out").string()},
              "'; rename one, or label them in two runs with folders of their own");
  write_content(dir.path / "scores.json", R"({"class_of_cluster": [0, 1], "class_colors": [[0,0,0],[1,1,1]]})");
  check_fails({"segment", "--model", model_file().string(), picture, "--out", (dir.path / "out").string(), "--scores",
               (dir.path / "scores.json").string()},
              "scores.json: expected scores of the model's ");
}

TEST_CASE("bad data", "[evaluate][bad input]") {
  const TempDir dir;
  const fs::path out = dir.path / "out";
  fs::create_directories(dir.path / "empty");
  check_fails(train_arguments(out, dir.path / "empty"), "empty: expected pictures (.jpg, .jpeg, .png, .bmp");
  check_fails(train_arguments(out, dir.path / "missing"), "missing: expected a folder of pictures, found nothing");

  const fs::path pictures = scenes() / "images" / "train";
  check_fails(train_arguments(out, pictures), "has no classes.json that tells the number of classes: say --classes K");
  check_fails({"evaluate", "--model", model_file().string(), "--data", pictures.string(), "--out", out.string()},
              "has no labels for the split 'test'");

  const fs::path data = copy_of_scenes(dir.path);
  const fs::path picture = first_file(data / "images" / "train"), test = first_file(data / "images" / "test"),
                 label = first_file(data / "labels" / "test");
  const auto evaluate = [&](const std::string& error) {
    check_fails({"evaluate", "--model", model_file().string(), "--data", data.string(), "--out", out.string(),
                 "--resolution", "64"},
                error);
  };
  const std::string good_label = content_of(label);

  SECTION("a picture cut short") {
    write_content(picture, content_of(picture).substr(0, 500));
    check_fails(train_arguments(out, data), picture.filename().string());
  }
  SECTION("a picture of another format") {
    write_content(picture, "GIF89a...");
    check_fails(train_arguments(out, data), picture.filename().string() + ": expected");
  }
  SECTION("picture and label of different sizes") {
    write_palette_png(label, torch::zeros({32, 32}, torch::kInt64), scene_classes().colors);
    evaluate(label.filename().string() + ": expected the size of ");
  }
  SECTION("a label value that is no class") {
    write_png(label, torch::full({64, 80}, 77, torch::kUInt8));
    evaluate("found the value 77");
  }
  SECTION("nothing but ignored labels") {
    write_content(data / "classes.json", R"({"classes": ["one", "other"], "ignore": [7]})");
    for (const auto& entry : fs::directory_iterator(data / "labels" / "test")) {
      write_png(entry.path(), torch::full({64, 80}, 7, torch::kUInt8));
    }
    evaluate(label.string() + ": expected labels of classes in this or another of the 3 label maps");
  }
  SECTION("no label for a picture") {
    fs::remove(label);
    evaluate(label.filename().string() + ": expected the label map of ");
  }
  SECTION("one class") {
    write_content(data / "classes.json", R"({"classes": ["all"]})");
    check_fails(train_arguments(out, data), "classes.json");
  }
  SECTION("one picture") {
    const TempDir single;
    fs::copy(picture, single.path / "one.png");
    check_fails(train_arguments(out, single.path) + Words{"--classes", "3"},
                "expected at least 2 training crops, found 1");
  }
  SECTION("fewer pictures than a batch: all of them are one") {
    const Outcome o = run_program(train_arguments(out, data) + Words{"--batch", "50"});
    CHECK(o.status == 0);
    CHECK(o.err.find("--batch 50 is more than there are crops: 6 it is") != std::string::npos);
  }
}
