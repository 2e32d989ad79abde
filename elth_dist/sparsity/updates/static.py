"""Masks that do not change."""

from typing import Any

from elth_dist.sparsity.updates.updater import Updater


class StaticMask(Updater):
    """Keep the masks as they are: every ticket's training, and with dense masks any dense one."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"static masks have no state, but a checkpoint holds {sorted(state)}"
