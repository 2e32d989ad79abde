"""Controls, which a ticket is compared with at its density: one file each. Criteria and mask updates are too."""

from elth_dist.jobs.controls.base import Alteration, AnyControl, Control, Place, control_kinds, plan_control
from elth_dist.registry import load_folder

__all__ = ["Alteration", "AnyControl", "Control", "Place", "control_kinds", "plan_control"]

load_folder(__name__, __path__)
