"""The closing figure of a run: accuracy against density."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from elth_dist.reporting.tables import ResultRow

_MARKERS = "osD^vP*X<>"


def plot_top1(rows: Sequence[ResultRow], path: Path, *, title: str = "") -> None:
    """Write a PNG of top-1 accuracy over density (log scale, from dense on the left to sparse on the right).

    The levels of each architecture form a line; transfers and controls are larger markers, coloured by what they are.
    The shape of a marker tells the architecture. Rows without an accuracy or at density 0 cannot be drawn and are left
    out. Equal rows give equal bytes.
    """
    drawn = [row for row in rows if row.top1 is not None and math.isfinite(row.top1) and row.density > 0]
    shapes = {arch: _MARKERS[i % len(_MARKERS)] for i, arch in enumerate(dict.fromkeys(row.arch for row in drawn))}
    groups: dict[tuple[str, str, bool], list[ResultRow]] = {}
    for row in drawn:
        groups.setdefault((row.what, row.arch, row.level is not None), []).append(row)
    hues = dict.fromkeys((what, arch if is_level else None) for what, arch, is_level in groups)
    colours = {hue: f"C{i}" for i, hue in enumerate(hues)}

    figure = Figure(figsize=(8.4, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (what, arch, is_level), members in groups.items():
        members = sorted(members, key=lambda row: -row.density)
        axes.plot(
            [row.density for row in members],
            [100 * row.top1 for row in members if row.top1 is not None],
            color=colours[what, arch if is_level else None],
            marker=shapes[arch],
            markersize=5 if is_level else 8,
            markeredgecolor="white" if is_level else "black",
            markeredgewidth=0.6,
            linestyle="-" if is_level else "none",
            zorder=2 if is_level else 3,
            label=f"{what} ({arch})",
        )
    axes.set_xscale("log")
    lowest = min((row.density for row in drawn), default=0.1)
    axes.set_xlim(1.25, min(lowest, 0.2) / 1.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: f"{density:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("density (kept fraction of the prunable weights)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if groups:
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
