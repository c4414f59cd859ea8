// Transforms, training crops, classes, data sets and scenes of the program.

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "app/picture_files.hpp"
#include "data/bad_files.hpp"
#include "data/classes.hpp"
#include "data/crops.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/scenes.hpp"
#include "data/transforms.hpp"
#include "data/windows.hpp"
#include "support.hpp"
#include "support/seeds.hpp"

namespace {

namespace fs = std::filesystem;
using namespace smooseg::app;
using torch::Tensor;

std::string endings_text() {
  std::string text;
  for (const std::string& ending : picture_endings()) text += (text.empty() ? "" : ", ") + ending;
  return text;
}

}  // namespace

TEST_CASE("transforms agree with torchvision over PIL to the pixel", "[transforms]") {
  const auto g = golden("transforms.safetensors");
  for (const std::string n : {"0.", "1.", "2.", "3."}) {
    INFO("case " << n);
    const Transform square{g.at(n + "res").item<int64_t>(), true};
    const Tensor image = transformed(g.at(n + "image"), square);
    CHECK(image.equal(g.at(n + "image_out")));
    CHECK(transformed(g.at(n + "label"), square).equal(g.at(n + "label_out")));
    CHECK(normalize(image, {}).equal(g.at(n + "normalized")));
    for (int64_t k = 0; k < Transform::kFive; ++k) {
      CHECK(transformed(g.at(n + "image"), {0, false, k}).equal(g.at(n + "five_crop." + std::to_string(k))));
    }
    // From a file.
    const TempDir dir;
    write_png(dir.path / "x.png", g.at(n + "image"));
    const TransformedImage read = read_transformed(dir.path / "x.png", {square, {}, {0, false, 3}});
    CHECK(read.height == g.at(n + "image").size(0));
    CHECK(read.width == g.at(n + "image").size(1));
    CHECK(read.pixels.at(0).equal(g.at(n + "image_out")));
    CHECK(read.pixels.at(1).equal(g.at(n + "image")));
    CHECK(read.pixels.at(2).equal(g.at(n + "five_crop.3")));
  }
}

TEST_CASE("a transform is its three steps one after the other", "[transforms]") {
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{
           {2, 2}, {3, 2}, {2, 9}, {37, 101}, {101, 37}, {64, 64}, {359, 480}, {480, 361}, {225, 224}, {200, 1999}}) {
    const Tensor picture = torch::arange(height * width).view({height, width});
    for (const int64_t side : {1, 7, 64, 224}) {
      INFO(height << " x " << width << " to " << side);
      const auto resized_square = [&](const Tensor& t) {
        return transformed(transformed(t, Transform{side}), Transform{0, true});
      };
      CHECK(transformed(picture, {side, true}).equal(resized_square(picture)));
      for (int64_t k = 0; k < Transform::kFive; ++k) {
        const Tensor crop = transformed(picture, {0, false, k});
        CHECK(transformed(picture, {side, true, k}).equal(resized_square(crop)));
      }
    }
  }
}

TEST_CASE("crops are decoded to the bits of the whole picture's", "[crops]") {
  const uint32_t width = 150, height = 117;
  const auto noisy = [&](size_t channels) {
    Bytes rows(size_t{width} * height * channels);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = static_cast<uint8_t>(128 + (mixed(i) % 64) + 60 * ((i / 700) % 2));
    }
    return rows;
  };
  const auto sampling = [](int h, int v, bool progressive) {
    return [=](j_compress_ptr info) {
      info->comp_info[0].h_samp_factor = h;
      info->comp_info[0].v_samp_factor = v;
      info->restart_in_rows = v;
      if (progressive) jpeg_simple_progression(info);
    };
  };
  const TempDir dir;
  for (const bool progressive : {false, true}) {
    const std::string kind = progressive ? "progressive" : "baseline";
    for (const auto& [h, v] : {std::pair<int, int>{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}}) {
      save(dir.path / (kind + std::to_string(h) + std::to_string(v) + ".jpg"),
           jpeg_bytes(width, height, 3, JCS_RGB, noisy(3), sampling(h, v, progressive)));
    }
  }
  save(dir.path / "cmyk.jpg", jpeg_bytes(width, height, 4, JCS_CMYK, noisy(4)));
  save(dir.path / "grey.jpg", jpeg_bytes(width, height, 1, JCS_GRAYSCALE, noisy(1)));
  for (const bool interlaced : {false, true}) {
    save(dir.path / (interlaced ? "interlaced.png" : "rows.png"),
         png_bytes({width, height, 8, PNG_COLOR_TYPE_RGB, interlaced}, noisy(3)));
  }
  const Dataset dataset = open_dataset(dir.path, "train");
  const auto picture_count = static_cast<int64_t>(dataset.samples.size());
  REQUIRE(picture_count == 14);
  for (const int64_t side : {8, 40, 117, 200}) {
    const Crops center(dataset, side, false), five(dataset, side, true);
    REQUIRE(five.count() == 5 * picture_count);
    for (int64_t i = 0; i < picture_count; ++i) {
      const fs::path path = dataset.samples[static_cast<size_t>(i)].image;
      INFO(path << " to " << side);
      const Tensor whole = read_image(path);
      CHECK(center.images({i}, {})[0].equal(normalize(transformed(whole, {side, true}), {})));
      // All five in one pass through the file, in any order, and one twice.
      const Tensor images = five.images({5 * i + 4, 5 * i, 5 * i + 1, 5 * i + 1, 5 * i + 3, 5 * i + 2}, {});
      int64_t at = 0;
      for (const int64_t crop : {4, 0, 1, 1, 3, 2}) {
        CHECK(images[at++].equal(normalize(transformed(whole, {side, true, crop}), {})));
      }
    }
    CHECK(center.images({3, 1, 1}, {})[2].equal(center.images({1}, {})[0]));
  }
  // What nobody sees is checked all the same.
  Bytes cut = load(dir.path / "baseline22.jpg");
  cut.resize(cut.size() - 20);
  save(dir.path / "baseline22.jpg", cut);
  const Crops corner(dataset, 8, true);
  for (int64_t i = 0; i < picture_count; ++i) {
    const auto error = error_of([&] { corner.images({5 * i}, {}); });
    const bool damaged = dataset.samples[static_cast<size_t>(i)].name == "baseline22";
    CHECK(error.empty() != damaged);
    if (damaged) CHECK(error.find("baseline22.jpg: expected an intact JPEG") != std::string::npos);
  }
}

TEST_CASE("windows of a picture and of a label map are parts of the whole", "[transforms]") {
  const TempDir dir;
  const uint32_t width = 60, height = 50;
  Bytes rows(size_t{width} * height * 3);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint8_t>(mixed(i));
  save(dir.path / "a.png", png_bytes({width, height, 8, PNG_COLOR_TYPE_RGB}, rows));
  save(dir.path / "l.png", png_bytes({width, height, 8}, Bytes(rows.begin(), rows.begin() + width * height)));
  const Tensor picture = read_image(dir.path / "a.png"), label = read_label(dir.path / "l.png");
  for (const Transform& transform : {Transform{}, Transform{20, true}, Transform{77}, Transform{30, true, 3}}) {
    INFO("side " << transform.side);
    const Tensor whole = transformed(picture, transform), classes = transformed(label, transform);
    PictureWindows windows(open_picture(dir.path / "a.png"), transform);
    LabelWindows labels(open_label(dir.path / "l.png"), transform);
    REQUIRE(windows.height() == whole.size(0));
    REQUIRE(windows.width() == whole.size(1));
    const int64_t end = whole.size(0);
    // Overlapping rows of windows, a smaller one within, and rows that nobody asks for.
    for (const auto& [top, count] :
         {std::pair<int64_t, int64_t>{0, 9}, {0, 9}, {5, 9}, {7, 2}, {12, 3}, {17, end - 17}}) {
      CHECK(windows.read(top, 4, count, 11).equal(whole.slice(0, top, top + count).slice(1, 4, 15)));
      CHECK(labels.read(top, 4, count, 11).equal(classes.slice(0, top, top + count).slice(1, 4, 15)));
    }
    CHECK_ERROR(windows.read(16, 0, 1, 1), "Windows: expected a window not above row 17 of ");
    windows.finish();
    labels.finish();
  }
}

TEST_CASE("one bad picture of a thousand is named or left out", "[dataset]") {
  const TempDir dir;
  const Bytes good = png_bytes({16, 16, 8}, Bytes(256, 9));
  for (int i = 0; i < 1000; ++i) save(dir.path / (std::to_string(1000 + i) + ".png"), good);
  save(dir.path / "1617.png", Bytes(good.begin(), good.end() - 20));
  Dataset dataset = open_dataset(dir.path, "train");
  const SampleCheck check = check_of(Crops(dataset, 16, false));
  const auto work = [&] { Crops(dataset, 16, false).images({5, 617}, {}); };
  const std::string error = error_of([&] { naming_all_bad(dataset, check, 2, work); });
  const std::string listed =
      "1 of 1000 pictures cannot be used:\n  " + (dir.path / "1617.png").string() + ": expected an intact PNG";
  CHECK(error.rfind(listed, 0) == 0);
  std::ostringstream err;
  leave_out_bad(dataset, check, 2, err);
  CHECK(dataset.samples.size() == 999);
  CHECK(err.str().rfind(listed, 0) == 0);
}

TEST_CASE("a picture without such crops is named", "[crops]") {
  const TempDir dir;
  save(dir.path / "thin.png", png_bytes({3, 1, 8, PNG_COLOR_TYPE_RGB}, Bytes(9)));
  save(dir.path / "wide.png", png_bytes({90000, 2, 8, PNG_COLOR_TYPE_RGB}, Bytes(540000)));
  const Dataset dataset = open_dataset(dir.path, "train");
  CHECK_ERROR(Crops(dataset, 8, true).images({0}, {}),
              "thin.png: five_crop: expected a picture of at least 2 x 2 pixels, got 1 x 3");
  CHECK_ERROR(Crops(dataset, 224, false).images({1}, {}),
              "wide.png: resize: expected at most 100000000 pixels, got 224 x ");
}

TEST_CASE("transforms by hand", "[transforms]") {
  const Tensor label = torch::arange(12).view({3, 4});
  // Columns 0..3 at (i + 1/2) 4/2 = 1, 3; rows 0..2 at (i + 1/2) 3/2 = 0.75, 2.25.
  CHECK(transformed(label, {2}).equal(torch::tensor({{1, 3}, {9, 11}})));
  CHECK(transformed(label, {6}).sizes() == torch::IntArrayRef({6, 8}));
  CHECK(transformed(label.t(), {2}).sizes() == torch::IntArrayRef({2, 2}));  // 2 * 4 / 3, rounded down
  CHECK(transformed(label, {}).equal(label));
  CHECK(transformed(label, {0, true}).equal(label.narrow(1, 0, 3)));  // left round(0.5) = 0
  const Tensor wide = torch::arange(18).view({3, 6});
  CHECK(transformed(wide, {0, true}).equal(wide.narrow(1, 2, 3)));  // left round(1.5) = 2
  CHECK(transformed(label, {0, false, 3}).equal(torch::tensor({{10, 11}})));
  CHECK(transformed(label, {0, false, 4}).equal(torch::tensor({{5, 6}})));

  const Tensor pixel = torch::tensor({0, 255, 51}, torch::kUInt8).view({1, 1, 3});
  const Tensor expected = torch::tensor({-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225}).view({3, 1, 1});
  CHECK(relative_error(normalize(pixel, {}), expected) < 1e-6);
  const Tensor other = torch::tensor({-0.1 / 0.5, (1 - 0.2) / 0.25, (0.2 - 0.3) / 2}).view({3, 1, 1});
  CHECK(relative_error(normalize(pixel, {{0.1, 0.2, 0.3}, {0.5, 0.25, 2}}), other) < 1e-6);
  const Tensor target = torch::zeros({2, 3, 5, 4});
  CHECK(normalize(pixel.expand({5, 4, 3}), {}, target[1]).data_ptr() == target[1].data_ptr());
  CHECK(relative_error(target[1], expected.expand({3, 5, 4})) < 1e-6);
  CHECK(target[0].eq(0).all().item<bool>());

  CHECK_ERROR(transformed(label.narrow(0, 0, 1), {0, false, 0}),
              "five_crop: expected a picture of at least 2 x 2 pixels, got 1 x 4");
  CHECK_ERROR(transformed(label, {0, false, 5}), "five_crop: expected a crop of 0..4, got 5");
  CHECK_ERROR(transformed(label.narrow(0, 0, 1), {30000}),
              "resize: expected at most 100000000 pixels, got 30000 x 120000");
  CHECK_ERROR(transformed(label, {-1}), "resize: expected a side of 0 to 100000000, got -1");
  CHECK_ERROR(transformed(label.view({1, 3, 4}), {2}),
              "transformed: expected a picture of shape (H,W,3) or (H,W), got (1, 3, 4)");
  CHECK_ERROR(transformed(Tensor(), {}), "transformed: picture is undefined");
  CHECK_ERROR(normalize(label, {}), "normalize: expected pixels of shape (H,W,3), uint8, on the CPU, got (3, 4), Long");
  CHECK_ERROR(normalize(pixel, {}, torch::zeros({1, 3, 1})),
              "normalize: expected a contiguous target of shape [3, 1, 1]");
}

TEST_CASE("classes.json", "[classes]") {
  const std::string text =
      R"({"source": "x", "classes": ["sky", "road"], "colors": [[1,2,3],[4,5,255]], "ignore": [11, -1], "first_id": 7})";
  const ClassTable classes = classes_from_json(text, "classes.json");
  CHECK(classes.names == std::vector<std::string>{"sky", "road"});
  CHECK((classes.colors == std::vector<Color>{{1, 2, 3}, {4, 5, 255}}));
  CHECK(classes.ignore == std::vector<int64_t>{11, -1});
  const ClassTable again = classes_from_json(classes_to_json(classes), "model");
  CHECK(again.names == classes.names);
  CHECK((again.colors == classes.colors));
  CHECK(again.ignore == classes.ignore);

  const ClassTable plain = classes_from_json(R"({"classes": ["a", "b", "c"]})", "f");
  CHECK((plain.colors == default_colors(3)));
  CHECK(plain.ignore.empty());

  const auto error = [](const std::string& json) { return error_of([&] { classes_from_json(json, "c.json"); }); };
  CHECK(error("{\"classes\": [") == "c.json: expected JSON, found an error at byte 14");
  CHECK(error("[1]") == "c.json: expected an object with the key \"classes\", found [1]");
  CHECK(error("{}") == "c.json: expected the key \"classes\", found none");
  CHECK(error(R"({"classes": "a"})") == "c.json: expected \"classes\": a list of at least 2 names, found \"a\"");
  CHECK(error(R"({"classes": ["a", "b", "a"]})") ==
        "c.json: expected \"classes\" of different names, found \"a\" more than once");
  CHECK(error(R"({"classes": ["a", "b"], "ignore": [255, 1]})") ==
        "c.json: expected values in \"ignore\" that are no classes, found 1, which is the class \"b\"");
  CHECK(error(R"({"classes": ["a"]})") == "c.json: expected \"classes\": a list of at least 2 names, found [\"a\"]");
  CHECK(error(R"({"classes": ["a", 1]})") == "c.json: expected \"classes\": a list of at least 2 names, found 1");
  CHECK(error(R"({"classes": ["a", "b"], "colors": [[1,2,3]]})") ==
        "c.json: expected \"colors\" for 2 classes, found 1");
  for (const std::string color : {"[1,2,256]", "[1,2,-1]", "[1,2]", "[1,2,3.5]", "\"red\""}) {
    CHECK(error(R"({"classes": ["a", "b"], "colors": [[1,2,3],)" + color + "]}") ==
          "c.json: expected \"colors\": a list of [r, g, b], whole numbers 0..255 each, found " + color);
  }
  CHECK(error(R"({"classes": ["a", "b"], "ignore": 255})") ==
        "c.json: expected \"ignore\": a list of label values, found 255");

  const TempDir dir;
  CHECK_ERROR(read_classes(dir.path / "classes.json"),
              "classes.json: expected the classes as JSON, found no readable file");
}

TEST_CASE("default classes have names and colours of their own", "[classes]") {
  const ClassTable classes = default_classes(64);
  CHECK(classes.names.front() == "class 0");
  CHECK(classes.names.back() == "class 63");
  CHECK(classes.size() == 64);
  auto colors = classes.colors;
  std::sort(colors.begin(), colors.end());
  CHECK((std::unique(colors.begin(), colors.end()) == colors.end()));
  CHECK((default_colors(30) == std::vector<Color>(classes.colors.begin(), classes.colors.begin() + 30)));
}

TEST_CASE("data sets with the layout images, labels, classes.json", "[dataset]") {
  const TempDir dir;
  const fs::path root = dir.path / "set";
  const Bytes picture = png_bytes({2, 1, 8, PNG_COLOR_TYPE_RGB}, {1, 2, 3, 4, 5, 6});
  save(root / "images/train/b.png", picture);
  save(root / "images/train/a/z.JPG", picture);
  save(root / "images/train/.hidden.png", picture);
  save(root / "images/train/.cache/x.png", picture);
  save(root / "images/train/notes.txt", std::string("x"));
  save(root / "images/test/c.jpeg", picture);
  save(root / "labels/train/b.png", png_bytes({2, 1, 8}, {1, 255}));
  save(root / "labels/train/a/z.png", png_bytes({2, 1, 8}, {0, 2}));
  save(root / "classes.json", std::string(R"({"classes": ["x", "y", "z"], "ignore": [255]})"));

  const Dataset train = open_dataset(root, "train");
  REQUIRE(train.samples.size() == 2);
  CHECK(train.labelled());
  CHECK(train.samples[0].name == "a/z");
  CHECK(train.samples[0].label == root / "labels/train/a/z.png");
  CHECK(train.samples[1].image == root / "images/train/b.png");
  CHECK(train.classes->names.size() == 3);
  const LabelledImage loaded = load_sample(train.samples[1], train.classes);
  CHECK(loaded.pixels.equal(torch::tensor({1, 2, 3, 4, 5, 6}, torch::kUInt8).view({1, 2, 3})));
  CHECK(loaded.label->equal(torch::tensor({{1, -1}})));
  CHECK(load_label(train.samples[0], *train.classes).equal(torch::tensor({{0, 2}})));
  const LabelledImage square = load_sample(train.samples[1], train.classes, {2, true});
  CHECK(square.pixels.sizes() == torch::IntArrayRef({2, 2, 3}));
  CHECK(square.label->equal(torch::tensor({{1, -1}, {1, -1}})));

  const Dataset test = open_dataset(root, "test");  // no labels/test
  CHECK_FALSE(test.labelled());
  CHECK(test.samples.at(0).name == "c");
  CHECK_FALSE(load_sample(test.samples[0], test.classes).label);

  SECTION("a split that is not there") {
    CHECK_ERROR(open_dataset(root, "val"),
                "images/val: expected this folder with the pictures of 'val', found test, train in ");
  }
  SECTION("an empty split") {
    fs::create_directories(root / "images/val");
    CHECK_ERROR(open_dataset(root, "val"), "images/val: expected pictures (" + endings_text() + "), found none");
  }
  SECTION("a split without a name") {
    CHECK_ERROR(open_dataset(root, ""), "set: expected the name of a split, such as train or test, found an empty one");
  }
  SECTION("the folder above it") {
    CHECK_ERROR(open_dataset(dir.path, "train"),
                dir.path.string() + ": expected a data set or a folder of pictures, found a folder with the data set " +
                    root.string() + " in it: name that one");
  }
  SECTION("a picture without label") {
    save(root / "images/train/new.png", picture);
    CHECK_ERROR(open_dataset(root, "train"), "labels/train/new.png: expected the label map of " +
                                                 (root / "images/train/new.png").string() + ", found no file");
  }
  SECTION("labels without classes") {
    fs::remove(root / "classes.json");
    CHECK_ERROR(open_dataset(root, "train"), "classes.json: expected the names of the classes");
    CHECK_FALSE(open_dataset(root, "test").classes);
    CHECK(open_dataset(root, "train", Labels::kNone).samples.size() == 2);
  }
  SECTION("a value that is no class") {
    save(root / "labels/train/b.png", png_bytes({2, 1, 8}, {1, 3}));
    CHECK_ERROR(
        load_sample(train.samples[1], train.classes),
        "labels/train/b.png: expected label values 0..2 for 3 classes, or one to ignore (255), found the value 3");
  }
  SECTION("a label map of another size") {
    save(root / "labels/train/b.png", png_bytes({1, 2, 8}, {1, 1}));
    CHECK_ERROR(
        load_sample(train.samples[1], train.classes),
        "b.png: expected the size of " + (root / "images/train/b.png").string() + ", 2 x 1 pixels, found 1 x 2 pixels");
  }
  SECTION("a label map of colours") {
    save(root / "labels/train/b.png", picture);
    CHECK_ERROR(load_sample(train.samples[1], train.classes), "expected a label map of class indices");
  }
}

TEST_CASE("any folder of pictures is a data set without labels", "[dataset]") {
  const TempDir dir;
  save(dir.path / "set/2/b.png", std::string("not read yet"));
  save(dir.path / "set/10.JPEG", std::string("not read yet"));
  const Dataset data = open_dataset(dir.path / "set", "train");
  REQUIRE(data.samples.size() == 2);
  CHECK(data.samples[0].name == "10");
  CHECK(data.samples[1].name == "2/b");
  CHECK_FALSE(data.labelled());
  CHECK_FALSE(data.classes);
  CHECK(open_dataset(dir.path / "set", "test").samples.size() == 2);

  CHECK_ERROR(open_dataset(dir.path / "none", "train"), "none: expected a folder of pictures, found nothing");
  CHECK_ERROR(open_dataset(dir.path / "set/10.JPEG", "train"), "10.JPEG: expected a folder of pictures, found a file");
  fs::create_directories(dir.path / "empty");
  CHECK_ERROR(open_dataset(dir.path / "empty", "train"),
              "empty: expected pictures (" + endings_text() + "), found none");
}

TEST_CASE("pictures of formats that are not read are counted", "[dataset]") {
  const TempDir dir;
  for (const char* name : {"a.jpg", "b.heic", "c.HEIC", "d.gif", "notes.txt", ".hidden.heic"}) {
    save(dir.path / "set" / name, std::string("not read"));
  }
  const Dataset data = open_dataset(dir.path / "set", "train");
  CHECK(data.samples.size() == 1);
  CHECK((data.skipped == std::map<std::string, int64_t>{{".heic", 2}, {".gif", 1}}));
  CHECK(skipped_line(data) == "3 pictures are left out: 1 .gif, 2 .heic (only " + endings_text() + " are read)\n");
  fs::remove(dir.path / "set/a.jpg");
  CHECK_ERROR(open_dataset(dir.path / "set", "train"),
              "set: expected pictures (" + endings_text() + "), found 1 .gif, 2 .heic");
  fs::create_directories(dir.path / "other");
  save(dir.path / "other/a.png", std::string("not read"));
  CHECK(skipped_line(open_dataset(dir.path / "other", "train")).empty());
}

TEST_CASE("scenes are the same on every platform and labelled to the pixel", "[scenes]") {
  const auto hash = [](const Tensor& bytes) {
    uint64_t value = 0;
    for (int64_t i = 0; i < bytes.numel(); ++i) value = mixed(value ^ bytes.data_ptr<uint8_t>()[i]);
    return value;
  };
  const Scene scene = make_scene(96, 128, 5);
  CHECK(scene.image.sizes() == torch::IntArrayRef({96, 128, 3}));
  CHECK(hash(scene.image) == 2632088337619266563u);
  CHECK(hash(scene.labels) == 14917712443655417816u);
  CHECK_FALSE(make_scene(96, 128, 6).labels.equal(scene.labels));
}

TEST_CASE("in scenes the classes of a family share their colours", "[scenes]") {
  // Mean colour of each class over some scenes: alike within a family, apart between families.
  const ClassTable classes = scene_classes();
  const auto count = static_cast<size_t>(classes.size());
  std::vector<std::array<double, 3>> sum(count, {0, 0, 0});
  std::vector<double> pixels(count, 0);
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Scene scene = make_scene(120, 160, seed);
    const uint8_t *labels = scene.labels.data_ptr<uint8_t>(), *values = scene.image.data_ptr<uint8_t>();
    for (size_t p = 0; p < 120 * 160; ++p) {
      const size_t k = labels[p];
      REQUIRE(k < count);
      pixels[k] += 1;
      for (size_t c = 0; c < 3; ++c) sum[k][c] += values[3 * p + c];
    }
  }
  const auto difference = [&](size_t a, size_t b) {
    double largest = 0;
    for (size_t c = 0; c < 3; ++c) largest = std::max(largest, std::abs(sum[a][c] / pixels[a] - sum[b][c] / pixels[b]));
    return largest;
  };
  for (size_t k = 0; k < count; ++k) CHECK(pixels[k] > 0.02 * 30 * 120 * 160);
  CHECK(difference(0, 1) < 20);
  for (const size_t plant : {3u, 4u}) CHECK(difference(2, plant) < 20);
  for (const size_t stone : {6u, 7u}) CHECK(difference(5, stone) < 20);
  CHECK(difference(0, 2) > 30);
}

TEST_CASE("scenes are written as a data set", "[scenes]") {
  const TempDir dir;
  SceneOptions options;
  options.train = 3;
  options.test = 2;
  options.height = options.width = 64;
  write_scenes(dir.path / "scenes", options);
  const Dataset train = open_dataset(dir.path / "scenes", "train");
  REQUIRE(train.samples.size() == 3);
  CHECK(open_dataset(dir.path / "scenes", "test").samples.size() == 2);
  CHECK(train.classes->names == scene_classes().names);
  const LabelledImage sample = load_sample(train.samples[2], train.classes);
  CHECK(sample.pixels.sizes() == torch::IntArrayRef({64, 64, 3}));
  CHECK(sample.label->min().item<int64_t>() >= 0);

  options.train = 4;  // scene 2 stays what it is
  write_scenes(dir.path / "more", options);
  CHECK(load(dir.path / "more/images/train/0002.png") == load(train.samples[2].image));
  options.seed = 2;
  write_scenes(dir.path / "other", options);
  CHECK(load(dir.path / "other/images/train/0002.png") != load(train.samples[2].image));
}
