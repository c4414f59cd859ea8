"""Scores of clusters that are matched with classes."""

from __future__ import annotations

from typing import List, Literal, NamedTuple, Sequence, Union

import numpy
import torch
from torch import Tensor

from . import _library

Labels = Union[Tensor, numpy.ndarray]


class Scores(NamedTuple):
    accuracy: float  #: share of the labelled pixels whose cluster has their class, 0..1
    miou: float  #: mean of `iou` over the classes that occur, 0..1
    iou: List[float]  #: of each class, 0..1; NaN where it occurs nowhere
    class_of_cluster: List[int]  #: -1: none


def hungarian_scores(predictions: Union[Labels, Sequence[Labels]], labels: Union[Labels, Sequence[Labels]],
                     num_clusters: int, num_classes: int, *, matching: Literal["hungarian", "majority"] = "hungarian",
                     absent: Literal["skip", "skip-unlabelled", "zero"] = "skip") -> Scores:
    """Matches clusters with classes, one to one, so that the most pixels are right, and scores the result.

    predictions, labels: integers of one shape, or lists of such, one for each picture. Labels outside
    [0, num_classes) are ignored. matching: "majority" gives each cluster its most frequent class. absent: of which
    classes `miou` is the mean: those that occur or are predicted, those that occur, or all.
    """
    if isinstance(predictions, (Tensor, numpy.ndarray)):
        predictions, labels = [predictions], [labels]
    if len(predictions) != len(labels):
        raise ValueError("smooseg.hungarian_scores: expected predictions and labels of the same pictures, got "
                         f"{len(predictions)} and {len(labels)}")
    pairs = [(torch.as_tensor(p), torch.as_tensor(l)) for p, l in zip(predictions, labels)]
    return Scores(*_library.scores(pairs, num_clusters, num_classes, matching, absent))
