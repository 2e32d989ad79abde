"""The datasets that come with the package, one per file: name, preset, checks and opening."""

from elth_dist.registry import load_folder

load_folder(__name__, __path__)
