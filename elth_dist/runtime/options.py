"""Where a run writes."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from elth_dist.options import Options


class RunOptions(Options):
    """The run directory. Nothing is written outside it, but for decoded images where `data.cache` says so."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        default="run", description="name of the run; if not given, the configuration file's name without its ending"
    )
    dir: Path | None = Field(default=None, description="folder that everything is written to; null: runs/NAME")

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path("runs", self.name) if self.dir is None else self.dir
