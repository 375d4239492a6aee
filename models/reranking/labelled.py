"""What all methods of re-ranking share: labelled rows, sums over a catalogue, checks."""

# B rows, K labelled rows, D features

from dataclasses import dataclass
from typing import Protocol

import numpy as np

MIN_LABEL, MAX_LABEL = 0.0, 5.0
"""What people may give: 0 is boring, 5 is what they look for (Lochner & Bassett 2021)."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows that people have judged.

    Parameters
    ----------
    features
        float32 [K, D], finite.
    labels
        float64 [K], 0 to 5.

    Raises
    ------
    ValueError
        If there is none, a label is out of range or a feature is not finite.
    """

    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Check that there is something to learn from."""
        if not len(self.labels) or len(self.labels) != len(self.features):
            raise ValueError(
                f"{len(self.labels)} labels of {len(self.features)} rows; at least one is needed"
            )
        if not ((self.labels >= MIN_LABEL) & (self.labels <= MAX_LABEL)).all():
            raise ValueError(f"labels must be {MIN_LABEL:g} to {MAX_LABEL:g}")
        check_finite(self.features)


@dataclass(frozen=True)
class Totals:
    """Sums over all rows of a catalogue that a score of one row depends on; can be added.

    Parameters
    ----------
    num_rows
        Rows.
    distance_sum
        Of distances to the nearest labelled row.
    score_min, score_max
        Of the raw score.
    """

    num_rows: int = 0
    distance_sum: float = 0.0
    score_min: float = np.inf
    score_max: float = -np.inf

    def __add__(self, other: "Totals") -> "Totals":
        """Totals of both sets of rows."""
        return Totals(
            self.num_rows + other.num_rows,
            self.distance_sum + other.distance_sum,
            min(self.score_min, other.score_min),
            max(self.score_max, other.score_max),
        )


class Reranker(Protocol):
    """A method that has learned from labels."""

    def totals(self, features: np.ndarray, score: np.ndarray) -> Totals:
        """Sum over a part of the rows: features [B, D], raw score [B]."""
        ...

    def apply(self, features: np.ndarray, score: np.ndarray, totals: Totals) -> dict[str, np.ndarray]:
        """Columns of a part of the rows, float32 [B] each, given the totals of all rows."""
        ...


def check_finite(features: np.ndarray) -> None:
    """Refuse features that are not numbers, `ValueError` naming the first row."""
    finite = np.isfinite(features).all(1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} rows have features that are not finite, the first at {int(finite.argmin())}"
        )
