"""The model files of the program `smooseg`: safetensors with settings and classes beside the tensors."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Dict, Mapping, Tuple, Union

from torch import Tensor

from . import _library
from .modules import Projector, PrototypePredictor

_FORMAT = "smooseg model 1"
_PARTS = ("projector", "predictor", "backbone")
Path = Union[str, "os.PathLike[str]"]


def read_safetensors(path: Path) -> Tuple[Dict[str, Tensor], Dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata."""
    return _library.read_safetensors(os.fspath(path))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Writes a safetensors file, whole or not at all."""
    _library.write_safetensors(os.fspath(path), dict(tensors), dict(metadata))


@dataclasses.dataclass
class Model:
    """What `smooseg train` makes: features (B,C,h,w) become logits by `predictor(projector.code(features)).teacher`."""

    projector: Projector
    predictor: PrototypePredictor
    #: The backbone's tensors, in our names; none where features come from files.
    backbone: Dict[str, Tensor] = dataclasses.field(default_factory=dict)
    #: Options of `smooseg train`, as text: {"backbone": "dino_vits8", "resolution": "224", ...}. The backbone is that of
    #: files of features where none is named.
    settings: Dict[str, str] = dataclasses.field(default_factory=dict)
    #: What classes.json says: {"classes": [names], "colors": [[r, g, b], ...]}. Empty: names are made up.
    classes: Dict[str, Any] = dataclasses.field(default_factory=dict)
    #: Steps of training done.
    step: int = 0
    #: Other metadata of the file.
    metadata: Dict[str, str] = dataclasses.field(default_factory=dict)


def load_model(path: Path) -> Model:
    """Reads a model of `smooseg train`, without the optimiser's state. Modules are in evaluation mode."""
    tensors, metadata = read_safetensors(path)
    found = metadata.pop("format", None)
    if found != _FORMAT:
        raise ValueError(f"{path}: expected a file of the format {_FORMAT!r}, found {found!r}")
    missing = [key for key in ("settings", "classes", "step") if key not in metadata]
    if missing:
        raise ValueError(f"{path}: damaged: its metadata has no {', '.join(missing)}")
    # The checksum holds for the tensors as they are in this file.
    settings, classes, step = (metadata.pop(key) for key in ("settings", "classes", "step"))
    metadata.pop("checksum", None)
    parts: Dict[str, Dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    options = json.loads(settings)
    embed_dim, channels = parts["projector"]["linear.weight"].shape[:2]
    projector = Projector(channels, embed_dim, dropout=float(options["dropout"]))
    predictor = PrototypePredictor(*parts["predictor"]["student"].shape, momentum=float(options["momentum"]))
    projector.load_state_dict(parts["projector"])
    predictor.load_state_dict(parts["predictor"])
    return Model(projector.eval(), predictor.eval(), parts["backbone"], options, json.loads(classes), int(step), metadata)


def save_model(path: Path, model: Model) -> None:
    """Writes a file that `smooseg evaluate`, `segment` and `convert` read."""
    num_classes, embed_dim = model.predictor.student.shape
    settings = {"backbone": "features", **model.settings, "classes": str(num_classes), "embed-dim": str(embed_dim),
                "dropout": str(model.projector.dropout), "momentum": str(model.predictor.momentum)}
    classes = model.classes or {"classes": [f"class {k}" for k in range(num_classes)]}
    states = (model.projector.state_dict(), model.predictor.state_dict(), model.backbone)
    tensors = {f"{part}.{name}": tensor for part, state in zip(_PARTS, states) for name, tensor in state.items()}
    write_safetensors(path, tensors, {**model.metadata, "format": _FORMAT, "version": _library.__version__,
                                      "settings": json.dumps(settings), "classes": json.dumps(classes),
                                      "step": str(model.step)})
