"""From options to the update that they describe."""

from elth_dist.errors import UserError
from elth_dist.sparsity.distributions import DISTRIBUTIONS, Distribution
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates import options as names
from elth_dist.sparsity.updates.drop_and_grow import Replacement, Rigl, Set, Snfs, random_masks
from elth_dist.sparsity.updates.options import Dynamic, steps_at
from elth_dist.sparsity.updates.periodic import Agree
from elth_dist.sparsity.updates.protocol import MaskUpdate
from elth_dist.sparsity.updates.ramp import Dpf, Gradual, Ramp


def create_update(
    options: Dynamic, dense: Masks, *, density: float, seed: int, total_steps: int, steps_per_epoch: int, agree: Agree
) -> MaskUpdate:
    """An update for one training from initialisation.

    Args:
        options: which, and how; `multiplier` has been seen to (see `stretched`).
        dense: dense masks of the network's prunable weights.
        density: kept fraction at the end, 0 < density <= 1.
        seed: of initial masks and random growth; the same on every rank.
        total_steps, steps_per_epoch: of the training.
        agree: called with the masks after each change; raises unless all ranks hold the same.

    Raises:
        UserError: the training ends before the update's own points are reached.
    """
    shapes = {name: tuple(mask.shape) for name, mask in dense.items()}

    def spread(distribution: Distribution) -> dict[str, float]:
        return DISTRIBUTIONS[distribution](shapes, density)

    match options:
        case names.Rigl() | names.Set() | names.Snfs():
            t_end = steps_at(options.t_end, total_steps, steps_per_epoch)
            replacement = Replacement(options.delta_t, options.alpha, t_end)
            masks = random_masks(dense, spread(options.distribution), seed)
            match options:
                case names.Rigl():
                    return Rigl(masks, replacement, agree)
                case names.Set():
                    return Set(masks, replacement, agree, seed)
                case names.Snfs():
                    return Snfs(masks, replacement, agree, options.momentum)
        case names.Gradual() | names.Dpf():
            begin = steps_at(options.begin, total_steps, steps_per_epoch)
            end = steps_at(options.end, total_steps, steps_per_epoch)
            if not begin < end <= total_steps:
                raise UserError(
                    f"{options.name}: its ramp goes from step {begin} (begin: {options.begin}) to step {end} "
                    f"(end: {options.end}), which must be a later one, at most the training's last, {total_steps}"
                )
            final = density if options.distribution == "global" else spread(options.distribution)
            ramp = Ramp(options.every, begin, end, final)
            return (
                Gradual(dense, ramp, agree)
                if isinstance(options, names.Gradual)
                else Dpf(dense, ramp, total_steps, agree)
            )
