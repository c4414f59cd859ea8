// The command line: TOML files, help texts, and arguments that are refused.

#include <ATen/Context.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "app/program.hpp"
#include "commands/doctor.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"
#include "smooseg/version.hpp"
#include "support/error_text.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

TEST_CASE("options from TOML", "[command line]") {
  const TempDir dir;
  const std::string config = (dir.path / "run.toml").string();
  const auto settings_with = [&](const std::vector<std::string>& more) {
    check_runs(train_arguments(dir.path / "model") + Words{"--overwrite", "--config", config} + more);
    return settings_of(dir.path / "model" / "last.safetensors");
  };
  write_content(config,
                "# a comment\n[train]\ntemperature = 0.2\ncrops = \"five\"\nmomentum = 0.9\nacross-threshold = "
                "0.25\n[evaluate]\nflip = true\n");
  CHECK(settings_with({}).at("temperature") == "0.2");
  const auto settings = settings_with({"--temperature", "0.3"});
  CHECK(settings.at("temperature") == "0.3");
  CHECK(settings.at("momentum") == "0.9");
  CHECK(settings.at("crops") == "five");
  CHECK(settings.at("across-threshold") == "0.25");

  write_content(config,
                "\xEF\xBB\xBF[train] # a comment\r\nseed = 1_0 # another\r\ntemperature = 0.2_5\nmomentum = 0.9# one\n"
                "  # a last one\n\n[evaluate]# none\n");
  const auto plain = settings_with({});
  CHECK(plain.at("seed") == "10");
  CHECK(plain.at("temperature") == "0.25");
  CHECK(plain.at("momentum") == "0.9");

  // A '#' in quotes begins no comment.
  const fs::path hashed = dir.path / "run#1";
  write_content(config, "[train] # out below\nout = '" + hashed.string() + "' # here\ntemperature = 25e-2\n");
  check_runs({"train", "--config", config, "--data", scenes().string(), "--resolution", "64", "--textons", "8",
              "--batch", "2", "--iterations", "1"});
  CHECK(settings_of(hashed / "last.safetensors").at("temperature") == "0.25");

  const auto refused = [&](const std::string& text, const std::string& error) {
    write_content(config, text);
    check_fails(train_arguments(dir.path / "model") + Words{"--config=" + config}, error, 2);
  };
  refused("[train]\ntemprature = 0.2\n",
          "run.toml, line 2: unknown key 'temprature' in [train]; did you mean 'temperature'?; known keys: ");
  refused("[train]\nxyzxyzxyz = 0.2\n", "run.toml, line 2: unknown key 'xyzxyzxyz' in [train]; known keys: ");
  refused("[train]\nconfig = 'other.toml'\n", "run.toml, line 2: unknown key 'config' in [train]");
  refused("[train]\nhelp = true\n", "run.toml, line 2: unknown key 'help' in [train]");
  refused("# one\n[train\nmomentum = 0.2\n", "run.toml, line 2: no TOML: ");
  refused("[train]\nmomentum 0.2\n", "run.toml, line 2: no TOML: ");
  refused("[train]\nmomentum = 0.2\nmomentum = 0.3\n", "run.toml, line 3: no TOML: ");
  refused("[trian]\nmomentum = 0.2\n", "run.toml, line 2: unknown section [trian]");
  refused("[train]\nmomentum = [0.2, 0.3]\n",
          "run.toml, line 2: expected one value for 'momentum' in [train], found a list of 2");
  refused("[train]\nmomentum = {}\n", "run.toml, line 2: expected one value for 'momentum' in [train], found a table");
  refused("[train]\nmomentum = 1979-05-27\n",
          "run.toml, line 2: expected one value for 'momentum' in [train], found a date");
  refused("momentum = 0.2\n", "run.toml, line 1: 'momentum' is in no section");
  refused("[train]\ntemperature = \"hot\"\n", "--temperature");
  refused("[train]\ncentering = \"column\"\n", "--centering");
  check_fails({"train", "--config", (dir.path / "none.toml").string()}, "none.toml: cannot read", 2);
  check_fails({"train", "--config", dir.path.string()}, dir.path.string() + ": expected a configuration file, found a ",
              2);
  check_fails({"train", "--config", "/dev/null"}, "/dev/null: expected a configuration file, found something else", 2);
}

TEST_CASE("every shipped configuration is understood", "[command line]") {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(data_path("../../examples/configs"))) {
    INFO(entry.path().string());
    const Words config{"--config", entry.path().string(), "--data", "/nonexistent", "--out", "/nonexistent"};
    check_fails(Words{"train"} + config, "/nonexistent: expected a folder of pictures, found nothing");
    check_fails(Words{"evaluate", "--model", "/nonexistent"} + config, "/nonexistent: ");
    check_fails(Words{"prepare", "cityscapes"} + config,
                "/nonexistent: expected the folder of Cityscapes, found nothing");
    ++count;
  }
  CHECK(count >= 9);
}

TEST_CASE("of several configurations a later one wins, and the command line over all", "[command line]") {
  const TempDir dir;
  const auto config = [&](const std::string& name, const std::string& text) {
    return Words{"--config", write_content(dir.path / name, "[train]\n" + text)};
  };
  const Words two = config("a.toml", "temperature = 0.3\nmomentum = 0.7\nprojector-rate = 1e-3\n") +
                    config("b.toml", "momentum = 0.8\nprojector-rate = 2e-3\n");
  check_runs(train_arguments(dir.path / "out") + two + Words{"--projector-rate", "3e-3"});
  const auto settings = settings_of(dir.path / "out" / "best.safetensors");
  CHECK(settings.at("temperature") == "0.3");
  CHECK(settings.at("momentum") == "0.8");
  CHECK(settings.at("projector-rate") == "0.003");
}

TEST_CASE("help names every option and its default", "[command line]") {
  for (const char* command :
       {"train", "evaluate", "segment", "prepare", "weights", "convert", "report", "sweep", "plot", "doctor"}) {
    const Outcome o = run_program({command, "--help"});
    CHECK(o.status == 0);
    CHECK(o.out.find("--") != std::string::npos);
  }
  const std::string help = run_program({"train", "--help"}).out;
  for (const auto& [name, value] : values_of(ModelSettings())) CHECK(help.find("--" + name) != std::string::npos);
  CHECK(help.find("--within-threshold") != std::string::npos);
  CHECK(help.find("0.998") != std::string::npos);
  CHECK(run_program({"--help"}).out.find("segment") != std::string::npos);
  CHECK(run_program({"--version"}).out == std::string(SMOOSEG_VERSION) + "\n");
}

TEST_CASE("settings survive the model file to the last digit", "[command line]") {
  ModelSettings settings;
  settings.temperature = 0.1 + 0.2;
  settings.within_threshold = -1.0 / 3;  // the other stays unset
  settings.seed = ~uint64_t{0};
  settings.centering = "none";
  const ModelSettings back = settings_from(values_of(settings), "test");
  CHECK(back.temperature == settings.temperature);
  CHECK(back.within_threshold == settings.within_threshold);
  CHECK_FALSE(back.across_threshold);
  CHECK(back.seed == settings.seed);
  CHECK(back.centering == "none");
  CHECK_ERROR(settings_from({{"unheard-of", "1"}}, "FILE"), "FILE: its settings do not fit");
}

TEST_CASE("doctor", "[command line]") {
  const Outcome o = run_program({"doctor", "--device", "cpu"});
  CHECK(o.status == 0);
  for (const char* word :
       {"LibTorch", "BLAS", "oneDNN: ", "OpenMP: ", "threads", "GFLOP/s", "CUDA devices", "JPEG, PNG, BMP"})
    CHECK(o.out.find(word) != std::string::npos);
  CHECK((o.out.find("was built without") == std::string::npos) == (at::hasMKLDNN() && at::hasOpenMP()));

  CHECK(advice_on_libtorch(true, true).empty());
  const auto advice = advice_on_libtorch(false, false);
  REQUIRE(advice.size() == 2);
  CHECK(advice[0].find("this LibTorch was built without oneDNN: convolutions") == 0);
  CHECK(advice[1].find("this LibTorch was built without OpenMP: many of its operators use one thread") == 0);
  CHECK(advice_on_libtorch(false, true).size() == 1);
}

TEST_CASE("bad arguments", "[command line][bad input]") {
  const TempDir dir;
  const auto train = train_arguments(dir.path / "out");
  check_fails({}, "A subcommand is required", 2);
  check_fails({"trian"}, "unknown command 'trian'", 2);
  check_fails(train + Words{"--momentun", "1"}, "--momentun", 2);
  check_fails(train + Words{"--iterations", "0"}, "--iterations", 2);
  check_fails(train + Words{"--backbone", "resnext"}, "--backbone", 2);
  check_fails({"train", "--data", "x"}, "--out is required", 2);
  check_fails(train + Words{"--batch", "1"}, "--batch: expected at least 2");
  check_fails(train + Words{"--position", "1e30"}, "--position", 2);
  check_fails(train + Words{"--classes", "1"}, "--classes: expected 2 to 255, got 1");
  check_fails(train + Words{"--resolution", "60"},
              "--resolution: expected a multiple of the backbone's patch of 8 pixels, got 60");
  check_fails(train + Words{"--device", "gpu"},
              "--device: expected auto, cpu, cuda, cuda:N or another device of LibTorch, got 'gpu'");
  check_fails(train + Words{"--device", "cuda:77"}, "--device: cuda:77 is not there");
  check_fails(train + Words{"--features", "keys"}, "--features: the backbone 'texture' has no keys");
  check_fails(train + Words{"--weights", "x.pth"}, "--weights: the backbone 'texture' has none");
}

TEST_CASE("output to a full device is an error", "[command line][bad input]") {
  for (const Words& arguments : {Words{"weights", "list"}, Words{"--help"}, Words{"--version"}}) {
    std::ofstream full("/dev/full");
    std::ostringstream err;
    CHECK(run(arguments, full, err) == 1);
    CHECK(err.str().find("the standard output cannot be written: is the disk full?") != std::string::npos);
  }
}

TEST_CASE("an error tells what to do where memory ran out", "[command line]") {
  const std::string advice = "the memory does not suffice: lower what decides how much is needed";
  CHECK(text_of(std::bad_alloc()).rfind(advice, 0) == 0);
  try {
    TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 70368744177664 bytes.");
  } catch (const c10::Error& e) {
    CHECK(text_of(e).rfind(advice, 0) == 0);
  }
  try {
    TORCH_CHECK(false, "another one");
  } catch (const c10::Error& e) {
    CHECK(text_of(e) == "another one");
  }
}

TEST_CASE("numbers that are none, or too large, are refused by the option's name", "[command line][bad input]") {
  const TempDir dir;
  const std::string config = (dir.path / "run.toml").string();
  for (const char* option :
       {"--projector-rate", "--temperature", "--dropout", "--within-threshold", "--cache-memory"}) {
    for (const char* value : {"nan", "inf", "-inf", "1e300", "1e-300"}) {
      INFO(option << "=" << value);
      check_fails({"train", "--data", "x", "--out", "y", std::string(option) + "=" + value}, std::string(option) + ": ",
                  2);
    }
  }
  check_fails({"evaluate", "--model", "x", "--data", "y", "--crf-scale", "nan"}, "--crf-scale: ", 2);
  check_fails({"train", "--data", "x", "--out", "y", "--embed-dim", "99999999999999999999"}, "--embed-dim: ", 2);
  for (const char* seed : {"-1", "18446744073709551616", "1.5", "one"}) {
    check_fails({"train", "--data", "x", "--out", "y", std::string("--seed=") + seed}, "--seed: expected a ", 2);
  }
  check_fails({"train", "--data", "x", "--out", "y", "--iterations", "three"},
              "--iterations: expected a whole number, got 'three'", 2);
  check_fails({"train", "--data", "x", "--out", "y", "--iterations", "0"}, "--iterations: ", 2);
  write_content(config, "[train]\ntemperature = nan\n");
  check_fails({"train", "--data", "x", "--out", "y", "--config", config}, "--temperature: ", 2);
}

TEST_CASE("threads far above the cores are capped with a word", "[command line]") {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  RuntimeSettings settings;
  settings.threads = cores;
  CHECK(thread_count(settings) == cores);
  settings.threads = 4096;
  CHECK(thread_count(settings) <= 4 * cores);
  FeatureSettings features;
  CHECK(worker_count(features, settings) == thread_count(settings));
  features.workers = 1;
  CHECK(worker_count(features, settings) == 1);
  features.workers = 4096;
  CHECK(worker_count(features, {}) <= 4 * cores);
  const Outcome o = check_runs({"doctor", "--device", "cpu", "--threads", "4096"});
  CHECK(o.err.find("--threads 4096 is too many for ") != std::string::npos);
  CHECK(run_program({"train", "--data", "x", "--out", "y", "--threads", "1"}).err.find("too many") ==
        std::string::npos);
}
