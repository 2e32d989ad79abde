"""The datasets that come with the package, one per file: what each is called, fills in, checks and opens."""

from elth_dist.registry import load_folder

load_folder(__name__, __path__)
