"""From a model of Python to a trained one of smooseg, by the scripts of examples/python.

    python_exports.py PROGRAM SCRIPTS    PROGRAM: smooseg; SCRIPTS: the folder examples/python

Ends with 77, for "skipped", where this Python does not have timm.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
MODELS = {"timm:test_vit": 64, "timm:test_convnext": 64}  # untrained ones of timm's own tests, and a size of pictures


def run(*command, fails=False):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if (result.returncode != 0) != fails:
        sys.exit(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def totals(folder):
    return [json.loads(line)["total"] for line in (folder / "log.jsonl").read_text().splitlines()]


def check(program, scripts, folder, model, side, repeats):
    scenes = folder / "scenes"
    export = [sys.executable, scripts / "export_backbone.py", model, "--random", "--image-size", side]
    module = folder / "net.pt"
    said = run(*export, "--plain-attention", "--out", module)
    assert "pictures of any size" in said, said

    def train(name, *more):
        out = folder / name
        run(program, "train", "--data", scenes, "--out", out, "--resolution", side, "--iterations", 3, "--batch", 4,
            "--log-every", 1, "--device", "cpu", "--overwrite", *more)
        return out

    exported = train("exported", "--backbone", "exported", "--weights", module)
    run(program, "evaluate", "--model", exported / "best.safetensors", "--weights", module, "--data", scenes,
        "--resolution", side)

    # The same features by way of files, of the very weights of the module.
    features = folder / "features"
    said = run(sys.executable, "-c", FEATURES_OF_MODULE, scripts, module, model, "--image-size", side, "--random", "--data",
               scenes, "--out", features)
    assert "6 pictures, 6 of them new" in said, said
    from_files = train("files", "--backbone", "features", "--features-dir", features)
    for a, b in zip(totals(exported), totals(from_files), strict=True):
        assert abs(a - b) < 1e-3 * abs(a) + 1e-5, f"{model}: {totals(exported)} and {totals(from_files)}"
    run(program, "segment", "--model", from_files / "best.safetensors", "--features-dir", features / "test",
        "--out", folder / "labels", scenes / "images" / "test")

    if not repeats:
        return
    # Once more: nothing is new; a damaged file is written again.
    again = [sys.executable, "-c", FEATURES_OF_MODULE, scripts, module, model, "--image-size", side, "--random", "--data",
             scenes, "--out", features]
    assert "6 pictures, 0 of them new" in run(*again)
    next(features.rglob("*.safetensors")).write_bytes(b"damaged")
    assert "6 pictures, 1 of them new" in run(*again)


# export_features.py with the weights of a module, which are random here and those of no file.
FEATURES_OF_MODULE = """
import sys, torch
scripts, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, scripts)
import backbones, export_features
load = backbones.load
def with_weights(arguments):
    backbone = load(arguments)
    backbone.module.load_state_dict(torch.jit.load(module).state_dict())
    return backbone
backbones.load = with_weights
export_features.main()
"""


def main():
    program, scripts = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    if importlib.util.find_spec("timm") is None:
        print(f"{sys.executable} does not have timm")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run(program, "prepare", "scenes", "--out", folder / "scenes", "--train", 4, "--test", 2, "--height", 64,
            "--width", 64)
        for number, (model, side) in enumerate(MODELS.items()):
            work = folder / str(number)
            work.mkdir()
            (work / "scenes").symlink_to(folder / "scenes")
            check(program, scripts, work, model, side, repeats=number == 0)
        export = [sys.executable, scripts / "export_backbone.py"]
        for wrong, text in {"timm:no_such_model": "has no such model", "test_vit": "expected timm:NAME"}.items():
            said = run(*export, wrong, "--out", folder / "x.pt", fails=True)
            assert text in said, said
        said = run(*export, "timm:test_vit", "--out", folder / "x.onnx", fails=True)
        assert "expected a name that ends in .pt or .pt2" in said, said
        assert not list(folder.glob("*x.*")), "an unfinished file was left"
    return 0


if __name__ == "__main__":
    sys.exit(main())
