"""A criterion from outside: Wanda (Sun et al. 2024), |w| times the norm of the input that w multiplies.

    python -m elth_dist.train --plugins examples/criterion.py --config configs/quickstart.yaml \
        --method '{name: wanda, density: 0.1, rewind: 1ep}'

Registered once, it is a method of its own, a control (`controls: [wanda]`), an entry of --help and a row of the report.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist import Criterion, Evidence, criteria

if TYPE_CHECKING:
    from torch import Tensor


@criteria.add
class Wanda(Criterion):
    """Wanda: |w| ||x||, x being the input channel of the weight over a few batches (Sun et al. 2024, equation 1)."""

    label: ClassVar[str] = "Wanda"
    name: Literal["wanda"] = "wanda"
    batches: int = Field(default=1, ge=1, description="global batches that the norm is taken over")

    def scores(self, evidence: Evidence) -> "dict[str, Tensor]":
        norms = evidence.input_norms(batches=self.batches)
        return {name: (weight.detach().abs() * norms[name]).float() for name, weight in evidence.weights.items()}
