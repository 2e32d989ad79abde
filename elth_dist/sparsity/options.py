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
        description="'global': the total density, scores of all layers compete; 'layerwise': each layer's, as the "
        "ticket has it (or all alike)",
    )


class Magnitude(_Scored):
    """|w|."""

    name: Literal["magnitude"] = "magnitude"


class Snip(_Scored):
    """|w g|, g being the gradient of the loss (Lee et al. 2019)."""

    name: Literal["snip"] = "snip"
    variant: Variant = Field(
        default="published",
        description="'elth_code': g over an epoch, BatchNorm with its running statistics, as E-LTH's authors' code",
    )
    batches: _Batches = Field(
        default=None, description="global batches that g is averaged over; null: 1 (elth_code: an epoch)"
    )


class Grasp(_Scored):
    """w (H g), signed, H being the Hessian of the loss: the lowest are pruned (Wang et al. 2020)."""

    name: Literal["grasp"] = "grasp"
    variant: Variant = Field(
        default="published",
        description="'elth_code': |w (H g)| over an epoch, BatchNorm with its running statistics, as E-LTH's code",
    )
    batches: _Batches = Field(
        default=None,
        description="global batches averaged over; null: enough for ten samples a class (elth_code: an epoch)",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(default=200.0, description="what logits are divided by")


class Synflow(_Scored):
    """|w dR/dw|, R being the output of the network with absolute weights for an image of ones (Tanaka et al. 2020)."""

    name: Literal["synflow"] = "synflow"
    variant: Variant = Field(
        default="published",
        description="'elth_code': what E-LTH's authors' code computes by this name, which is its SNIP to the bit",
    )
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="prunings that lead to the density exponentially (elth_code: always one)"
    )


class Random(_Scored):
    """Scores drawn at random."""

    name: Literal["random"] = "random"
    matched: Matched = Field(
        default="layerwise",
        description="'layerwise': each layer's density, as the ticket has it (the paper's Random); 'global': the total",
    )


Criterion = Magnitude | Snip | Grasp | Synflow | Random
