"""From options to the update that they describe."""

from elth_dist.sparsity.distributions import DISTRIBUTIONS, Distribution
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates import options as names
from elth_dist.sparsity.updates.base import MaskUpdate
from elth_dist.sparsity.updates.drop_and_grow import Replacement, Rigl, Set, Snfs, random_masks
from elth_dist.sparsity.updates.options import Dynamic, steps_at
from elth_dist.sparsity.updates.periodic import Agree
from elth_dist.sparsity.updates.ramp import Dpf, Gradual, Ramp


def create_update(
    options: Dynamic, dense: Masks, *, density: float, seed: int, total_steps: int, steps_per_epoch: int, agree: Agree
) -> MaskUpdate:
    """An update for one training from initialisation.

    Args:
        options: which, and how; `stretched` already.
        dense: dense masks of the network's prunable weights.
        density: kept fraction at the end, 0 < density <= 1.
        seed: of initial masks and random growth; the same on every rank.
        total_steps, steps_per_epoch: of the training.
        agree: called with the masks after each change; raises unless all ranks hold the same.

    Raises:
        UserError: the training does not reach the end of the ramp.
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
            final = density if options.distribution == "global" else spread(options.distribution)
            ramp = Ramp(options.every, *options.ramp(total_steps, steps_per_epoch), final)
            return (
                Gradual(dense, ramp, agree)
                if isinstance(options, names.Gradual)
                else Dpf(dense, ramp, total_steps, agree)
            )
