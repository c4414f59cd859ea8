"""Models of timm and transformers as modules that map pictures to feature maps; what both export scripts share."""

import argparse
import dataclasses
import sys

import torch

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass
class Backbone:
    """A frozen model in evaluation mode, and what smooseg must know of it."""

    module: torch.nn.Module  # (B,3,H,W), normalised with mean and std -> (B,C,H/patch_size,W/patch_size)
    name: str
    side: int  # of the pictures that it was made for, in pixels
    patch_size: int
    channels: int
    mean: tuple
    std: tuple


class TimmMap(torch.nn.Module):
    """The last feature map of a timm model, after its norm."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        if hasattr(self.model, "forward_intermediates"):
            return self.model.forward_intermediates(
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )[-1]
        features = self.model.forward_features(images)
        if features.dim() != 4:
            raise ValueError(f"expected a map (B,C,h,w) or (B,h,w,C) of the model, found {tuple(features.shape)}")
        return features if features.shape[1] == self.model.num_features else features.permute(0, 3, 1, 2)


class TransformersMap(torch.nn.Module):
    """The last hidden state of a transformers model: a map as it is, or the tokens of the patches as one."""

    def __init__(self, model, patch_size, skip):
        super().__init__()
        self.model, self.patch_size, self.skip = model, patch_size, skip

    def forward(self, images):
        state = self.model(pixel_values=images, return_dict=False)[0]
        if state.dim() == 4:
            return state
        height, width = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        patches = state[:, self.skip :]
        return patches.transpose(1, 2).reshape(images.shape[0], -1, height, width)


def add_arguments(parser):
    parser.add_argument("model", help="timm:NAME, or transformers:NAME or :FOLDER, such as timm:vit_small_patch16_224.dino")
    parser.add_argument("--checkpoint", help="file with the weights of a timm model, instead of the published ones")
    parser.add_argument("--random", action="store_true", help="random weights, to try things without a download")
    parser.add_argument("--image-size", type=int, help="side of the pictures in pixels; default: the model's own")


def timm_backbone(name, arguments):
    import timm
    import timm.data

    options = {"pretrained": not (arguments.random or arguments.checkpoint)}
    if arguments.checkpoint:
        options["checkpoint_path"] = arguments.checkpoint
    if not timm.is_model(name):
        sys.exit(f"timm:{name}: timm {timm.__version__} has no such model; timm.list_models('*part of its name*') lists them")

    # Transformers that were made for one size take others where they are told to; other models have no such options.
    wanted = {"dynamic_img_size": True}
    if arguments.image_size:
        wanted["img_size"] = arguments.image_size
    for extra in (wanted, {k: v for k, v in wanted.items() if k == "img_size"}, {}):
        try:
            model = timm.create_model(name, **options, **extra)
            break
        except TypeError as error:
            if not extra or "unexpected keyword" not in str(error):
                raise
    config = timm.data.resolve_model_data_config(model)
    side = arguments.image_size or config["input_size"][-1]
    return TimmMap(model), side, tuple(config["mean"]), tuple(config["std"])


def transformers_backbone(name, arguments):
    import transformers

    if arguments.checkpoint:
        sys.exit("--checkpoint: transformers reads weights from a folder: say transformers:FOLDER")
    config = transformers.AutoConfig.from_pretrained(name)
    # Their other attention does not become a TorchScript module.
    if arguments.random:
        model = transformers.AutoModel.from_config(config, attn_implementation="eager")
    else:
        model = transformers.AutoModel.from_pretrained(name, attn_implementation="eager")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    except (OSError, ValueError):
        mean, std = IMAGENET
        print(f"{name}: it does not say how pictures are normalised: with ImageNet's mean and deviation")
    size = getattr(config, "image_size", None) or 224
    side = arguments.image_size or (size if isinstance(size, int) else min(size))
    patch = getattr(config, "patch_size", 0)
    patch = patch if isinstance(patch, int) else 0

    model.eval()
    with torch.no_grad():
        state = model(pixel_values=torch.zeros(1, 3, side, side), return_dict=False)[0]
    skip = 0
    if state.dim() == 3:
        skip = state.shape[1] - (side // patch) ** 2 if patch else -1
        if skip < 0:
            sys.exit(f"{name}: {state.shape[1]} tokens for {side} x {side} pixels are no map of patches of {patch} pixels")
    return TransformersMap(model, patch, skip), side, mean, std


def load(arguments):
    """The model that the arguments name. Ends the program where there is none, or it gives no map."""
    kind, _, name = arguments.model.partition(":")
    makers = {"timm": timm_backbone, "transformers": transformers_backbone}
    if kind not in makers or not name:
        sys.exit(f"{arguments.model}: expected timm:NAME or transformers:NAME")
    module, side, mean, std = makers[kind](name, arguments)
    module.eval().requires_grad_(False)
    with torch.no_grad():
        features = module(torch.zeros(1, 3, side, side))
    height, width = features.shape[2:]
    if height != width or side % height:
        sys.exit(f"{arguments.model}: a map of {height} x {width} for {side} x {side} pixels has no whole patches; "
                 "take another --image-size")
    return Backbone(module, arguments.model, side, side // height, features.shape[1], mean, std)


def takes(module, reference, batch, height, width):
    """Whether a module gives for pictures of this size what the reference gives."""
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
    try:
        with torch.no_grad():
            got, expected = module(images), reference(images)
    except (RuntimeError, AssertionError, ValueError):
        return False
    return got.shape == expected.shape and bool((got - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6)


def parser_of(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return parser
