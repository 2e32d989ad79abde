"""Optimizers as options: one file per kind, no torch. A new file here is a new value of `train.optimizer`."""

from elth_dist.registry import load_folder
from elth_dist.training.optimizers.base import Optimizer

load_folder(__name__, __path__)

__all__ = ["Optimizer"]
