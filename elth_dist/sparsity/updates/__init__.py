"""Mask updates, which change masks during training: one file each. No torch until an updater is created."""

from elth_dist.registry import load_folder
from elth_dist.sparsity.updates.base import AnyMaskUpdate, MaskUpdate
from elth_dist.sparsity.updates.updater import Agree, Updater

__all__ = ["Agree", "AnyMaskUpdate", "MaskUpdate", "Updater"]

load_folder(__name__, __path__)
