"""Winning lottery tickets of ImageNet ResNets on many devices, and their elastic transformation to other depths.

The names of `__all__` are the public API; everything else is internal and may change. Importing this package imports no
torch: a name is looked up on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elth_dist.accounting.layers import count_layers
    from elth_dist.data import DataOptions, InMemory
    from elth_dist.errors import UserError
    from elth_dist.jobs.controls import Control
    from elth_dist.jobs.kinds import JobKind
    from elth_dist.jobs.methods import Method
    from elth_dist.models.build import build_model
    from elth_dist.models.family import Architecture, Family, Published
    from elth_dist.options import Options, Step
    from elth_dist.plugins import load_plugins
    from elth_dist.registry import controls, criteria, datasets, families, job_kinds, methods, optimizers, updates
    from elth_dist.runs import load_run
    from elth_dist.sparsity.criteria import Criterion, Evidence
    from elth_dist.sparsity.imported import import_masks
    from elth_dist.sparsity.masks import Masks, prunable_weights
    from elth_dist.sparsity.pruning import prune
    from elth_dist.sparsity.updates import MaskUpdate, Updater
    from elth_dist.tickets.elastic import transfer
    from elth_dist.tickets.plans import TransferPlan, plan_transfer
    from elth_dist.tickets.ticket import Ticket
    from elth_dist.training.evaluation import Evaluation, evaluate
    from elth_dist.training.masked import MaskedAdamW, MaskedSGD
    from elth_dist.training.optimizers import Optimizer

__version__ = "0.1.0"

# A new public name is one line here, one in __all__ and one above.
_HOMES = {
    "Architecture": "models.family",
    "Control": "jobs.controls",
    "Criterion": "sparsity.criteria",
    "Evaluation": "training.evaluation",
    "DataOptions": "data",
    "Evidence": "sparsity.criteria",
    "Family": "models.family",
    "InMemory": "data",
    "JobKind": "jobs.kinds",
    "MaskUpdate": "sparsity.updates",
    "MaskedAdamW": "training.masked",
    "MaskedSGD": "training.masked",
    "Masks": "sparsity.masks",
    "Method": "jobs.methods",
    "Optimizer": "training.optimizers",
    "Options": "options",
    "Published": "models.family",
    "Step": "options",
    "Ticket": "tickets.ticket",
    "TransferPlan": "tickets.plans",
    "Updater": "sparsity.updates",
    "UserError": "errors",
    "build_model": "models.build",
    "controls": "registry",
    "count_layers": "accounting.layers",
    "criteria": "registry",
    "datasets": "registry",
    "evaluate": "training.evaluation",
    "families": "registry",
    "import_masks": "sparsity.imported",
    "job_kinds": "registry",
    "load_plugins": "plugins",
    "load_run": "runs",
    "methods": "registry",
    "optimizers": "registry",
    "plan_transfer": "tickets.plans",
    "prunable_weights": "sparsity.masks",
    "prune": "sparsity.pruning",
    "transfer": "tickets.elastic",
    "updates": "registry",
}

# The packages whose built-in kinds fill a registry.
_KINDS = {
    "controls": "jobs.controls",
    "criteria": "sparsity.criteria",
    "datasets": "data",
    "families": "models.families",
    "job_kinds": "jobs.kinds",
    "methods": "jobs.methods",
    "optimizers": "training.optimizers",
    "updates": "sparsity.updates",
}

__all__ = [
    "Architecture",
    "Control",
    "Criterion",
    "DataOptions",
    "Evaluation",
    "Evidence",
    "Family",
    "InMemory",
    "JobKind",
    "MaskUpdate",
    "MaskedAdamW",
    "MaskedSGD",
    "Masks",
    "Method",
    "Optimizer",
    "Options",
    "Published",
    "Step",
    "Ticket",
    "TransferPlan",
    "Updater",
    "UserError",
    "build_model",
    "controls",
    "count_layers",
    "criteria",
    "datasets",
    "evaluate",
    "families",
    "import_masks",
    "job_kinds",
    "load_plugins",
    "load_run",
    "methods",
    "optimizers",
    "plan_transfer",
    "prunable_weights",
    "prune",
    "transfer",
    "updates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _KINDS:
        importlib.import_module(f"{__name__}.{_KINDS[name]}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
