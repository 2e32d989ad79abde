"""Images for training and validation: one dataset per file in datasets/, served by one of three loaders.

The loaders (DALI, resident, synthetic) share one contract, see protocol.py. No torch is imported here.
"""

from elth_dist.data import datasets
from elth_dist.data.memory import InMemory
from elth_dist.data.options import Data, DataOptions, data_options
from elth_dist.data.tree import ImageTree

__all__ = ["Data", "DataOptions", "ImageTree", "InMemory", "data_options", "datasets"]
