// `smooseg convert`: weights of any known file as a safetensors file under our names, or those of another program.

#include <filesystem>
#include <string>
#include <vector>

#include "commands/command_line.hpp"
#include "features/weight_files.hpp"
#include "model/model.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/names.hpp"

namespace smooseg::app {
namespace {

constexpr auto kOurs = "ours", kAuthors = "authors";
constexpr auto kBackbone = "backbone.";

struct ConvertSettings {
  std::string in, out, backbone, weights;
  std::string names = kOurs;
};

void add_options(CLI::App& app, ConvertSettings& s) {
  std::vector<std::string> namings{kOurs};
  for (const std::string& name : io::known_namings()) namings.push_back(name);
  app.add_option("in", s.in, "model of smooseg train, checkpoint of the authors' program, or weights of a backbone")
      ->required();
  app.add_option("out", s.out, "safetensors file to write")->required();
  app.add_option("--names", s.names,
                 "naming of the tensors: ours; authors (the published SmooSeg program) for a whole model; dino, timm, "
                 "huggingface (transformers) or torchvision for a backbone, also that of a model")
      ->check(CLI::IsMember(namings));
  app.add_option("--backbone", s.backbone, "backbone of an authors' checkpoint that is to become a model of ours")
      ->check(CLI::IsMember(network_names()));
  app.add_option("--weights", s.weights, "of a model of ours whose backbone was exported from Python: that module")
      ->type_name("FILE");
}

/// Whether these are the tensors of a segmenter rather than of a backbone.
bool has_predictor(const io::TensorMap& tensors) {
  return tensors.count("predictor.teacher") > 0;
}

/// The model made of the tensors of an authors' checkpoint, in our names, and the backbone of `--backbone`.
Model model_of(const ConvertSettings& s, const io::TensorMap& tensors, const Console& console) {
  TORCH_CHECK(!s.backbone.empty(), s.in, ": the file does not tell its backbone: say --backbone NAME");
  const Tensor prototypes = tensors.at("predictor.teacher");
  TORCH_CHECK(prototypes.dim() == 2, s.in, ": expected prototypes of two dimensions, found ", prototypes.dim());
  ModelSettings settings;
  settings.backbone = s.backbone;
  settings.classes = prototypes.size(0);
  settings.embed_dim = prototypes.size(1);
  settings.thresholds = kPresetThresholds;
  choose_thresholds(settings);
  Model model = make_model(settings, default_classes(settings.classes));

  io::TensorMap all = tensors;
  if (tensors_under(kBackbone, tensors).empty()) {
    const std::string weights = weights_for(backbone::find(s.backbone), "");
    io::load(*model.segmenter->backbone, weights);
    console.err << s.in << ": without a backbone; its weights are those of " << weights << std::endl;
    for (const auto& [name, tensor] : io::tensors_of(*model.segmenter->backbone)) all[kBackbone + name] = tensor;
  }
  const auto report = io::load_tensors(*model.segmenter, all, io::LoadOptions().strict(false), s.in);
  TORCH_CHECK(report.missing.empty() && report.mismatched.empty(), s.in, ": does not fit a model with the backbone '",
              s.backbone, "': ", report.message());
  for (const std::string& name : report.unexpected) console.err << s.in << ": left out " << name << std::endl;
  return model;
}

/// The tensors of a file in our names: a segmenter's or a backbone's.
io::TensorMap read_in_our_names(const std::string& path, const std::string& module) {
  if (!is_model(path)) return io::with_our_names(io::read_tensors(path), path);
  const LoadedModel loaded = load_model(path, torch::kCPU, {}, module);
  const std::string& name = loaded.model.settings.backbone;
  const auto* const entry = registry_entry(name);
  TORCH_CHECK(entry != nullptr && !entry->weights.file.empty(), path, ": no other program has its backbone '", name,
              "'");
  return io::tensors_of(*loaded.model.segmenter);
}

void convert(const ConvertSettings& s, const Console& console) {
  TORCH_CHECK(std::filesystem::path(s.out).extension() == ".safetensors", s.out,
              ": expected a name that ends in .safetensors, the format that is written; in Python, "
              "torch.save(safetensors.torch.load_file(IN), OUT) makes a .pth of it");
  TORCH_CHECK(s.weights.empty() || is_model(s.in), "--weights: ", s.in,
              " is no model of smooseg train, which alone may need an exported module");
  const auto report = [&](const std::string& what) { console.out << s.out << ": " << what << std::endl; };
  if (s.names == kOurs && is_model(s.in)) {
    save_model(s.out, load_model(s.in, torch::kCPU, {}, s.weights).model);
    report("the model, without what training alone needs");
    return;
  }
  io::TensorMap tensors = read_in_our_names(s.in, s.weights);
  if (s.names == kOurs && has_predictor(tensors)) {
    save_model(s.out, model_of(s, tensors, console));
    report("a model of smooseg");
    return;
  }
  TORCH_CHECK(s.names != kAuthors || has_predictor(tensors), s.in,
              ": expected a whole model for --names authors, found a backbone's weights");
  if (s.names != kAuthors && has_predictor(tensors)) tensors = tensors_under(kBackbone, tensors);
  TORCH_CHECK(!tensors.empty(), s.in, ": has no backbone");
  if (s.names != kOurs) tensors = io::with_names(tensors, s.names);
  // Hugging Face's reader wants to know whose layout the tensors have.
  io::write_safetensors(s.out, tensors, {{"format", "pt"}});
  report(std::to_string(tensors.size()) + " tensors, in the naming '" + s.names + "'");
}

}  // namespace

Command convert_command() {
  return make_command("convert", "Write a model or a backbone's weights under other names.", convert);
}

}  // namespace smooseg::app
