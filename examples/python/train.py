"""Trains on features that export_features.py wrote, and writes a model for `smooseg evaluate` and `smooseg segment`:

    python3 train.py FEATURES/train --classes 8 --out model.safetensors
    smooseg segment --model model.safetensors --features-dir FEATURES/test --out labels PICTURES/images/test
"""

import argparse
import pathlib

import torch

import smooseg


def square(path):
    """The middle square of a file's features, (C,n,n)."""
    features = smooseg.read_safetensors(path)[0]["features"].float()
    height, width = features.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return features[:, top : top + side, left : left + side]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=pathlib.Path, help="folder of features, a file for each picture")
    parser.add_argument("--out", required=True, help="model to write")
    parser.add_argument("--classes", type=int, required=True, help="number of classes")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--preset", default="cityscapes", help="of the energy: paper, cityscapes, cocostuff, potsdam")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = sorted(arguments.features.rglob("*.safetensors"))
    if len(paths) < 2:
        parser.error(f"expected files of features of at least two pictures in {arguments.features}, found {len(paths)}")

    torch.manual_seed(arguments.seed)
    maps = torch.stack([square(path) for path in paths])
    projector = smooseg.Projector(maps.shape[1], 64)
    predictor = smooseg.PrototypePredictor(arguments.classes, 64)
    energy = smooseg.EnergyLoss.preset(arguments.preset)
    adam = torch.optim.Adam([{"params": projector.parameters(), "lr": 1e-4}, {"params": predictor.parameters(), "lr": 5e-4}])
    for step in range(1, arguments.steps + 1):
        batch = maps[torch.randperm(len(maps))[: arguments.batch]]
        features, code = projector(batch)
        terms = energy(features, predictor(code), smooseg.random_pairing(len(batch)))
        adam.zero_grad()
        terms.total.backward()
        predictor.update_teacher()  # before the step, as the published program does
        adam.step()
        if step % 100 == 0 or step == arguments.steps:
            print(f"step {step}  energy {terms.total.item():.4f}", flush=True)
    smooseg.save_model(arguments.out, smooseg.Model(projector, predictor, step=arguments.steps))


if __name__ == "__main__":
    main()
