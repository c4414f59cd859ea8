"""Files exchanged with Python's programs, in both directions.

    python_files.py safetensors|torch PROGRAM DATA    PROGRAM: copy_tensors; DATA: the folder of golden files

Python writes, our reader and writer copy, Python compares every bit. Ends with 77, for "skipped", where this Python does
not have the package; with SMOOSEG_REQUIRE_PYTHON set that is a failure.
"""

import collections
import importlib.util
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77
# numpy's dtypes, by the release of LibTorch from which on our readers know them.
NUMPY_DTYPES = {
    (1, 13): {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1",
              "BOOL": "?", "C64": "c8"},
    (2, 3): {"U64": "u8", "U32": "u4", "U16": "u2"},
}
NEWER_DTYPES = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


class Program:
    """copy_tensors, and a folder to work in."""

    def __init__(self, path, folder):
        self.folder = pathlib.Path(folder)
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.libtorch = tuple(int(number) for number in self.process.stdout.readline().split(".")[:2])

    def close(self):
        self.process.stdin.close()
        assert self.process.wait() == 0, f"{self.process.args[0]} ended with {self.process.returncode}"

    def error(self, source):
        """What copying says where it must not succeed."""
        answer = self.answer(source, self.folder / "copy.safetensors")
        assert answer != "copied", f"{source}: was read"
        return answer

    def copy(self, source, suffix=".safetensors"):
        target = self.folder / f"copy{suffix}"
        answer = self.answer(source, target)
        assert answer == "copied", answer
        return target

    def answer(self, source, target):
        print(source, target, sep="\n", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().rstrip("\n")
        assert answer, f"{source}: the program ended"
        return answer


def header_of(content):
    """A safetensors header, read with nothing but Python's own JSON."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


# ------------------------------------------------------------------------------------------------------- safetensors


def check_safetensors_copy(program, source):
    import safetensors

    def entries(path):
        content = path.read_bytes()
        # Python's writer orders by alignment and name, ours too: what counts is what stands under each name.
        tensors = {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in safetensors.deserialize(content)}
        return tensors, header_of(content).get("__metadata__", {})

    expected, got = entries(source), entries(program.copy(source))
    assert expected[0].keys() == got[0].keys(), f"{source}: {expected[0].keys()} became {got[0].keys()}"
    for name, tensor in expected[0].items():
        assert tensor == got[0][name], f"{source}: tensor {name}: {str(tensor)[:200]} became {str(got[0][name])[:200]}"
    assert expected[1] == got[1], f"{source}: metadata {expected[1]} became {got[1]}"


def test_safetensors(program, data):
    import numpy
    import safetensors.numpy

    path = program.folder / "python.safetensors"

    def write(tensors, metadata=None):
        safetensors.numpy.save_file(tensors, path, metadata)
        return path

    shapes = [(), (0,), (3,), (2, 0, 5), (2, 3), (1, 2, 1, 3)]
    for release, dtypes in NUMPY_DTYPES.items():
        known = program.libtorch >= release
        for name, dtype in dtypes.items():
            tensors = {str(s): numpy.arange(1, 1 + numpy.prod(s, dtype=int)).astype(dtype).reshape(s) for s in shapes}
            if known:
                check_safetensors_copy(program, write(tensors))
                continue
            error = program.error(write({"x": tensors["(3,)"]}))
            expected = f"{path}: tensor 'x' has dtype {name}, which cannot be read with LibTorch "
            assert error.startswith(expected), error
    mixed = {dtype: numpy.arange(5).astype(dtype) for dtype in NUMPY_DTYPES[1, 13].values()}
    check_safetensors_copy(program, write(mixed))

    one = numpy.ones(2, numpy.float32)
    metadata = {"": "", "format": "np", "quotes": '"\\/\b\f\n\r\t\x01\x7f', "日本": "é🙂"}
    names = ["", "a.b", "nämé", 'a"quoted"\\name\n', "🙂" * 100]
    check_safetensors_copy(program, write({name: one for name in names}, metadata))
    check_safetensors_copy(program, write({}, {"only": "metadata"}))
    check_safetensors_copy(program, write({"large": numpy.arange(20_000_000).astype("u1"), "odd": one.astype("u1")}))
    for golden in sorted(data.glob("*.safetensors")):
        check_safetensors_copy(program, golden)


# -------------------------------------------------------------------------------------------------------------- torch


class Skipped:
    """Stands for objects of classes that are not there, with whatever they are made of."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def append(self, item):
        pass

    def __setitem__(self, key, value):
        pass


class LenientPickle:
    """A `pickle_module` for torch.load that replaces unknown classes by `Skipped`."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return Skipped

    load = staticmethod(lambda *args, **kwargs: pickle.load(*args))


def flattened(value, name="", out=None):
    """The tensors in dicts, lists and tuples by their joined keys."""
    import torch

    out = {} if out is None else out
    if isinstance(value, torch.Tensor):
        out[name] = value.detach()
    elif type(value) in (dict, collections.OrderedDict, collections.defaultdict):
        for key, item in value.items():
            flattened(item, f"{name}.{key}" if name else str(key), out)
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            flattened(item, f"{name}.{i}" if name else str(i), out)
    return out


def check_same_tensors(source, expected, got):
    import torch

    def bits(tensor):
        tensor = tensor.resolve_conj().resolve_neg()
        if tensor.dtype in (torch.complex32, torch.complex128):
            tensor = torch.view_as_real(tensor)
        return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()

    assert expected.keys() == got.keys(), f"{source}: {sorted(expected)} became {sorted(got)}"
    for name in expected:
        assert bits(expected[name]) == bits(got[name]), f"{source}: {name}: {expected[name]} became {got[name]}"


def check_torch_copy(program, source, expected):
    import safetensors.torch
    import torch
    import torch.jit._pickle  # what torch::pickle_save names

    check_same_tensors(source, expected, safetensors.torch.load_file(program.copy(source)))
    # ... and the .pth that C++ makes of it, where Python knows the storages' names.
    if any(t.dtype == torch.complex32 or str(t.dtype)[6:] in NEWER_DTYPES for t in expected.values()):
        return
    with torch.serialization.safe_globals([torch.jit._pickle.restore_type_tag]):
        saved = torch.load(program.copy(source, ".pth"), weights_only=True)
    check_same_tensors(source, expected, saved)
    check_same_tensors(source, expected, safetensors.torch.load_file(program.copy(program.folder / "copy.pth")))


def torch_objects():
    import torch

    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
              torch.int8, torch.uint8, torch.bool, torch.complex128, torch.complex64, torch.complex32]
    yield "dtypes", {str(d)[6:]: torch.arange(-3, 4).to(d) for d in dtypes}

    base = torch.arange(60.0)
    views = {"all": base, "slice": base[7:20:3], "matrix": base.view(3, 4, 5).permute(2, 0, 1), "scalar": base[59],
             "expanded": base[2].expand(2, 3), "empty": base[10:10], "window": base.as_strided((4, 3), (2, 1), 5)}
    yield "views", views
    number = torch.tensor([1 + 2j, -3j])
    yield "lazy", {"conj": number.conj(), "both": [number, number.conj()], "neg": number.clone().conj().imag}

    parameter = torch.nn.Parameter(torch.ones(2, 2))
    with_attribute, tensor_with_attribute = torch.nn.Parameter(torch.ones(3)), torch.zeros(3)
    with_attribute.no_decay = tensor_with_attribute.note = True
    yield "wrapped", {"p": parameter, "q": with_attribute, "t": tensor_with_attribute, "frozen": torch.nn.Parameter(
        torch.arange(3), requires_grad=False)}

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    yield "training", {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "big": 2**70,
                       "negative": -(2**40), "loss": [0.5, None, "text", b"bytes", {1, 2}, bytearray(b"x")],
                       "nested": ({"a": [torch.ones(1), (torch.zeros(2),)]}, collections.defaultdict(list, x=[base[:2]]))}
    yield "alone", torch.ones(2)
    yield "large", {"large": torch.arange(5_000_000.0), "tail": torch.ones(3)}


def save(path, value, **options):
    import torch

    torch.save(value, path, **options)
    return path


def test_torch(program, data):
    import safetensors.torch
    import torch

    path = program.folder / "python.pth"
    for name, value in torch_objects():
        expected = flattened(value)
        for protocol in range(1, 6):
            check_torch_copy(program, save(path, value, pickle_protocol=protocol), expected)
        if name not in ("dtypes", "lazy"):  # this format has none but typed storages, and no lazy conjugates
            for protocol in (1, 2, 4):
                check_torch_copy(
                    program, save(path, value, pickle_protocol=protocol, _use_new_zipfile_serialization=False), expected)
    torch.serialization.set_crc32_options(False)
    check_torch_copy(program, save(path, {"w": torch.ones(3)}), {"w": torch.ones(3)})

    for dtype in NEWER_DTYPES:
        value = {"x": torch.arange(6).to(getattr(torch, dtype))}
        save(path, value)
        if program.libtorch >= (2, 3):
            check_torch_copy(program, path, value)
            safetensors.torch.save_file(value, path)
            check_torch_copy(program, path, value)
        else:
            error = program.error(path)
            expected = f"{path}: tensor 'x' has dtype torch.{dtype}, which cannot be read with LibTorch "
            assert error.startswith(expected), error

    matrix = torch.eye(2)
    for kind, value in {"sparse_tensor": matrix.to_sparse(), "qtensor": torch.quantize_per_tensor(
            matrix, 0.1, 0, torch.qint8), "meta_tensor_no_storage": torch.zeros(2, device="meta")}.items():
        error = program.error(save(path, {"x": value}))
        assert error.startswith(f"{path}: tensor 'x' was saved by torch._utils._rebuild_{kind}: only dense"), error

    checkpoints = sorted([*data.glob("*.pth"), *data.glob("*.ckpt")])
    assert checkpoints, f"no checkpoints in {data}"
    for golden in checkpoints:
        loaded = torch.load(io.BytesIO(golden.read_bytes()), weights_only=False, pickle_module=LenientPickle)
        expected = flattened(loaded)
        if program.libtorch < (2, 3) and any(str(t.dtype)[6:] in NEWER_DTYPES for t in expected.values()):
            assert "which cannot be read with LibTorch" in program.error(golden)
        else:
            check_torch_copy(program, golden, expected)


def main():
    package, program, data = sys.argv[1:]
    needed = {"safetensors": ["safetensors", "numpy"], "torch": ["torch", "safetensors", "numpy"]}[package]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing and package == "torch":
        import torch

        if not hasattr(torch.serialization, "set_crc32_options"):
            missing = ["a torch of 2.6 or newer"]
    if missing:
        print(f"{sys.executable} does not have {', '.join(missing)}")
        return 1 if os.environ.get("SMOOSEG_REQUIRE_PYTHON") else SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        program = Program(program, folder)
        {"safetensors": test_safetensors, "torch": test_torch}[package](program, pathlib.Path(data))
        program.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
