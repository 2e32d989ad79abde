"""Masks that do not change."""

from typing import Any

from elth_dist.sparsity.updates.updater import Updater


class StaticMask(Updater):
    """Keep the masks: for training tickets and, with dense masks, dense networks."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"static masks have no state, but a checkpoint holds {sorted(state)}"
