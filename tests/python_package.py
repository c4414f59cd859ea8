"""The Python package in examples/python, built from its source distribution against the torch of this Python.

    python_package.py SOURCE BUILD [PROGRAM]    SOURCE: the source tree; BUILD: folder to build in; PROGRAM: smooseg

Values and gradients are compared with a plain transcription of the equations in float64. Ends with 77, for "skipped",
where this Python does not have what the build needs; with SMOOSEG_REQUIRE_PYTHON set that is a failure.
"""

import copy
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time

SKIPPED = 77
TOLERANCE = 1e-9


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **options)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


def missing():
    """What the build needs and this Python lacks."""
    lacks = [name for name in ("torch", "numpy", "setuptools", "pip") if importlib.util.find_spec(name) is None]
    if "setuptools" not in lacks and int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        lacks.append("a setuptools of 77 or newer")
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        lacks.append("its headers (Debian: python3-dev)")
    if not lacks:
        import torch

        if not os.path.exists(os.path.join(torch.__path__[0], "include", "torch", "csrc", "utils", "pybind.h")):
            lacks.append("torch's headers")
    return lacks


def build(source, folder):
    """The folder with the package in it. Builds only where a source or torch is another than the last time."""
    import torch

    package, include = source / "examples" / "python", source / "include"
    digest = hashlib.sha256(f"{sys.executable} {torch.__version__}".encode())
    for path in sorted([*include.rglob("*.hpp"), *package.glob("src/smooseg/*.*"), *package.glob("*.toml"), package / "setup.py"]):
        digest.update(path.read_bytes())
    site, stamp = folder / "site", folder / "stamp"
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return site
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder, "sdist", "--dist-dir", folder, cwd=package)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    unpacked = archive.with_name(archive.name[: -len(".tar.gz")])
    environment = dict(os.environ)
    if shutil.which("ccache"):
        environment["CXX"] = "ccache c++"
    begun = time.time()
    run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps",
        "--no-index", "--target", site, unpacked, env=environment)
    print(f"built in {time.time() - begun:.0f} s")
    stamp.write_text(digest.hexdigest())
    return site


# ------------------------------------------------------------------------------------------- the equations, as written


def unit(x):
    x = x.flatten(2)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-10)


def textbook_smoothness(features, assignments, pairing, within=-0.02, across=0.5, centering="row-keep-mean", total="mean"):
    """Eqs. 2 to 4: the sums over pairs within images and across."""
    import torch

    x, a = unit(features), unit(assignments)
    terms = []
    for partner, threshold in ((torch.arange(len(x)), within), (pairing, across)):
        w = torch.einsum("bcp,bcq->bpq", x, x[partner])
        centred = w - w.mean(2, keepdim=True) if centering != "none" else w
        if centering == "row-keep-mean":
            centred = centred + w.mean()
        penalty = 1 - torch.einsum("bkp,bkq->bpq", a, a[partner])
        energy = (centred - threshold) * penalty
        terms.append(energy.mean() if total == "mean" else energy.sum())
    return terms


def textbook_logits(prototypes, code):
    """Eq. 5."""
    import torch

    p = prototypes / prototypes.norm(dim=1, keepdim=True)
    return torch.einsum("kd,bdn->bkn", p, unit(code)).unflatten(2, code.shape[2:])


def textbook_energy(features, code, student, teacher, pairing, temperature=0.1, **settings):
    """Eq. 7 and its parts: total, within, across, data."""
    import torch

    student_logits, teacher_logits = textbook_logits(student, code.detach()), textbook_logits(teacher.detach(), code)
    within, across = textbook_smoothness(features, torch.softmax(teacher_logits / temperature, 1), pairing, **settings)
    reduction = settings.get("total", "mean")
    data = torch.nn.functional.cross_entropy(student_logits, teacher_logits.argmax(1).detach(), reduction=reduction)
    return within + across + data, within, across, data


def close(name, got, expected):
    error = (got - expected).abs().max().item()
    assert error <= TOLERANCE * max(1, expected.abs().max().item()), f"{name}: {error} apart"


# ---------------------------------------------------------------------------------------------------------------- tests


def inputs(torch, batch=4, channels=12, dim=8, classes=5, side=(6, 7)):
    torch.manual_seed(1)
    double = {"dtype": torch.float64}
    return (torch.randn(batch, channels, *side, **double), torch.randn(batch, dim, *side, **double, requires_grad=True),
            torch.randn(classes, dim, **double))


def test_losses(torch, smooseg):
    features, code, prototypes = inputs(torch)
    pairing = smooseg.random_pairing(4, torch.Generator().manual_seed(3))
    assert (pairing != torch.arange(4)).all()
    predictor = smooseg.PrototypePredictor(5, 8).double()
    with torch.no_grad():
        predictor.student.copy_(prototypes)
    for settings in ({}, {"centering": "row", "total": "sum"}, {"centering": "none", "within": 0.1, "across": 0.3}):
        energy = smooseg.EnergyLoss(
            centering=settings.get("centering", "row-keep-mean"), reduction=settings.get("total", "mean"),
            within_threshold=settings.get("within", -0.02), across_threshold=settings.get("across", 0.5))
        got = energy(features, predictor(code), pairing)
        expected = textbook_energy(features, code, predictor.student, predictor.teacher, pairing, **settings)
        for name, a, b in zip(("total", "within", "across", "data"), got, expected):
            close(f"{name} of {settings}", a, b)
        leaves = (code, predictor.student)
        for name, a, b in zip(("code", "student"), *(torch.autograd.grad(t[0], leaves) for t in (got, expected))):
            close(f"gradient of the {name} of {settings}", a, b)

    assignments = torch.softmax(torch.randn(4, 5, 6, 7, dtype=torch.float64), 1).requires_grad_()
    got = smooseg.SmoothnessLoss()(features, assignments, pairing).total()
    expected = sum(textbook_smoothness(features, assignments, pairing))
    close("smoothness", got, expected)
    close("its gradient", *(torch.autograd.grad(t, assignments)[0] for t in (got, expected)))
    assert smooseg.EnergyLoss.preset("potsdam").within_threshold == 0.1
    assert pickle.loads(pickle.dumps(energy)).centering == "none"
    for wrong, words in ((features[:3], "equal batch"), (features.flatten(1), r"\(B,C,\.\.\.\)")):
        try:
            energy(wrong, predictor(code), pairing)
        except RuntimeError as error:
            assert re.search(words, str(error)) and "Exception raised from" not in str(error), error
        else:
            raise AssertionError(f"{tuple(wrong.shape)} was taken")


def test_predictor(torch, smooseg):
    _, code, prototypes = inputs(torch)
    predictor = smooseg.PrototypePredictor(5, 8, momentum=0.9).double()
    assert list(predictor.state_dict()) == ["student", "teacher"]
    with torch.no_grad():
        predictor.student.copy_(prototypes)
    teacher = predictor.teacher.clone()
    logits = predictor(code)
    close("student", logits.student, textbook_logits(prototypes, code))
    close("teacher", logits.teacher, textbook_logits(teacher, code))
    predictor.update_teacher()
    close("moved teacher", predictor.teacher, 0.9 * teacher + 0.1 * prototypes)
    half = copy.deepcopy(predictor).to(torch.bfloat16)
    assert half.student.dtype == torch.bfloat16 and half.teacher.dtype == torch.float32
    close("teacher beside a student in half precision", half.teacher, predictor.teacher.float())


def test_projector(torch, smooseg):
    features, _, _ = inputs(torch)
    projector = smooseg.Projector(12, 8, dropout=0.5).double()
    assert list(projector.state_dict()) == [f"{layer}.{kind}" for layer in ("linear", "mlp.0", "mlp.2")
                                            for kind in ("weight", "bias")]
    generator = torch.Generator().manual_seed(7)
    output = projector(features, generator)
    generator.manual_seed(7)
    masks = [torch.empty(4, 12, dtype=torch.float64).bernoulli_(0.5, generator=generator)[:, :, None, None] / 0.5
             for _ in range(3)]
    expected = projector.linear(features * masks[0]) + projector.mlp(features * masks[1])
    close("code", output.code, expected)
    close("features", output.features, features * masks[2])
    weight = torch.randn_like(expected)
    parameters = list(projector.parameters())
    for name, a, b in zip(projector.state_dict(), *(torch.autograd.grad((z * weight).sum(), parameters)
                                                    for z in (output.code, expected))):
        close(f"gradient of {name}", a, b)
    close("code without dropout", projector.code(features), projector.linear(features) + projector.mlp(features))


def test_crf_and_scores(torch, smooseg, data):
    golden, _ = smooseg.read_safetensors(data / "crf_rgb_k5.safetensors")
    image, probabilities = golden["image_rgb"], golden["probabilities"]
    marginals = smooseg.DenseCRF(iterations=10)(image, probabilities)
    assert (marginals.argmax(0) == golden["labels_10"]).float().mean() > 0.999
    of_arrays = smooseg.DenseCRF()(image.numpy(), probabilities.numpy())
    assert (torch.from_numpy(of_arrays) == marginals).all()

    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 1]])
    predictions = torch.tensor([[2, 2, 0, 0], [1, 0, 1, 0]])
    scores = smooseg.hungarian_scores(predictions, labels, 3, 3)
    assert scores == smooseg.hungarian_scores([p.numpy() for p in predictions], [l.numpy() for l in labels], 3, 3)
    assert scores.class_of_cluster == [1, 2, 0] and scores.accuracy == 6 / 7, scores
    assert scores.iou == [1, 3 / 4, 1 / 2] and abs(scores.miou - 2.25 / 3) < 1e-12, scores


def test_models(torch, smooseg, source, folder, site, program):
    features = folder / "features"
    torch.manual_seed(0)
    things = torch.randn(3, 10)
    for i in range(4):
        shown = torch.randint(3, (5, 6))
        pixels = things[shown].permute(2, 0, 1) + 0.1 * torch.randn(10, 5, 6)
        smooseg.write_safetensors(features / f"{i}.safetensors", {"features": pixels})
    path = folder / "model.safetensors"
    said = run(sys.executable, source / "examples" / "python" / "train.py", features, "--classes", "3", "--steps", "20",
               "--out", path, env={**os.environ, "PYTHONPATH": str(site)})
    assert re.search(r"step 20  energy -?\d", said), said
    model = smooseg.load_model(path)
    assert model.step == 20 and model.settings["classes"] == "3" and len(model.classes["classes"]) == 3
    if program:  # the program reads it and writes it again, and so do we
        run(program, "convert", path, folder / "converted.safetensors")
        again = smooseg.load_model(folder / "converted.safetensors")
        smooseg.save_model(path, again)
        run(program, "convert", path, folder / "converted.safetensors")
        for part in ("projector", "predictor"):
            expected = getattr(model, part).state_dict()
            for name, tensor in getattr(smooseg.load_model(folder / "converted.safetensors"), part).state_dict().items():
                assert torch.equal(tensor, expected[name]), f"{part}.{name}"
    try:
        smooseg.load_model(features / "0.safetensors")
    except ValueError as error:
        assert "expected a file of the format" in str(error), error
    else:
        raise AssertionError("a file of features was read as a model")


def test_guides(smooseg, source, folder):
    """Their blocks of Python, those of a page one after another, with what comments before them give."""
    smooseg.save_model(folder / "best.safetensors",
                       smooseg.Model(smooseg.Projector(32, 16), smooseg.PrototypePredictor(4, 16)))
    before = os.getcwd()
    os.chdir(folder)
    try:
        for page in (source / "examples" / "python" / "README.md", source / "docs" / "python.md"):
            blocks = re.findall(r"(?:^<!-- given: (.*?) -->\n)?^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M)
            assert blocks, page
            exec(compile("\n".join(f"{given}\n{code}" for given, code in blocks), str(page), "exec"), {})
    finally:
        os.chdir(before)


def print_speed(torch, smooseg):
    """The energy and its gradient beside the textbook form's, in float32."""
    features, code = torch.randn(4, 384, 28, 28), torch.randn(4, 64, 28, 28, requires_grad=True)
    pairing, predictor, energy = smooseg.random_pairing(4), smooseg.PrototypePredictor(27, 64), smooseg.EnergyLoss()

    def seconds(total, repeats):
        best = float("inf")
        for _ in range(repeats):
            begun = time.perf_counter()
            total().backward()
            best = min(best, time.perf_counter() - begun)
        return best

    ours = seconds(lambda: energy(features, predictor(code), pairing).total, 20)
    textbook = seconds(lambda: textbook_energy(features, code, predictor.student, predictor.teacher, pairing)[0], 3)
    print(f"energy and gradient, B 4, N 784, C 384, K 27: {1e3 * ours:.1f} ms, textbook {1e3 * textbook:.1f} ms: "
          f"{textbook / ours:.1f} times")


def main():
    source, folder = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    program = sys.argv[3] if len(sys.argv) > 3 else ""
    lacks = missing()
    if lacks:
        print(f"{sys.executable} does not have {', '.join(lacks)}")
        return 1 if os.environ.get("SMOOSEG_REQUIRE_PYTHON") else SKIPPED
    site = build(source, folder)
    sys.path.insert(0, str(site))
    import smooseg
    import torch

    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    (work / "features").mkdir(parents=True)
    test_losses(torch, smooseg)
    test_predictor(torch, smooseg)
    test_projector(torch, smooseg)
    test_crf_and_scores(torch, smooseg, source / "tests" / "data")
    test_models(torch, smooseg, source, work, site, program)
    test_guides(smooseg, source, work)
    print_speed(torch, smooseg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
