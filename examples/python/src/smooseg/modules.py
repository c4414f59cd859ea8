"""Losses, predictor and projector as modules; parameters and buffers are named as in C++, so state dicts fit both.

B images of N = h w patches, C channels of features, D of the code, K classes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Optional

import torch
from torch import Tensor, nn

from . import _library

Centering = Literal["row-keep-mean", "row", "none"]
Reduction = Literal["mean", "sum"]
Evaluation = Literal["auto", "factorized", "pairwise"]

_DEFAULTS = _library.PRESETS["cityscapes"]


class SmoothnessTerms(NamedTuple):
    """The two halves of Eq. 4 and the mean penalties of their pairs; scalars."""

    within: Tensor
    across: Tensor
    within_penalty_mean: Tensor
    across_penalty_mean: Tensor

    def total(self) -> Tensor:
        return self.within + self.across


class EnergyTerms(NamedTuple):
    """Eq. 7 and its parts; scalars. `total` is what is minimised, the others are for the log."""

    total: Tensor
    within: Tensor
    across: Tensor
    data: Tensor
    within_penalty_mean: Tensor
    across_penalty_mean: Tensor


class PrototypeLogits(NamedTuple):
    """Cosine similarities of each patch's code to the prototypes, in [-1,1], (B,K,h,w)."""

    student: Tensor
    teacher: Tensor


class ProjectorOutput(NamedTuple):
    """`features`, in training after channel dropout, (B,C,h,w), and the code z, (B,D,h,w)."""

    features: Tensor
    code: Tensor


def random_pairing(batch: int, generator: Optional[torch.Generator] = None) -> Tensor:
    """Who is compared with whom: a random derangement, (B) int64 on the CPU."""
    return _library.random_pairing(batch, generator)


def soft_assignments(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Eq. 5: softmax(logits / temperature) over the classes, (B,K,...)."""
    return _library.soft_assignments(logits, temperature)


def prototype_logits(prototypes: Tensor, code: Tensor) -> Tensor:
    """Eq. 5: cosine of each prototype, (K,D), and each patch's code, (B,D,...); gives (B,K,...)."""
    return _library.prototype_logits(prototypes, code)


class SmoothnessLoss(nn.Module):
    """Eq. 4: patches that are close but have different labels cost, far ones earn.

    Arguments may be changed later, as attributes; they hold from the next call on.
    """

    def __init__(self, *, within_threshold: float = _DEFAULTS["within_threshold"],
                 across_threshold: float = _DEFAULTS["across_threshold"],
                 centering: Centering = _DEFAULTS["centering"], reduction: Reduction = _DEFAULTS["reduction"],
                 evaluation: Evaluation = _DEFAULTS["evaluation"], block_bytes: int = _DEFAULTS["block_bytes"]) -> None:
        super().__init__()
        self.within_threshold, self.across_threshold = within_threshold, across_threshold
        self.centering, self.reduction = centering, reduction
        self.evaluation, self.block_bytes = evaluation, block_bytes
        self._options()

    def _options(self) -> _library.SmoothnessOptions:
        return _library.SmoothnessOptions(
            within_threshold=self.within_threshold, across_threshold=self.across_threshold, centering=self.centering,
            reduction=self.reduction, evaluation=self.evaluation, block_bytes=self.block_bytes)

    def forward(self, features: Tensor, assignments: Tensor, pairing: Tensor) -> SmoothnessTerms:
        """features (B,C,h,w), soft assignments (B,K,h,w) and pairing (B), see `random_pairing`."""
        return SmoothnessTerms(*_library.smoothness(features, assignments, pairing, self._options()))

    def extra_repr(self) -> str:
        return f"within_threshold={self.within_threshold}, across_threshold={self.across_threshold}"


class EnergyLoss(SmoothnessLoss):
    """Eq. 7, what training minimises: smoothness of the teacher's assignments plus the data term."""

    def __init__(self, *, temperature: float = _DEFAULTS["temperature"], check_finite: bool = _DEFAULTS["check_finite"],
                 **smoothness: Any) -> None:
        super().__init__(**smoothness)
        self.temperature, self.check_finite = temperature, check_finite
        self._energy_options()

    @classmethod
    def preset(cls, name: Literal["paper", "cityscapes", "cocostuff", "potsdam"]) -> EnergyLoss:
        """The equations as printed ("paper"), or the published program's settings for a data set."""
        if name not in _library.PRESETS:
            raise ValueError(f"smooseg.EnergyLoss.preset: expected one of {', '.join(_library.PRESETS)}, got {name!r}")
        return cls(**_library.PRESETS[name])

    def _energy_options(self) -> _library.EnergyOptions:
        return _library.EnergyOptions(smoothness=self._options(), temperature=self.temperature,
                                      check_finite=self.check_finite)

    def forward(self, features: Tensor, logits: PrototypeLogits, pairing: Tensor) -> EnergyTerms:  # type: ignore[override]
        """features (B,C,h,w), both logits (B,K,h,w) of a `PrototypePredictor` and pairing (B)."""
        student, teacher = logits
        return EnergyTerms(*_library.energy(features, student, teacher, pairing, self._energy_options()))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"


class PrototypePredictor(nn.Module):
    """Eq. 5: the student's prototypes, a parameter, and the teacher's, a buffer that follows them; (K,D)."""

    def __init__(self, num_classes: int, embed_dim: int, *, momentum: float = _library.MOMENTUM) -> None:
        super().__init__()
        if num_classes < 2 or embed_dim < 1 or not 0 <= momentum <= 1:
            raise ValueError("smooseg.PrototypePredictor: expected at least 2 classes, an embed_dim of at least 1 and a "
                             f"momentum in [0,1], got {num_classes}, {embed_dim} and {momentum}")
        self.momentum = momentum
        self.student = nn.Parameter(torch.randn(num_classes, embed_dim))
        self.teacher: Tensor
        self.register_buffer("teacher", self.student.detach().clone())

    def forward(self, code: Tensor) -> PrototypeLogits:
        """code (B,D,h,w). The student's logits move its prototypes alone, the teacher's the code alone."""
        return PrototypeLogits(prototype_logits(self.student, code.detach()), prototype_logits(self.teacher, code))

    def update_teacher(self) -> None:
        """Algorithm 1: teacher <- momentum * teacher + (1 - momentum) * student."""
        _library.update_average(self.teacher, self.student, self.momentum)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> PrototypePredictor:
        # In half precision the teacher's small steps would be rounded away.
        before = self.teacher
        super()._apply(fn, *args, **kwargs)
        wide = torch.promote_types(torch.float32, self.teacher.dtype)
        if self.teacher.dtype != wide:
            self.teacher = before.to(self.teacher.device, wide)
        return self

    def extra_repr(self) -> str:
        return "num_classes={}, embed_dim={}, momentum={}".format(*self.student.shape, self.momentum)


class Projector(nn.Module):
    """From a backbone's features to the code z: a 1x1 convolution plus an MLP of two. Drops channels in training."""

    def __init__(self, in_channels: int, embed_dim: int, *, dropout: float = _library.DROPOUT) -> None:
        super().__init__()
        if in_channels < 1 or embed_dim < 1 or not 0 <= dropout < 1:
            raise ValueError("smooseg.Projector: expected in_channels and embed_dim of at least 1 and a dropout in [0,1), "
                             f"got {in_channels}, {embed_dim} and {dropout}")
        self.dropout = dropout
        self.linear = nn.Conv2d(in_channels, embed_dim, 1)
        self.mlp = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.SiLU(), nn.Conv2d(in_channels, embed_dim, 1))

    def forward(self, features: Tensor, generator: Optional[torch.Generator] = None) -> ProjectorOutput:
        """features (B,C,h,w), of the parameters' dtype; generator: source of the dropout masks."""
        linear, hidden, kept = (self._mask(features, generator) for _ in range(3))
        z = _library.project(features, linear, hidden, tuple(self.parameters()))
        return ProjectorOutput(features if kept is None else features * kept[:, :, None, None], z)

    def code(self, features: Tensor) -> Tensor:
        """z alone and without dropout, whatever the module's mode."""
        return _library.project(features, None, None, tuple(self.parameters()))

    def _mask(self, features: Tensor, generator: Optional[torch.Generator]) -> Optional[Tensor]:
        """A factor for each image's channels: 0, or what keeps the mean."""
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return features.detach().new_empty(features.shape[:2]).bernoulli_(keep, generator=generator).div_(keep)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"
