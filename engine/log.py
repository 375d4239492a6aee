"""Logging and progress: one live line on a terminal, one line a minute elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

LINE_EVERY_S = 60.0


def setup(verbose: bool = False) -> None:
    """Send the project's log lines to standard error as `INFO:module: text`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in ("engine", "models", "catalogs", "jobs"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


class ProgressLine:
    """How far a job is: `infer  12/40 units  6.1k rows  2.0k rows/s  rejected 12 (0.2%)  ETA 4m`.

    Parameters
    ----------
    name
        What is being done.
    total
        Number of units to do.
    stream
        Where to write; a live line if it is a terminal.
    """

    def __init__(self, name: str, total: int, stream: TextIO | None = None) -> None:
        self.name, self.total = name, total
        self.done = self.rows = self.rejected = 0
        self._stream = stream or sys.stderr
        self._start = self._last_line = time.monotonic()
        self._live = self._make_live() if self._stream.isatty() else None

    def _make_live(self) -> Progress:
        columns = SpinnerColumn(), BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}")
        live = Progress(*columns, console=Console(file=self._stream), transient=True)
        live.add_task(self.name, total=self.total)
        return live

    def __enter__(self) -> "ProgressLine":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self.total:
            print(self.text(), file=self._stream, flush=True)

    def advance(self, rows: int = 0, rejected: int = 0) -> None:
        """Count one more unit done, with its rows."""
        self.done, self.rows, self.rejected = self.done + 1, self.rows + rows, self.rejected + rejected
        if self._live:
            self._live.update(self._live.task_ids[0], completed=self.done, description=self.text())
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(self.text(), file=self._stream, flush=True)

    def text(self) -> str:
        """Return the line as it stands now."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        seen = self.rows + self.rejected
        parts = [f"{self.name}  {self.done}/{self.total} units  {_short(self.rows)} rows"]
        parts.append(f"{_short(self.rows / elapsed)} rows/s")
        if self.rejected:
            parts.append(f"rejected {self.rejected} ({100 * self.rejected / seen:.3g}%)")
        if 0 < self.done < self.total:
            parts.append(f"ETA {_duration(elapsed / self.done * (self.total - self.done))}")
        else:
            parts.append(f"in {_duration(elapsed)}")
        return "  ".join(parts)


def _short(value: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
