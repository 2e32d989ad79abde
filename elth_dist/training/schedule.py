"""The learning rate of each optimizer step."""

import math
from collections.abc import Sequence
from typing import Literal


def learning_rate(
    step: int,
    *,
    base: float,
    total_steps: int,
    warmup_steps: int = 0,
    kind: Literal["step", "cosine"] = "step",
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Compute the learning rate of optimizer step `step`, counted from the start of a whole training (not a rewind).

    Linear warm-up from 0 at step 0 to `base` at `warmup_steps` (Goyal et al. 2017, section 2.2). Then, by `kind`:

    - "step": times `gamma` from each milestone (a step) on. A milestone within the warm-up applies during it, one past
      the end never.
    - "cosine": half a cosine from `base` at the end of the warm-up to 0 at `total_steps` (Loshchilov & Hutter 2017,
      eq. 5, without restarts).

    The end of the training cuts off a longer warm-up.
    """
    rate = base
    if step < warmup_steps:
        rate *= step / warmup_steps
    elif kind == "cosine":
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        rate *= 0.5 * (1.0 + math.cos(math.pi * done))
    if kind == "step":
        rate *= gamma ** sum(step >= milestone for milestone in milestones)
    return rate
