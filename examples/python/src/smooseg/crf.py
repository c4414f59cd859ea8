"""The dense CRF, which moves the borders of a segmentation to those of the picture."""

from __future__ import annotations

from typing import Literal, NamedTuple, Optional, Sequence, TypeVar, Union

import numpy
import torch
from torch import Tensor

from . import _library

Array = Union[Tensor, numpy.ndarray]
Maps = TypeVar("Maps", Tensor, numpy.ndarray)

_DEFAULTS = _library.DENSE_CRF


class PairwiseTerm(NamedTuple):
    """A kernel of the pairwise potential: a Gaussian of positions and, where `srgb` is given, of colours."""

    sxy: float  #: standard deviation of positions, in pixels
    weight: float
    srgb: Optional[float] = None  #: that of colours, in steps of 1/255


class DenseCRF:
    """The fully connected CRF of Kraehenbuehl and Koltun (2011), on the CPU. The defaults are the paper's.

        marginals = DenseCRF(iterations=10)(image, probabilities)
    """

    def __init__(self, *, iterations: int = _DEFAULTS["iterations"],
                 terms: Sequence[tuple] = tuple(PairwiseTerm(*term) for term in _DEFAULTS["terms"]),
                 normalization: Literal["symmetric", "before", "after", "none"] = _DEFAULTS["normalization"],
                 compatibility: Optional[Array] = None, min_probability: float = _DEFAULTS["min_probability"],
                 tile: int = _DEFAULTS["tile"], overlap: int = _DEFAULTS["overlap"],
                 threads: int = _DEFAULTS["threads"]) -> None:
        """compatibility: what class l (row) pays beside class l' (column), (K,K); None: 0 for l = l', else 1.
        min_probability: smaller ones count as this one. tile, overlap: pixels of the pieces that large pictures are cut
        into. threads: each works on one picture or tile at a time."""
        self._crf = _library.DenseCrf(
            iterations=iterations, terms=[tuple(PairwiseTerm(*term)) for term in terms], normalization=normalization,
            compatibility=None if compatibility is None else torch.as_tensor(compatibility),
            min_probability=min_probability, tile=tile, overlap=overlap, threads=threads)

    def __call__(self, image: Array, probabilities: Maps) -> Maps:
        """image (H,W,3) uint8 RGB with probabilities (K,H,W), or (B,H,W,3) with (B,K,H,W); sums over K are 1.

        Gives the marginals, of the probabilities' kind, shape, dtype and device. There is no gradient.
        """
        marginals = self._crf(torch.as_tensor(image), torch.as_tensor(probabilities))
        return marginals.numpy() if isinstance(probabilities, numpy.ndarray) else marginals
