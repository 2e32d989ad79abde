"""Methods: each plans the graph of jobs of a run. Every criterion and every mask update is a method too."""

from elth_dist.jobs.methods.at_density import AnyMethod, method_kinds
from elth_dist.jobs.methods.base import Method
from elth_dist.registry import load_folder

__all__ = ["AnyMethod", "Method", "method_kinds"]

load_folder(__name__, __path__)
