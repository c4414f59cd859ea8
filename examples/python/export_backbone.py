"""Exports a model of timm or transformers as a module that smooseg takes for its backbone, without Python:

    python3 export_backbone.py timm:vit_small_patch16_224.dino --out dino.pt
    smooseg train --backbone exported --weights dino.pt --data PICTURES --classes 8 --out MODEL

A name that ends in .pt gives a TorchScript module, which every LibTorch reads that is not older than this torch; with
--plain-attention also older ones, from 1.13 on. One that ends in .pt2 gives a package of AOTInductor, compiled for this
machine, which LibTorch from 2.6 on runs; it takes pictures of one size.
"""

import math
import os
import pathlib
import sys
import warnings

import torch

import backbones


def metadata_of(backbone, image_size):
    """What smooseg reads beside the module: texts by name."""
    numbers = {"patch_size": [backbone.patch_size], "channels": [backbone.channels], "mean": backbone.mean,
               "std": backbone.std}
    if image_size:
        numbers["image_size"] = [image_size]
    return {f"smooseg.{name}": " ".join(str(value) for value in values) for name, values in numbers.items()}


def check(module, backbone, out):
    """Ends the program where the exported module gives something else than the model, for one picture or several."""
    for batch in (1, 3):
        if not backbones.takes(module, backbone.module, batch, backbone.side, backbone.side):
            sys.exit(f"{out}: the exported module does not give the features of {backbone.name} for {batch} pictures")


def traced(module, height, width):
    """A TorchScript module of what happens to pictures of this size; nothing where that fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants: what comes of them is checked
        try:
            return torch.jit.trace(module, torch.randn(2, 3, height, width), check_trace=False)
        except (RuntimeError, AssertionError, ValueError):
            return None


def export_script(backbone, out):
    # Half of what a model does with sizes becomes constant. Traced at none that is special to it, such as that of its
    # positions, it often takes all of them.
    side, step = backbone.side, math.lcm(backbone.patch_size, 32)
    sizes = [(side + 4 * step, side + 2 * step), (side + step, side + 3 * step)]
    module = traced(backbone.module, *sizes[0])
    any_size = module is not None and all(
        backbones.takes(module, backbone.module, 1, *size) for size in [(side, side), *sizes]
    )
    if not any_size:
        module = traced(backbone.module, side, side)
        if module is None:
            sys.exit(f"{backbone.name}: it cannot be traced as a TorchScript module")
    check(module, backbone, out)
    image_size = 0 if any_size else side
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is what LibTorch of all releases reads
        torch.jit.save(module, str(out), _extra_files=metadata_of(backbone, image_size))
    return image_size


def export_package(backbone, out):
    example = torch.randn(2, 3, backbone.side, backbone.side)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(backbone.module, (example,), dynamic_shapes=({0: batch},))
    settings = {"aot_inductor.metadata": metadata_of(backbone, backbone.side)}
    torch._inductor.aoti_compile_and_package(program, package_path=str(out), inductor_configs=settings)
    check(torch._inductor.aoti_load_package(str(out)), backbone, out)
    return backbone.side


def main():
    parser = backbones.parser_of(__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="file to write: NAME.pt or NAME.pt2")
    parser.add_argument("--plain-attention", action="store_true",
                        help="attention of single operators: slower, but known to LibTorch before 2.0 too (timm)")
    arguments = parser.parse_args()
    exporters = {".pt": export_script, ".pt2": export_package}
    if arguments.out.suffix not in exporters:
        parser.error(f"--out: expected a name that ends in .pt or .pt2, got {arguments.out}")
    if arguments.plain_attention and arguments.model.startswith("timm:"):
        import timm.layers

        timm.layers.set_fused_attn(False)
    backbone = backbones.load(arguments)

    part = arguments.out.with_name(f".{os.getpid()}.{arguments.out.name}")  # whole or not at all
    try:
        image_size = exporters[arguments.out.suffix](backbone, part)
        part.replace(arguments.out)
    finally:
        part.unlink(missing_ok=True)
    size = f"pictures of {image_size} x {image_size} pixels alone" if image_size else "pictures of any size"
    print(f"{arguments.out}: {backbone.channels} channels for patches of {backbone.patch_size} pixels; takes {size}")
    resolution = f" --resolution {backbone.side}" if backbone.side != 224 else ""
    print(f"smooseg train --backbone exported --weights {arguments.out}{resolution} --data PICTURES --classes K --out MODEL")


if __name__ == "__main__":
    main()
