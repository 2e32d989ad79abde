"""Tables and figures in the layout of the papers that they repeat: one file each. No matplotlib until one is drawn."""

import difflib
from collections.abc import Iterable

from elth_dist.errors import UserError
from elth_dist.registry import load_folder, paper_figures
from elth_dist.reporting.papers.base import Drawn, PaperFigure

__all__ = ["Drawn", "PaperFigure", "figures_named"]

load_folder(__name__, __path__)


def figures_named(names: Iterable[str]) -> list[PaperFigure]:
    """The tables and figures of these names. UserError for a name that does not exist."""
    chosen: list[PaperFigure] = []
    for name in dict.fromkeys(names):
        if name not in paper_figures:
            near = difflib.get_close_matches(name, paper_figures, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown figure {name!r}{hint}; valid are {', '.join(paper_figures)}")
        chosen.append(paper_figures[name]())
    return chosen
