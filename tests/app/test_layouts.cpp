// Published data sets and folders of one's own: class tables, layouts, `smooseg prepare`.

#include <nlohmann/json.hpp>
#include <numeric>

#include "app/dataset_trees.hpp"
#include "app/program.hpp"
#include "data/class_tables.hpp"
#include "data/dataset.hpp"
#include "data/label_map.hpp"
#include "data/potsdam.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

nlohmann::json facts(const std::string& name) {
  return nlohmann::json::parse(content_of(data_path("datasets/" + name)));
}

/// What a table makes of a label map with these values.
std::vector<int64_t> classes_of(const ClassTable& table, const Bytes& values) {
  const TempDir dir;
  save(dir.path / "label.png", png_bytes({static_cast<uint32_t>(values.size()), 1}, values));
  const Tensor classes = read_label_map(dir.path / "label.png", table);
  return {classes.data_ptr<int64_t>(), classes.data_ptr<int64_t>() + classes.numel()};
}

Words prepare(const std::string& name, const fs::path& data, const fs::path& out, const Words& more = {}) {
  return Words{"prepare", name, "--data", data.string(), "--out", out.string(), "--threads", "2"} + more;
}

/// The classes in a sample's label map.
std::set<int64_t> classes_in(const Sample& sample, const Dataset& dataset) {
  const Tensor label = load_label(sample, dataset.classes.value());
  return {label.data_ptr<int64_t>(), label.data_ptr<int64_t>() + label.numel()};
}

}  // namespace

TEST_CASE("COCO-Stuff's 182 labels become the published 27 classes", "[layouts][classes]") {
  const auto json = facts("cocostuff27.json");
  const ClassTable table = cocostuff_classes(0);
  CHECK(table.names == json.at("classes").get<std::vector<std::string>>());
  CHECK((table.colors == json.at("colors").get<std::vector<Color>>()));
  CHECK(table.ignore == json.at("ignore").get<std::vector<int64_t>>());
  Bytes values(182);
  std::iota(values.begin(), values.end(), uint8_t{0});
  auto expected = json.at("fine_to_coarse").get<std::vector<int64_t>>();
  REQUIRE(expected.size() == 182);
  CHECK(classes_of(table, values) == expected);
  CHECK(classes_of(table, {255, 0}) == std::vector<int64_t>{-1, 9});
  CHECK_ERROR(
      classes_of(table, {182, 254, 182}),
      "label.png: expected label values 0..181 for 27 classes, or one to ignore (255), found the values 182 in 2 "
      "pixels, 254 in 1 pixel");
  // In the 10k form labels count from 1.
  const ClassTable of_10k = cocostuff_classes(1);
  std::iota(values.begin(), values.end(), uint8_t{1});
  CHECK(classes_of(of_10k, values) == expected);
  CHECK(classes_of(of_10k, {0}) == std::vector<int64_t>{-1});
  CHECK_ERROR(classes_of(of_10k, {183}), "found the value 183 in 1 pixel");
}

TEST_CASE("Cityscapes' ids 7 to 33 become the published 27 classes", "[layouts][classes]") {
  const auto json = facts("cityscapes27.json");
  const ClassTable table = cityscapes_classes();
  CHECK(table.names == json.at("classes").get<std::vector<std::string>>());
  CHECK((table.colors == json.at("colors").get<std::vector<Color>>()));
  REQUIRE(json.at("first_id") == 7);
  Bytes values(34);
  std::iota(values.begin(), values.end(), uint8_t{0});
  std::vector<int64_t> expected(34, -1);
  std::iota(expected.begin() + 7, expected.end(), 0);
  CHECK(classes_of(table, values) == expected);
  CHECK(classes_of(table, {255}) == std::vector<int64_t>{-1});
  CHECK_ERROR(classes_of(table, {34}),
              "expected label values 7..33 for 27 classes, or one to ignore (0, 1, 2, 3, 4, 5, "
              "6, 255), found the value 34 in 1 pixel");
}

TEST_CASE("Potsdam's six labels and colours become the published three classes", "[layouts][classes]") {
  const auto json = facts("potsdam3.json");
  const ClassTable table = potsdam_classes();
  CHECK(table.names == json.at("classes").get<std::vector<std::string>>());
  CHECK((table.colors == json.at("colors").get<std::vector<Color>>()));
  CHECK(table.ignore == json.at("ignore").get<std::vector<int64_t>>());
  CHECK(classes_of(table, {0, 1, 2, 3, 4, 5}) == json.at("fine_to_coarse").get<std::vector<int64_t>>());
  CHECK(classes_of(table, {255}) == std::vector<int64_t>{-1});
  CHECK_ERROR(classes_of(table, {6}), "found the value 6");

  const ClassTable tiles = potsdam_tile_classes();
  CHECK(tiles.names == json.at("fine_classes").get<std::vector<std::string>>());
  for (std::size_t k = 0; k < tiles.names.size(); ++k) {
    const auto color = json.at("label_tiff_colors").at(tiles.names[k]).get<Color>();
    CHECK((tiles.label_colors[k] == std::vector<Color>{color}));
  }
  CHECK(json.at("counts").at("labelled_train") == PotsdamPieces::kTrain);
  CHECK(json.at("counts").at("labelled_test") == PotsdamPieces::kTest);
  CHECK(json.at("counts").at("unlabelled") == PotsdamPieces::kUnlabelled);
}

TEST_CASE("CamVid's and Pascal VOC's classes", "[layouts][classes]") {
  const ClassTable camvid = camvid_classes();
  CHECK(camvid.names == std::vector<std::string>{"sky", "building", "pole", "road", "pavement", "tree", "sign symbol",
                                                 "fence", "car", "pedestrian", "bicyclist"});
  CHECK((camvid.colors.at(4) == Color{60, 40, 222}));
  CHECK(camvid.colors.size() == 11);
  CHECK(classes_of(camvid, {0, 10, 11}) == std::vector<int64_t>{0, 10, -1});
  const ClassTable voc = voc_classes();
  CHECK(voc.names == std::vector<std::string>{
                         "background", "aeroplane", "bicycle",      "bird",  "boat",         "bottle", "bus",
                         "car",        "cat",       "chair",        "cow",   "dining table", "dog",    "horse",
                         "motorbike",  "person",    "potted plant", "sheep", "sofa",         "train",  "tv/monitor"});
  CHECK((voc.colors.at(15) == Color{192, 128, 128}));
  CHECK((voc.colors.at(20) == Color{0, 64, 128}));
  CHECK(voc.colors.size() == 21);
  CHECK(classes_of(voc, {0, 20, 255}) == std::vector<int64_t>{0, 20, -1});
}

TEST_CASE("published data sets are read where they are", "[layouts][prepare]") {
  struct Expected {
    std::string name, variant;
    void (*write)(const fs::path&);
    std::string scored, first;
    std::size_t train, test;
    int64_t classes;
    std::set<int64_t> present;
  };
  std::vector<Expected> all{
      {"cityscapes", "", trees::cityscapes, "val", "aachen/aachen_000000_000019", 2, 2, 27, {-1, 0, 19, 26}},
      {"cocostuff", "", trees::cocostuff, "val", "000000000030", 1, 1, 27, {-1, 9, 20, 24}},
      {"cocostuff", "full", trees::cocostuff, "val", "000000000009", 2, 2, 27, {-1, 9, 20, 24}},
      {"cocostuff", "all", trees::cocostuff, "val", "000000000009", 3, 3, 27, {-1, 9, 20, 24}},
      {"camvid", "", trees::camvid, "test", "0001TP_006690", 1, 1, 11, {-1, 0, 10}},
      {"voc", "", trees::voc, "val", "2007_000032", 1, 1, 21, {-1, 0, 20}},
      {"ade20k", "", trees::ade20k, "val", "ADE_train_00000001", 1, 1, 150, {-1, 0, 149}}};
  if (reads_mat()) {
    all.push_back(
        {"cocostuff", "10k", trees::cocostuff_10k, "test", "COCO_train2014_000000000077", 1, 1, 27, {-1, 9, 24}});
    all.push_back({"potsdam", "", trees::potsdam_packed, "test", "0", 1, 1, 3, {-1, 0, 1, 2}});
  }
  for (const Expected& e : all) {
    INFO(e.name << " " << e.variant);
    const TempDir dir;
    const fs::path data = dir.path / "data", out = dir.path / "out";
    e.write(data);
    check_fails(train_arguments(dir.path / "model", data), "once and give that folder");
    check_runs(prepare(e.name, data, out, e.variant.empty() ? Words{} : Words{"--variant", e.variant}));
    CHECK(file_count(out) == 2);  // dataset.json and the lock: nothing is copied
    CHECK(scored_split(out) == e.scored);
    const Dataset train = open_dataset(out, "train"), test = open_dataset(out, e.scored);
    REQUIRE(train.samples.size() == e.train);
    REQUIRE(test.samples.size() == e.test);
    CHECK(train.samples.front().name == e.first);
    CHECK(train.classes->size() == e.classes);
    CHECK(classes_in(train.samples.front(), train) == e.present);
    CHECK_FALSE(open_dataset(out, "train", Labels::kNone).labelled());
    CHECK_ERROR(open_dataset(out, "elsewhere"), "expected a split of this data set, train, ");
  }
}

TEST_CASE("a prepared data set is trained on and scored", "[layouts][prepare][evaluate]") {
  const TempDir dir;
  const fs::path data = dir.path / "data", out = dir.path / "out";
  trees::cityscapes(data);
  check_runs(prepare("cityscapes", data, out));
  check_runs(train_arguments(dir.path / "model", out) + Words{"--batch", "2", "--crops", "five", "--iterations", "2"});
  check_runs({"evaluate", "--model", (dir.path / "model/best.safetensors").string(), "--data", out.string(), "--out",
              (dir.path / "scores").string(), "--resolution", "64", "--panels", "0", "--threads", "2"});
  const auto scores = nlohmann::json::parse(content_of(dir.path / "scores/scores.json"));
  CHECK(scores.at("data_set") == "cityscapes");
  CHECK(scores.at("split") == "val");
  CHECK(scores.at("images") == 2);
  CHECK(scores.at("classes") == 27);
  CHECK(scores.at("clusters") == 27);
  CHECK(scores.at("matching") == "hungarian");
  CHECK(scores.at("absent_classes") == "skip");
  CHECK(scores.at("iou").size() == 27);

  // It moves, and the note says where it was.
  fs::rename(data, dir.path / "moved");
  check_fails(train_arguments(dir.path / "again", out), "data: expected the folder of Cityscapes, found nothing");
  write_content(out / "dataset.json", "{}");
  check_fails(train_arguments(dir.path / "again", out), "dataset.json: expected what 'smooseg prepare' writes");
}

TEST_CASE("a data set that is not whole, or another one", "[layouts][prepare][bad input]") {
  const TempDir dir;
  const fs::path data = dir.path / "data", out = dir.path / "out";
  trees::cityscapes(data);
  const fs::path label = data / "gtFine/train/bonn/bonn_000001_000019_gtFine_labelIds.png";
  const auto fails = [&](const std::string& name, const std::string& error, const Words& more = {}) {
    check_fails(prepare(name, data, out, more), error);
    CHECK_FALSE(fs::exists(out / "dataset.json"));
  };
  SECTION("another data set") {
    fails("cocostuff", "data: expected COCO-Stuff (curated) with images/train2017, annotations/train2017, ");
    fails("voc", "found folders gtFine, leftImg8bit; this looks like Cityscapes: smooseg prepare cityscapes");
    fails("cityscapes", "--variant: Cityscapes has none, got 'full'", {"--variant", "full"});
    fails("cocostuff", "--variant: COCO-Stuff has curated, full, all, 10k, got 'half'", {"--variant", "half"});
    check_fails(prepare("cityscapes", dir.path, out), "; they are in " + data.string() + ": name that one");
    check_fails(prepare("voc", dir.path / "nothing", out),
                "nothing: expected the folder of Pascal VOC 2012, found nothing");
  }
  SECTION("a folder is missing") {
    fs::remove_all(data / "gtFine");
    fails("cityscapes",
          "expected Cityscapes with gtFine/train, gtFine/val, found folders leftImg8bit; get it from "
          "www.cityscapes-dataset.com");
  }
  SECTION("label maps are missing") {
    fs::remove(label);
    fails("cityscapes", label.string() + ": expected the label map of ");
    fs::remove(data / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png");
    fails("cityscapes", "(and that of 1 other picture), found no file");
  }
  SECTION("label maps too many") {
    fs::copy(label, data / "gtFine/train/bonn/more_gtFine_labelIds.png");
    const Outcome o = check_runs(prepare("cityscapes", data, out));
    CHECK(o.err.find("1 label map in " + (data / "gtFine/train").string() +
                     " belongs to no picture, such as more_gtFine_labelIds.png; left out") != std::string::npos);
  }
  SECTION("all that is wrong is told, and what is in order is not looked at again") {
    const fs::path picture = data / "leftImg8bit/val/ulm/ulm_000002_000019_leftImg8bit.png";
    const Bytes whole = load(picture);
    save(picture, Bytes(whole.begin(), whole.end() - 20));
    save(label, png_bytes({8, 16}, Bytes(8 * 16, 7)));
    const Outcome o = run_program(prepare("cityscapes", data, out));
    CHECK(o.status == 1);
    CHECK(o.err.find(picture.string() + ": expected an intact PNG") != std::string::npos);
    CHECK(o.err.find("expected the size of " +
                     (data / "leftImg8bit/train/bonn/bonn_000001_000019_leftImg8bit.png").string() +
                     ", 16 x 8 pixels, found 8 x 16 pixels") != std::string::npos);
    CHECK(o.err.find("2 problems in 4 pictures") != std::string::npos);
    CHECK_FALSE(fs::exists(out / "dataset.json"));
    save(picture, whole);
    save(label, small_label({7, 40, 40, 41}));
    const Outcome again = run_program(prepare("cityscapes", data, out));
    CHECK(again.err.find("2 pictures were checked before") != std::string::npos);
    CHECK(again.err.find("found the values 40 in 64 pixels, 41 in 32 pixels") != std::string::npos);
    save(label, small_label({7}));
    CHECK(check_runs(prepare("cityscapes", data, out)).err.find("3 pictures were checked before") != std::string::npos);
    CHECK_FALSE(fs::exists(out / ".checked"));
  }
  SECTION("a folder with pictures of its own as --out") {
    fs::create_directories(out / "images");
    fails("cityscapes", "holds pictures of its own");
  }
}

TEST_CASE("wrong split lists", "[layouts][prepare][bad input]") {
  const TempDir dir;
  const fs::path data = dir.path / "data", out = dir.path / "out";
  trees::voc(data);
  const fs::path train = data / "ImageSets/Segmentation/train.txt";
  const auto fails = [&](const std::string& list, const std::string& error) {
    save(train, list);
    check_fails(prepare("voc", data, out), error);
    CHECK_FALSE(fs::exists(out / "dataset.json"));
  };
  fails("2007_000032\n2008_1\n2008_2\n",
        "train.txt: expected names of pictures in " + (data / "JPEGImages").string() +
            ", found 2 of 3 that are not there, such as '2008_1': the list is of another");
  fails("2007_000032\n\n2007_000032\n", "train.txt: expected each picture once, found '2007_000032' more than once");
  fails(" \n", "train.txt: expected a list of pictures, a name a line, found none");
  fails("../ImageSets\n", "found 1 of 1 that are not there");
  fails("2007_000032\n2007_000039\n",
        "2007_000039.jpg: expected pictures in one split, found this one both in train and in "
        "val: one of the lists is wrong");
  fails("2007_000063\n", "2007_000063.png: expected the label map of ");
  save(train, std::string("2007_000032.jpg\n"));  // with its ending
  check_runs(prepare("voc", data, out));
  fs::remove(train);
  check_fails(train_arguments(dir.path / "model", out),
              "expected Pascal VOC 2012 with ImageSets/Segmentation/train.txt");

  trees::ade20k(dir.path / "ade");
  write_content(dir.path / "ade/objectInfo150.txt",
                "Idx Ratio Train Val Stuff Name\n1 0.1 2 3 1 wall\n3 0.1 2 3 1 sky\n");
  check_fails(prepare("ade20k", dir.path / "ade", dir.path / "a"), "objectInfo150.txt: expected line 3: index, ratio");
}

TEST_CASE("tiles of Potsdam are cut into pieces", "[layouts][prepare][potsdam]") {
  const TempDir dir;
  const fs::path data = dir.path / "data", out = dir.path / "out",
                 label = data / "5_Labels_all/top_potsdam_2_10_label.tif";
  trees::potsdam_tiles(data);
  const Words cut = prepare("potsdam", data, out, {"--variant", "rgb"});
  if (!reads_tiff()) {
    check_fails(cut, "for which this program must be built with libtiff-dev");
    return;
  }
  check_fails(prepare("potsdam", data, out), "this looks like Potsdam: smooseg prepare potsdam --variant rgb");
  check_fails(prepare("potsdam", data, out, {"--variant", "irrg"}), "expected Potsdam (irrg) with 3_Ortho_IRRG");
  const Bytes whole = load(label);

  Bytes changed = whole;
  for (std::size_t i = 0; i < 3; ++i) changed[8 + i] = static_cast<uint8_t>(100 + i);  // its first pixel
  changed[8 + 3 * 5] = 250;  // near red, the colour of the sixth
  save(label, changed);
  check_fails(cut, label.string() +
                       ": expected the colours of 6 classes, or one to ignore, found the colour #646566 in 1 pixel");
  save(label, Bytes(whole.begin(), whole.begin() + 100));
  check_fails(cut, "top_potsdam_2_10_label.tif: expected an intact TIFF");
  CHECK_FALSE(fs::exists(out / "images"));
  const auto written = fs::last_write_time(out / ".unfinished/images/unlabelled/7_13_14_14.png");
  for (std::size_t i = 0; i < 3; ++i) changed[8 + i] = 255;
  save(label, changed);
  check_runs(cut);

  CHECK(fs::last_write_time(out / "images/unlabelled/7_13_14_14.png") == written);  // made by the first call
  const Dataset train = open_dataset(out, "train"), test = open_dataset(out, "test");
  CHECK(train.samples.size() == 4545);
  CHECK(test.samples.size() == 855);
  CHECK(open_dataset(out, "unlabelled").samples.size() == 3150);
  CHECK(train.classes->names == potsdam_classes().names);
  CHECK_FALSE(fs::exists(out / ".unfinished"));
  // Row 3, column 7 of the first tile begins at 28, 12; a pixel is the mean of two by two, rounded up from one half.
  const std::string name = "2_10_03_07.png";
  const fs::path folder = fs::exists(out / "images/test" / name) ? "test" : "train";
  const Tensor piece = read_image(out / "images" / folder / name);
  CHECK(piece.select(2, 0).equal(torch::tensor({{29, 31}, {29, 31}}, torch::kUInt8)));
  CHECK(piece.select(2, 1).equal(torch::tensor({{13, 13}, {15, 15}}, torch::kUInt8)));
  CHECK(piece.select(2, 2).eq(7).all().item<bool>());
  // Labels of columns 29 and 31: 29 % 6 = 5, 31 % 6 = 1, that is clutter and building, one class.
  CHECK(read_label(out / "labels" / folder / name).equal(torch::tensor({{5, 1}, {5, 1}})));
  CHECK(read_label_map(out / "labels" / folder / name, *train.classes).eq(1).all().item<bool>());

  check_fails(cut, "out: expected a folder without a data set, found images in it");
  fs::remove(data / "2_Ortho_RGB/top_potsdam_6_7_RGB.tif");
  check_fails(prepare("potsdam", data, dir.path / "other", {"--variant", "rgb"}),
              "found 1 of these files missing, such as 2_Ortho_RGB/top_potsdam_6_7_RGB.tif");
}

TEST_CASE("folders of one's own, described by classes.json", "[layouts][prepare]") {
  const TempDir dir;
  const fs::path data = dir.path / "data", out = dir.path / "out";
  for (const std::string name : {"a", "b"}) save(data / "photos" / (name + ".png"), small_picture(50));
  Bytes mask;
  for (int p = 0; p < 16 * 8; ++p) {
    for (const int value : {p % 4 < 2 ? 200 : 0, p % 4 == 1 ? 10 : 0, p % 4 == 3 ? 255 : 0})
      mask.push_back(static_cast<uint8_t>(value));
  }
  const auto save_mask = [&](const std::string& name, const Bytes& rows) {
    save(data / "masks" / (name + "_mask.png"), png_bytes({16, 8, 8, PNG_COLOR_TYPE_RGB}, rows));
  };
  save_mask("a", mask);
  save_mask("b", mask);
  save(data / "train.txt", std::string("a\n"));
  save(data / "val.txt", std::string("b\n"));
  const std::string splits =
      R"("splits": {"train": {"images": "photos", "labels": "masks", "list": "train.txt", "label_ending": "_mask.png"},
                    "val": {"images": "photos", "labels": "masks", "list": "val.txt", "label_ending": "_mask.png"}})";
  const auto describe = [&](const std::string& keys) {
    write_content(data / "classes.json", "{\"classes\": [\"house\", \"rest\"], " + keys + ", " + splits + "}");
  };
  // Two reds are houses, black is the rest, blue means nothing.
  describe(R"("label_colors": [[[200, 0, 0], [200, 10, 0]], [0, 0, 0]], "ignore_colors": [[0, 0, 255]])");
  check_runs(prepare("folder", data, out));
  for (const fs::path& root : {data, out}) {  // described is enough; prepared is checked too
    const Dataset val = open_dataset(root, "val");
    REQUIRE(val.samples.size() == 1);
    CHECK(val.samples[0].name == "b");
    CHECK(scored_split(root) == "val");
    const Tensor label = load_label(val.samples[0], *val.classes);
    CHECK(label[0].slice(0, 0, 4).equal(torch::tensor({0, 0, 1, -1})));
  }
  // A colour a few levels off is none, unless that is said.
  Bytes off = mask;
  off[0] = 197;
  save_mask("b", off);
  check_fails(prepare("folder", data, out),
              "b_mask.png: expected the colours of 2 classes, or one to ignore, found the colour #c50000 in 1 pixel");
  describe(
      R"("label_colors": [[[200, 0, 0], [200, 10, 0]], [0, 0, 0]], "ignore_colors": [[0, 0, 255]], "color_tolerance": 3)");
  check_runs(prepare("folder", data, out));
  // Values to merge, of a grey mask.
  save(data / "masks/a_mask.png", small_label({3, 4, 9, 77}));
  save(data / "masks/b_mask.png", small_label({3, 4, 9, 77}));
  describe(R"("ids": [[3, 9], 4], "ignore": [77])");
  check_runs(prepare("folder", data, out));
  const Dataset train = open_dataset(out, "train");
  CHECK(load_label(train.samples[0], *train.classes)[0].slice(0, 0, 4).equal(torch::tensor({0, 1, 0, -1})));

  describe(R"("ids": [3, 3])");
  check_fails(prepare("folder", data, out),
              "classes.json: expected one class for each label, found that 3 is both \"house\" and \"rest\"");
  write_content(data / "classes.json", R"({"classes": ["a", "b"], "splits": {"train": {"pictures": "photos"}}})");
  check_fails(prepare("folder", data, out), "classes.json: expected the split \"train\" with \"images\"");
  write_content(data / "classes.json", R"({"classes": ["a", "b"], "splits": []})");
  check_fails(prepare("folder", data, out), "classes.json: expected \"splits\": an object of splits by name, found []");
  fs::remove(data / "classes.json");
  check_fails(prepare("folder", data, out),
              "expected folders of pictures named by \"splits\" in classes.json, or images/SPLIT");
  check_fails(prepare("folder", dir.path / "none", out), "none: expected a folder with classes.json, found nothing");
  check_fails(prepare("folder", data, out, {"--variant", "x"}), "--variant: 'prepare folder' has none, got 'x'");

  // The layout that needs no description, in place.
  fs::create_directories(dir.path / "copy");
  const fs::path plain = copy_of_scenes(dir.path / "copy");
  check_runs(prepare("folder", plain, plain));
  CHECK(open_dataset(plain, "test").samples.size() == 3);
  CHECK(dataset_name(plain) == "folder");
  CHECK(dataset_name(scenes()).empty());
}

TEST_CASE("descriptions of label maps in classes.json", "[classes]") {
  const std::string text = R"({"classes": ["a", "b"], "ids": [[1, 2], 0], "label_colors": "colors",
                               "colors": [[1, 2, 3], [4, 5, 6]], "ignore_colors": [[0, 0, 0]], "color_tolerance": 2})";
  for (const ClassTable& table :
       {classes_from_json(text, "c"), classes_from_json(classes_to_json(classes_from_json(text, "c")), "c")}) {
    CHECK((table.ids == std::vector<std::vector<int64_t>>{{1, 2}, {0}}));
    CHECK((table.label_colors == std::vector<std::vector<Color>>{{{1, 2, 3}}, {{4, 5, 6}}}));
    CHECK((table.ignore_colors == std::vector<Color>{{0, 0, 0}}));
    CHECK(table.color_tolerance == 2);
  }
  const auto error = [](const std::string& keys) {
    return error_of([&] { classes_from_json(R"({"classes": ["a", "b"], )" + keys + "}", "c.json"); });
  };
  CHECK(error(R"("ids": [1])") == "c.json: expected \"ids\" for 2 classes, found 1");
  CHECK(error(R"("ids": [1, []])") ==
        "c.json: expected \"ids\": for each class a label value, 0..65535, or a list of them, found []");
  CHECK(error(R"("ids": [1, 65536])").find("found 65536") != std::string::npos);
  CHECK(error(R"("ids": 1)").find("found 1") != std::string::npos);
  CHECK(error(R"("ids": [7, 8], "ignore": [8])") ==
        "c.json: expected values in \"ignore\" that are no classes, found 8, which is the class \"b\"");
  CHECK(error(R"("ids": [7, 8], "ignore": [0])").empty());
  CHECK(error(R"("label_colors": [[1, 2, 3], [1, 2, 3]])") ==
        "c.json: expected one class for each label, found that [1,2,3] is both \"a\" and \"b\"");
  CHECK(error(R"("label_colors": [[1, 2, 3], [1, 2, 300]])").find("found 1") != std::string::npos);
  CHECK(error(R"("label_colors": "colours")").find("the word \"colors\"") != std::string::npos);
  CHECK(error(R"("color_tolerance": 3)").find("expected \"label_colors\" beside") != std::string::npos);
  CHECK(error(R"("label_colors": "colors", "color_tolerance": 256)").find("a number of levels") != std::string::npos);
}
