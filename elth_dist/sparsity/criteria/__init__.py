"""Criteria for pruning at theta_r: one file each. No torch until scores are computed.

`variant: elth_code` is what the authors' code of E-LTH (VITA-Group/ElasticLTH) computes under the same name:

- SNIP: the gradient is summed over a whole epoch of training data, with BatchNorm in evaluation mode (running
  statistics), where the paper takes one batch in training mode.
- GraSP: the same, and weights are pruned by |w (H g)|: the sign, which is the paper's point, is lost.
- SynFlow: weights stay signed, the loss of real data replaces R, and there is one pruning: this is SNIP.
- Random: theta_r has been masked with the ticket before the masks are permuted, so that most of the kept weights are 0.

Their code also prunes one weight more than asked, and all ties with it; our counts are exact in both variants.
"""

from elth_dist.registry import load_folder
from elth_dist.sparsity.criteria.base import AnyCriterion, Criterion, Evidence

__all__ = ["AnyCriterion", "Criterion", "Evidence"]

load_folder(__name__, __path__)
