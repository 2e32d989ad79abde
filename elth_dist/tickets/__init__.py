"""Winning tickets: the ticket and its file, and the elastic transformation to other depths."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elth_dist.tickets.elastic import transfer
    from elth_dist.tickets.plans import plan_transfer
    from elth_dist.tickets.ticket import Ticket

__all__ = ["Ticket", "plan_transfer", "transfer"]

# Looked up on first use: importing the package, for its options or plans, imports no torch.
_HOMES = {"Ticket": "ticket", "plan_transfer": "plans", "transfer": "elastic"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
