"""The console output of a run: a progress bar on a terminal, plain lines in a log."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TextIO

import rich.console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

#: Minimum time between two plain progress lines of a job, in seconds; evaluations are always shown.
LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Extent:
    """The optimizer steps that a job trains, as a part of a whole training; `total` 0: it trains nothing."""

    start: int
    total: int
    steps_per_epoch: int

    def epoch(self, step: int) -> float:
        """Convert `step` to epochs."""
        return step / self.steps_per_epoch if self.steps_per_epoch else 0.0

    def position(self, step: int) -> str:
        """Format `step` in epochs, for people."""
        return f"epoch {self.epoch(step):.2f}/{self.epoch(self.total):.4g}"


class Console(Protocol):
    """Shows one job at a time; `say` and `warn` work at any time. Text may contain any characters."""

    def start(self, job: str, title: str, extent: Extent) -> None: ...

    def progress(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


def is_terminal(stream: TextIO) -> bool:
    """Tell whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def open_console(stream: TextIO, interactive: bool | None = None) -> Console:
    """Open a console on `stream`; `interactive` None: a bar if `stream` is a terminal, else plain lines."""
    if is_terminal(stream) if interactive is None else interactive:
        return TerminalConsole(stream)
    return PlainConsole(stream)


def write_plain(stream: TextIO, text: str) -> None:
    """Write lines without control characters, in the encoding of `stream`."""
    clean = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(clean.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


_SHOWN: dict[str, Callable[[float], str]] = {
    "train/loss": lambda loss: f"loss {loss:.4f}",
    "train/top1": lambda top1: f"top-1 {100 * top1:.2f} %",
    "val/loss": lambda loss: f"val loss {loss:.4f}",
    "val/top1": lambda top1: f"val top-1 {100 * top1:.2f} %",
    "val/top5": lambda top5: f"val top-5 {100 * top5:.2f} %",
    "time/images_per_second": lambda speed: f"{speed:.0f} images/s",
    "time/data_wait_fraction": lambda share: f"data wait {100 * share:.0f} %",
}


def describe(values: Mapping[str, float]) -> list[str]:
    """Format the scalars that people follow as short texts in a fixed order; accuracies in percent."""
    return [text(values[name]) for name, text in _SHOWN.items() if name in values]


class PlainConsole:
    """Compact lines with the time of day, for the log files of torchrun and SLURM."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._job = ""
        self._extent = Extent(0, 0, 0)
        self._started = 0.0
        self._last_line = 0.0

    def start(self, job: str, title: str, extent: Extent) -> None:
        self._job, self._extent = job, extent
        self._started = self._clock()
        self._last_line = self._started
        steps = f" | steps {extent.start} to {extent.total}" if extent.total else ""
        self.say(f"{job}: {title}{steps}")

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        now = self._clock()
        evaluated = any(name.startswith("val/") for name in values)
        if not evaluated and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        parts = [self._job, self._extent.position(step), f"step {step}/{self._extent.total}", *describe(values)]
        if self._extent.start < step < self._extent.total:
            left = (now - self._started) * (self._extent.total - step) / (step - self._extent.start)
            parts.append(f"{timedelta(seconds=round(left))} left")
        self.say(" | ".join(parts))

    def finish(self) -> None:
        took = timedelta(seconds=round(self._clock() - self._started))
        self.say(f"{self._job}: done in {took}")

    def say(self, text: str) -> None:
        write_plain(self._stream, f"{time.strftime('%H:%M:%S')} {text}")

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")


class TerminalConsole:
    """One progress bar per job with the latest scalars; messages go above it."""

    def __init__(self, stream: TextIO) -> None:
        self._console = rich.console.Console(file=stream, force_terminal=True, highlight=False)
        self._bar: tuple[Progress, TaskID] | None = None
        self._extent = Extent(0, 0, 0)
        self._values: dict[str, float] = {}

    def start(self, job: str, title: str, extent: Extent) -> None:
        self._extent, self._values = extent, {}
        self.say(f"{job}: {title}")
        if not extent.total:
            return
        progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=len(job))),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True, min_width=7)),
            console=self._console,
            refresh_per_second=4,
            expand=True,
        )
        facts = extent.position(extent.start)
        task = progress.add_task(job, total=extent.total, completed=extent.start, facts=facts)
        progress.start()
        self._bar = progress, task

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self._values |= values
        if self._bar is not None:
            progress, task = self._bar
            accuracy = "val/top1" if "val/top1" in self._values else "train/top1"
            names = ("train/loss", accuracy, "time/images_per_second")
            shown = describe({name: self._values[name] for name in names if name in self._values})
            progress.update(task, completed=step, facts="  ".join([self._extent.position(step), *shown]))

    def finish(self) -> None:
        if self._bar is not None:
            progress, _ = self._bar
            self._bar = None
            progress.stop()

    def say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        self._console.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)
