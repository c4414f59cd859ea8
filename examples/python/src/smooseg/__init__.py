"""SmooSeg's losses for PyTorch: unsupervised semantic segmentation, computed by the C++ library smooseg."""

from ._library import __version__
from .crf import DenseCRF, PairwiseTerm
from .metrics import Scores, hungarian_scores
from .models import Model, load_model, read_safetensors, save_model, write_safetensors
from .modules import (EnergyLoss, EnergyTerms, Projector, ProjectorOutput, PrototypeLogits, PrototypePredictor,
                      SmoothnessLoss, SmoothnessTerms, prototype_logits, random_pairing, soft_assignments)

__all__ = ["DenseCRF", "EnergyLoss", "EnergyTerms", "Model", "PairwiseTerm", "Projector", "ProjectorOutput",
           "PrototypeLogits", "PrototypePredictor", "Scores", "SmoothnessLoss", "SmoothnessTerms", "__version__",
           "hungarian_scores", "load_model", "prototype_logits", "random_pairing", "read_safetensors", "save_model",
           "soft_assignments", "write_safetensors"]
