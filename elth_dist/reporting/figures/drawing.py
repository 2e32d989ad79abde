"""A figure that can be written as PNG and SVG, and the panels of curves that most figures are."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from elth_dist.reporting.figures.style import DASHES, shade, style_of
from elth_dist.runtime.files import write_atomically

#: Equal results give equal bytes.
_FIXED = {"svg.hashsalt": "elth_dist", "svg.fonttype": "path"}


@dataclass(frozen=True)
class Drawing:
    """A figure with its name and what to say about it."""

    name: str
    """Name of its files."""
    title: str
    figure: Figure
    caption: str = ""

    def png(self) -> bytes:
        """The figure as PNG, 150 pixels an inch."""
        return self._bytes("png", {"Software": None})

    def svg(self) -> bytes:
        """The figure as SVG, text as outlines."""
        return self._bytes("svg", {"Date": None, "Creator": None})

    def save(self, folder: Path) -> None:
        """Write NAME.png and NAME.svg."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.name}.png", self.png())
        write_atomically(folder / f"{self.name}.svg", self.svg())

    def renamed(self, name: str) -> "Drawing":
        """The same figure with another name of its files."""
        return replace(self, name=name)

    def _bytes(self, form: str, metadata: Mapping[str, str | None]) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(_FIXED):
            self.figure.savefig(buffer, format=form, metadata=dict(metadata))
        return buffer.getvalue()


@dataclass(frozen=True)
class Point:
    """A mean over seeds."""

    x: float
    y: float
    deviation: float | None = None
    failed: bool = False
    """Whether it diverged or guesses: it does not stretch the axis."""


@dataclass(frozen=True)
class Curve:
    """Points of one method in one panel; curves with the same label have the same look in all panels."""

    label: str
    method: str
    points: Sequence[Point]
    joined: bool = True
    """Whether a line joins the points."""
    marked: bool = True
    """Whether each point has a marker."""


@dataclass(frozen=True)
class Scale:
    """The x axis of panels."""

    label: str
    log: bool = False
    reverse: bool = False


#: Density, from dense on the left to sparse on the right.
DENSITY = Scale("density (kept fraction of the prunable weights)", log=True, reverse=True)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    name: str,
    title: str,
    curves: Mapping[str, Sequence[Curve]],
    *,
    x: Scale,
    y: str = "top-1 accuracy (%)",
    caption: str = "",
    columns: int = 3,
    clip: bool = True,
) -> Drawing:
    """Draw curves in panels with one legend below them.

    Args:
        name: of the files.
        title: of the figure.
        curves: by the panel's title.
        x: the axis that all panels have.
        y: its label.
        caption: what to say about the figure.
        columns: panels next to each other, at most.
        clip: cut off points that diverged or guess; the figure says so.
    """
    across = max(1, min(columns, len(curves)))
    down = max(1, math.ceil(len(curves) / across))
    looks = _looks([curve for members in curves.values() for curve in members])
    rows = math.ceil(len(looks) / _legend_columns(across, looks))
    figure = new_figure(7.0 if across == 1 else 4.1 * across, (3.6 if across == 1 else 3.1) * down + 0.2 * rows + 0.5)
    figure.suptitle(title, fontsize="medium")
    grid = figure.subplots(down, across, squeeze=False)
    cut, extent = 0, [point.x for members in curves.values() for curve in members for point in curve.points]
    for place, (heading, members) in enumerate(curves.items()):
        axes = grid[place // across][place % across]
        axes.set_title(heading, fontsize="medium")
        cut += _panel(axes, members, looks, clip=clip)
        _x_axis(axes, x, extent)
        if place % across == 0:
            axes.set_ylabel(y)
    for place in range(len(curves), down * across):
        grid[place // across][place % across].set_axis_off()
    handles = [_handle(label, *look) for label, look in looks.items()]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=_legend_columns(across, looks),
            fontsize="small",
            frameon=False,
        )
    if cut:
        what = "point that diverged or guesses" if cut == 1 else "points that diverged or guess"
        caption += f" Cut off: {cut} {what}, as triangles with numbers at the lower edge."
    return Drawing(name, title, figure, caption.strip())


_Look = tuple[str, str, str, bool, bool]


def _looks(curves: Sequence[Curve]) -> dict[str, _Look]:
    """Colour, marker, dashes, and whether lines and markers are drawn, by label."""
    looks: dict[str, _Look] = {}
    used: dict[str, int] = {}
    for curve in curves:
        if curve.label not in looks:
            variation = used.setdefault(curve.method, 0)
            used[curve.method] += 1
            colour, marker = style_of(curve.method)
            dashes = DASHES[variation % len(DASHES)] if curve.joined else "none"
            looks[curve.label] = (shade(colour, variation), marker, dashes, curve.marked, variation % 2 == 0)
    return looks


def _legend_columns(across: int, looks: Mapping[str, _Look]) -> int:
    longest = max(map(len, looks), default=1)
    inches = 7.0 if across == 1 else 4.1 * across
    return max(1, min(len(looks), int(inches / (0.064 * longest + 0.5))))


def _handle(label: str, colour: str, marker: str, dashes: str, marked: bool, filled: bool) -> Line2D:
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker if marked else "none",
        linestyle=dashes,
        markersize=6,
        markerfacecolor=colour if filled else "white",
        label=label,
    )


def _panel(axes: Axes, curves: Sequence[Curve], looks: Mapping[str, _Look], *, clip: bool) -> int:
    """Draw one panel; return how many points were cut off."""
    points = [point for curve in curves for point in curve.points if math.isfinite(point.y)]
    floor = lower_end(points) if clip else -math.inf
    below = 0
    for curve in curves:
        colour, marker, dashes, marked, filled = looks[curve.label]
        known = sorted((point for point in curve.points if math.isfinite(point.y)), key=lambda point: point.x)
        shown = [point for point in known if point.y >= floor]
        axes.errorbar(
            [point.x for point in shown],
            [point.y for point in shown],
            yerr=[point.deviation or 0.0 for point in shown] if any(point.deviation for point in shown) else None,
            color=colour,
            marker=marker if marked else "none",
            linestyle=dashes,
            markersize=5,
            markerfacecolor=colour if filled else "white",
            linewidth=1.3,
            capsize=2,
            elinewidth=0.9,
            zorder=3 if curve.joined else 4,
        )
        for point in (point for point in known if point.y < floor):
            below += 1
            axes.plot([point.x], [0.02], marker="v", color=colour, markersize=7, transform=axes.get_xaxis_transform())
            axes.annotate(
                f"{point.y:.1f}",
                (point.x, 0.03),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 4 + 9 * ((below - 1) % 3)),
                textcoords="offset points",
                ha="center",
                fontsize="x-small",
                color=colour,
            )
    if below:
        shown_y = [point.y for point in points if point.y >= floor]
        span = max(max(shown_y) - min(shown_y), 1.0)
        axes.set_ylim(min(shown_y) - 0.2 * span, max(shown_y) + 0.06 * span)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize="small")
    return below


def lower_end(points: Sequence[Point]) -> float:
    """The lowest y that is drawn: failed points below all others are cut off."""
    kept = [point.y for point in points if not point.failed]
    return min(kept) if kept and min(point.y for point in points) < min(kept) else -math.inf


def _x_axis(axes: Axes, x: Scale, values: Sequence[float]) -> None:
    axes.set_xlabel(x.label, fontsize="small")
    if x.log:
        axes.set_xscale("log")
        low, high = min(values, default=0.1), max(values, default=1.0)
        if high < 2 * low:
            low, high = low / 1.5, high * 1.5
        margin = (high / low) ** 0.05
        axes.set_xlim(low / margin, high * margin)
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif all(float(value).is_integer() for value in values):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x.reverse:
        axes.invert_xaxis()
