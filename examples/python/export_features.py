"""Writes the features that a model of timm or transformers gives of pictures, a file each, for smooseg to learn from:

    python3 export_features.py timm:vit_small_patch16_224.dino --data PICTURES --out FEATURES
    smooseg train --backbone features --features-dir FEATURES --data PICTURES --classes 8 --out MODEL

PICTURES is a data set (images/train, images/test, ...) or any folder of pictures. Of images/train/a/b.png the features
go to FEATURES/train/a/b.safetensors; of a/b.png in a folder without splits to FEATURES/a/b.safetensors. A file holds one
tensor "features" of shape (C,h,w): a vector for each cell of a grid over the whole picture. Files that are there already,
of this model and these settings, are kept, so that a run that was stopped can be repeated.
"""

import os
import pathlib
import sys

import numpy
import safetensors
import safetensors.torch
import torch
from PIL import Image

import backbones

PICTURES = (".jpg", ".jpeg", ".png")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pictures_below(folder):
    """All pictures in and below a folder, as smooseg finds them, in order."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file()
             and not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return sorted(found)


def places(data, out):
    """Each picture and the file of its features."""
    images = data / "images"
    root = images if images.is_dir() else data
    pairs = {}
    for picture in pictures_below(root):
        target = (out / picture.relative_to(root)).with_suffix(".safetensors")
        if target in pairs:
            sys.exit(f"{picture}: its features would overwrite those of {pairs[target]}")
        pairs[target] = picture
    return [(picture, target) for target, picture in pairs.items()]


def size_of(width, height, resolution, patch_size):
    """Width and height with the shorter side of `resolution` pixels, in whole patches."""
    scale = resolution / min(width, height)
    return tuple(max(1, round(side * scale / patch_size)) * patch_size for side in (width, height))


def read(path, size, backbone):
    """A picture as the model wants it, (1,3,H,W)."""
    with Image.open(path) as picture:
        pixels = numpy.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), numpy.float32) / 255
    normalised = (pixels - numpy.float32(backbone.mean)) / numpy.float32(backbone.std)
    return torch.from_numpy(normalised).permute(2, 0, 1)[None].contiguous()


def is_done(target, metadata):
    try:
        with safetensors.safe_open(target, "pt") as file:
            return file.metadata() == metadata and list(file.keys()) == ["features"]
    except (OSError, safetensors.SafetensorError):
        return False


def save(target, features, metadata):
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{os.getpid()}.{target.name}")  # whole or not at all
    try:
        safetensors.torch.save_file({"features": features.contiguous()}, part, metadata)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main():
    parser = backbones.parser_of(__doc__)
    parser.add_argument("--data", required=True, type=pathlib.Path, help="data set or folder of pictures")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the features")
    parser.add_argument("--resolution", type=int, help="shorter side of the pictures in pixels; default: the model's own")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the files; the halves take half the space")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    arguments = parser.parse_args()
    pairs = places(arguments.data, arguments.out)
    if not pairs:
        parser.error(f"--data: found no pictures ({', '.join(PICTURES)}) in {arguments.data}")
    backbone = backbones.load(arguments)
    resolution = arguments.resolution or backbone.side
    if resolution % backbone.patch_size:
        parser.error(f"--resolution: expected a multiple of the patch of {backbone.patch_size} pixels, got {resolution}")
    module = backbone.module.to(arguments.device)

    # Some models take squares of one size alone. A map covers the whole picture all the same.
    square = (resolution, resolution)
    wide = size_of(2 * resolution, resolution, resolution, backbone.patch_size)
    with torch.no_grad():
        try:
            module(torch.zeros(1, 3, wide[1], wide[0], device=arguments.device))
            squares_alone = False
        except (RuntimeError, AssertionError, ValueError):
            squares_alone = True
            print(f"{backbone.name} takes no rectangles: pictures are squeezed to {resolution} x {resolution} pixels")

        written = 0
        for number, (picture, target) in enumerate(pairs):
            with Image.open(picture) as opened:
                size = square if squares_alone else size_of(*opened.size, resolution, backbone.patch_size)
            metadata = {"model": backbone.name, "weights": arguments.checkpoint or ("random" if arguments.random else ""),
                        "size": "x".join(map(str, size)), "dtype": arguments.dtype}
            if not is_done(target, metadata):
                features = module(read(picture, size, backbone).to(arguments.device))[0]
                features = features.to(DTYPES[arguments.dtype]).cpu()
                if not features.isfinite().all():
                    sys.exit(f"{picture}: its features are not finite in {arguments.dtype}")
                save(target, features, metadata)
                written += 1
            if (number + 1) % 100 == 0 or number + 1 == len(pairs):
                print(f"{number + 1} of {len(pairs)} pictures", flush=True)
    print(f"{arguments.out}: features of {len(pairs)} pictures, {written} of them new; {backbone.channels} channels")
    print(f"smooseg train --backbone features --features-dir {arguments.out} --data {arguments.data} --classes K --out MODEL")


if __name__ == "__main__":
    main()
