"""How a config names what masks are chosen by. No torch here.

Criteria are those of the papers. `variant: elth_code` is what the authors' code of E-LTH (VITA-Group/ElasticLTH)
computes by the same name, which differs:

- SNIP: the gradient is summed over a whole epoch of training data, with BatchNorm in evaluation mode (running
  statistics), where the paper takes one batch in training mode.
- GraSP: the same, and weights go by |w (H g)|: the sign, which is the paper's point, is lost.
- SynFlow: weights stay signed, the loss of real data takes the place of R, and there is one pruning: SNIP, by name.

Their code also prunes one weight more than asked, and all ties with it; our counts are exact in both variants.
"""

from typing import Annotated, Literal

from pydantic import Field

from elth_dist.options import Options

Matched = Literal["global", "layerwise"]
Variant = Literal["published", "elth_code"]

_Batches = Annotated[int, Field(ge=1, le=1 << 20)] | None


class _Scored(Options):
    """A criterion that scores every prunable weight; the lowest scores are pruned."""

    matched: Matched = Field(
        default="global",
        description="what has the given density: global: all layers together, whose scores compete; layerwise: each "
        "layer its density in the ticket (without a ticket: all the same)",
    )


class Magnitude(_Scored):
    """|w|."""

    name: Literal["magnitude"] = "magnitude"


class Snip(_Scored):
    """|w g|, g being the gradient of the loss (Lee et al. 2019)."""

    name: Literal["snip"] = "snip"
    variant: Variant = Field(
        default="published",
        description="elth_code: g summed over an epoch, BatchNorm with running statistics, as in E-LTH's code",
    )
    batches: _Batches = Field(
        default=None, description="number of global batches that g is averaged over; null: 1 (elth_code: one epoch)"
    )


class Grasp(_Scored):
    """w (H g), signed, H being the Hessian of the loss: the lowest are pruned (Wang et al. 2020)."""

    name: Literal["grasp"] = "grasp"
    variant: Variant = Field(
        default="published",
        description="elth_code: |w (H g)| over an epoch, BatchNorm with running statistics, as in E-LTH's code",
    )
    batches: _Batches = Field(
        default=None,
        description="number of global batches averaged over; null: ten samples per class (elth_code: one epoch)",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=200.0, description="temperature that logits are divided by"
    )


class Synflow(_Scored):
    """|w dR/dw|, R being the output of the network with absolute weights for an image of ones (Tanaka et al. 2020)."""

    name: Literal["synflow"] = "synflow"
    variant: Variant = Field(
        default="published",
        description="elth_code: as in E-LTH's code, where it equals its SNIP to the bit",
    )
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="number of prunings, with densities that fall exponentially (elth_code: always one)"
    )


class Random(_Scored):
    """Scores drawn at random."""

    name: Literal["random"] = "random"
    matched: Matched = Field(
        default="layerwise",
        description="what has the given density: layerwise: each layer its density in the ticket (the paper's Random); "
        "global: all layers together",
    )


Criterion = Magnitude | Snip | Grasp | Synflow | Random
