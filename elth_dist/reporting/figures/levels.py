"""What pruning does from level to level: overlap of masks, density of layers, magnitudes and thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm

from elth_dist.reporting.figures.drawing import Curve, Drawing, Point, Scale, new_figure, panels
from elth_dist.reporting.records import Record

_LEVEL = Scale("level")


def chains(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The levels of each IMP run, in order, by a title; of several seeds, the first one's."""
    of_seed: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for record in records:
        if record.method == "imp" and record.level is not None:
            shared = (record.run, record.arch, record.dataset, *_shared(record))
            of_seed.setdefault(shared, {}).setdefault(record.seeds, []).append(record)
    found: dict[str, list[Record]] = {}
    for (run, arch, *_), seeds in of_seed.items():
        seed, members = next(iter(seeds.items()))
        starts = [record for record in members if record.level == 0]
        fractions = dict.fromkeys(record.option("prune_fraction") for record in members if record.level)
        for fraction in fractions:
            pruned = {r.level: r for r in members if r.level and r.option("prune_fraction") == fraction}
            levels = [*starts[:1], *(pruned[level] for level in sorted(pruned, key=lambda level: level or 0))]
            title = f"{arch}, {run}, seed {seed}"
            title += f", prune_fraction {fraction}" if len(fractions) > 1 else ""
            again = sum(other.startswith(title) for other in found)
            found[f"{title} ({again + 1})" if again else title] = levels
    return found


def _shared(record: Record) -> tuple[str, ...]:
    """The options that all levels of a run have in common; level 0 has none of pruning."""
    own = {name: value for name, value in record.options.items() if name.startswith("setting.") or name == "rewind"}
    return tuple(f"{name}={value}" for name, value in own.items() if name not in ("setting.seed", "setting.data_seed"))


def mask_overlap(records: Sequence[Record]) -> Drawing | None:
    """Draw the overlap of each level's masks with those of the level before: in total, and its range over layers."""
    groups = {title: levels for title, levels in chains(records).items() if any(r.overlap is not None for r in levels)}
    if not groups:
        return None
    curves: dict[str, list[Curve]] = {}
    for title, levels in groups.items():
        known = [record for record in levels if record.overlap is not None and record.layer_overlaps]
        layers = [sorted(record.layer_overlaps.values()) for record in known]
        places = {
            "lowest layer": 0.0,
            "median layer": 0.5,
            "highest layer": 1.0,
        }  # in the order of the layers' overlaps
        of_layers = [
            Curve(
                label,
                label,
                [
                    Point(_at(record), values[round(place * (len(values) - 1))])
                    for record, values in zip(known, layers, strict=True)
                ],
            )
            for label, place in places.items()
        ]
        total = [Point(_at(record), record.overlap) for record in known if record.overlap is not None]
        curves[title] = [Curve("all weights", "imp", total), *of_layers]
    return panels(
        "overlap",
        "Overlap of the masks of consecutive levels",
        curves,
        x=_LEVEL,
        y="Jaccard index",
        caption="IMP's masks are nested: the overlap is the fraction of the weights that this pruning kept.",
        clip=False,
    )


def layer_densities(records: Sequence[Record]) -> Drawing | None:
    """Draw the density of each layer over levels, as a heat map on a logarithmic scale."""
    groups = chains(records)
    groups = {title: [r for r in levels if r.layer_densities] for title, levels in groups.items()}
    groups = {title: levels for title, levels in list(groups.items())[:4] if levels}
    if not groups:
        return None
    tallest = max(len(levels[0].layer_densities) for levels in groups.values())
    figure = new_figure(min(14.0, 4.6 * len(groups) + 1.0), min(16.0, 1.4 + 0.17 * tallest))
    lowest = min(
        density for levels in groups.values() for r in levels for density in r.layer_densities.values() if density > 0
    )
    norm = LogNorm(min(lowest, 0.5), 1.0)
    grid = figure.subplots(1, len(groups), squeeze=False)
    for axes, (title, levels) in zip(grid[0], groups.items(), strict=True):
        names = list(levels[0].layer_densities)
        values = np.array([[r.layer_densities.get(name, np.nan) for r in levels] for name in names])
        shown = np.ma.masked_where(~(values > 0), values)
        colours = matplotlib.colormaps["viridis"].with_extremes(bad="white")
        image = axes.imshow(shown, aspect="auto", norm=norm, cmap=colours, interpolation="nearest")
        axes.set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names], fontsize=5.5)
        axes.set_xticks(range(len(levels)), [str(r.level) for r in levels], fontsize="small")
        axes.set_xlabel("level", fontsize="small")
        axes.set_title(title, fontsize="small")
    figure.colorbar(image, ax=list(grid[0]), label="density", fraction=0.05)
    figure.suptitle("Density of each layer", fontsize="medium")
    return Drawing("layers", "Density of each layer over levels", figure, "White: nothing is left of the layer.")


@dataclass(frozen=True)
class Magnitudes:
    """|w| of the weights that a level trained, and which of them the next pruning took."""

    level: int
    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    threshold: float | None = None
    """The largest |w| that the next level's mask prunes; None: there is no next level."""


def read_magnitudes(levels: Sequence[Record]) -> list[Magnitudes]:
    """Measure trained weights from the files of one IMP run; empty if its files are not there."""
    from elth_dist.tickets.ticket import Ticket
    from elth_dist.tickets.weights import load_weights

    found: list[Magnitudes] = []
    masks, weights = None, None
    for record in levels:
        assert record.folder is not None
        ticket, trained = record.folder / "ticket.safetensors", record.folder / "trained.safetensors"
        if not (ticket.is_file() and trained.is_file()):
            return []
        now = Ticket.load(ticket).masks
        if masks is not None and weights is not None:
            taken = [weights[name][masks[name] & ~mask].abs() for name, mask in now.items()]
            found[-1] = replace(found[-1], threshold=max((w.max().item() for w in taken if w.numel()), default=None))
        masks, weights = now, load_weights(trained)
        kept = np.concatenate([weights[name][mask].abs().double().numpy() for name, mask in masks.items()])
        kept = kept[np.isfinite(kept) & (kept > 0)]
        if kept.size == 0:
            return []
        edges = np.geomspace(max(kept.min(), 1e-6), max(kept.max(), 2e-6), 81)
        found.append(Magnitudes(record.level or 0, edges, np.histogram(kept, edges)[0]))
    return found


def magnitudes(measured: Mapping[str, Sequence[Magnitudes]]) -> Drawing | None:
    """Draw histograms of |w| of the trained weights of each level, with the threshold of the next pruning."""
    measured = {title: levels for title, levels in measured.items() if levels}
    if not measured:
        return None
    figure = new_figure(6.2 * len(measured) + 0.6, 3.8)
    grid = figure.subplots(1, len(measured), squeeze=False)
    last = max(1, *(level.level for levels in measured.values() for level in levels))
    for axes, (title, levels) in zip(grid[0], measured.items(), strict=True):
        for level in levels:
            colour = matplotlib.colormaps["viridis"](0.92 * level.level / last)
            axes.stairs(level.counts, level.edges, color=colour, label=str(level.level), linewidth=1.2)
            if level.threshold is not None:
                axes.axvline(level.threshold, color=colour, linestyle=":", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("|w| after training", fontsize="small")
        axes.set_ylabel("kept weights per bin", fontsize="small")
        axes.set_title(title, fontsize="small")
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize="small")
    legends = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in grid[0]]
    handles = {label: handle for known in sorted(legends, key=len) for label, handle in known.items()}
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right center",
        title="level",
        fontsize="small",
        frameon=False,
    )
    figure.suptitle("Magnitudes of trained weights", fontsize="medium")
    caption = "Dotted: the threshold, the largest |w| that the pruning after this level took."
    return Drawing("magnitudes", "Magnitudes of trained weights and pruning thresholds", figure, caption)


def _at(record: Record) -> float:
    return float(record.level or 0)
