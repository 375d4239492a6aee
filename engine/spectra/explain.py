"""Name the rest-frame lines that lie in the windows which a model found odd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.schema import matrix, set_column
from engine.spectra.columns import SPECTYPE, Z
from engine.spectra.lines import LINES, Line
from engine.stage import Resources, UnitTable

WINDOW_COLUMNS = ("window_wave_min", "window_wave_max")

WINDOW_LINES = Column(
    "window_lines",
    "string",
    "Lines at the catalogue's redshift within window_wave_min to window_wave_max, window by window: names with commas "
    "between, windows with bars, '-' for none; null where z is unknown",
    nullable=True,
    ucd="meta.id;spect.line",
)


_WAVES = np.array([line.wave_angstrom for line in LINES])


def line_names(
    wave_min: np.ndarray, wave_max: np.ndarray, redshift: np.ndarray, is_star: np.ndarray
) -> list[str | None]:
    """Name the lines in windows of each of some objects.

    Parameters
    ----------
    wave_min, wave_max
        [B, n] ends of the windows [Angstrom, vacuum], both included; NaN for none.
    redshift
        [B] in the frame of the windows; NaN where unknown.
    is_star
        [B] leave out forbidden lines, which stars do not have.

    Returns
    -------
    list
        As `WINDOW_LINES` says, e.g. "[O III], H β | - | Na D"; None where the redshift is not known.
    """
    stretch = 1 + redshift[:, None]
    first = np.searchsorted(_WAVES, wave_min / stretch)
    last = np.searchsorted(_WAVES, wave_max / stretch, side="right")
    last = np.where(np.isfinite(wave_min) & np.isfinite(wave_max), last, first)
    return [
        " | ".join(_names_between(*ends, star) for ends in zip(begin, end, strict=True)) if known else None
        for begin, end, star, known in zip(
            first.tolist(), last.tolist(), is_star.tolist(), np.isfinite(redshift).tolist(), strict=True
        )
    ]


@cache
def _names_between(first: int, last: int, is_star: bool) -> str:
    names = dict.fromkeys(line.name for line in LINES[first:last] if not (is_star and is_forbidden(line)))
    return ", ".join(names) or "-"


def is_forbidden(line: Line) -> bool:
    """Whether a line is a forbidden one, by its brackets."""
    return line.name.endswith("]")


@dataclass(frozen=True)
class NameLines:
    """Stage: adds `window_lines`, from the windows that a model named and the redshift.

    Parameters
    ----------
    frame
        Of the windows.
    num_windows
        How many there are.
    """

    frame: Literal["observed", "rest"]
    num_windows: int
    resources: Resources = field(default_factory=Resources)

    @classmethod
    def of(cls, frame: Literal["observed", "rest"], provided: Sequence[Column]) -> "NameLines | None":
        """Return the stage for a model that provides these columns; None if it names no windows."""
        lengths = {column.name: column.length for column in provided}
        return cls(frame, lengths[WINDOW_COLUMNS[0]]) if {*WINDOW_COLUMNS} <= lengths.keys() else None

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "name lines"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Windows, redshift and class."""
        windows = (
            Column(name, "float32", "End of a window", "Angstrom", self.num_windows)
            for name in WINDOW_COLUMNS
        )
        return (*windows, Z, SPECTYPE)

    @property
    def provides(self) -> tuple[Column, ...]:
        """Names of lines."""
        return (WINDOW_LINES,)

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        rows = table.rows
        low, high = (matrix(rows, name) for name in WINDOW_COLUMNS)
        redshift = rows["z"].to_numpy()
        if self.frame == "rest":
            redshift = np.where(np.isfinite(redshift), 0.0, np.nan)
        is_star = np.array([kind == "STAR" for kind in rows["spectype"].to_pylist()], bool)
        names = line_names(low, high, redshift, is_star)
        return table.with_rows(set_column(rows, WINDOW_LINES, pa.array(names, pa.string())))
