"""What a score is worth: percentile and tail probability among held-out normal objects of the class.

Inside the calibration sample the distribution is a table of quantiles; beyond its upper part a generalised
Pareto tail, so that extremes do not tie. All scores are oriented so that high means anomalous.
"""

# N calibration rows, S scores, K classes, Q quantile levels

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CLASSES = ("GALAXY", "QSO", "STAR", "all")
"""Order of the classes of spectra in the tables; the last, `all`, is the fallback."""

LEVELS = np.concatenate([np.linspace(0, 0.99, 100), 1 - np.logspace(-2, -4, 41)[1:], [1.0]])
"""Cumulative probabilities at which quantiles are kept: finer where it matters."""

TAIL_FRACTION = 0.02
"""The tail is fitted to this fraction of the calibration sample."""

MIN_EXCEEDANCES = 10
MAX_SHAPE = 0.9
"""Probability-weighted moments exist for a shape below 1."""


class Tail(NamedTuple):
    """Generalised Pareto tail: P(score > threshold + y) = fraction * (1 + shape y / scale)^(-1/shape)."""

    threshold: float
    fraction: float
    scale: float
    shape: float


def fit_tail(scores: np.ndarray, fraction: float = TAIL_FRACTION) -> Tail:
    """Fit the upper tail by probability-weighted moments.

    Parameters
    ----------
    scores
        [N] finite, high = anomalous.
    fraction
        Part of the sample that is tail; raised so that at least `MIN_EXCEEDANCES` rows are.

    Returns
    -------
    Tail
        With shape in [0, `MAX_SHAPE`]. A negative shape would mean a largest possible score, beyond which
        all would tie with p = 0: there the exponential (shape 0) is used, which errs to caution.

    References
    ----------
    Hosking & Wallis (1987), Technometrics 29, 339, Eqs. 7-9, their k being minus our shape.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    count = min(max(int(fraction * len(ordered)), MIN_EXCEEDANCES), len(ordered) - 1)
    threshold = ordered[-count - 1]
    excess = ordered[-count:] - threshold
    mean = max(float(excess.mean()), float(np.finfo(np.float32).tiny))
    survival = 1 - (np.arange(count) + 0.65) / count
    first = float((survival * excess).mean())
    shape = 2 - mean / max(mean - 2 * first, float(np.finfo(np.float64).tiny))
    shape = float(np.clip(shape, 0, MAX_SHAPE))
    return Tail(float(threshold), count / len(ordered), mean * (1 - shape), shape)


def tail_log10_p(tail: Tail, scores: np.ndarray) -> np.ndarray:
    """-log10 of P(score or higher), for scores above the threshold; [N] float64."""
    excess = np.maximum(scores - tail.threshold, 0) / tail.scale
    log_survival = excess if tail.shape < 1e-6 else np.log1p(tail.shape * excess) / tail.shape
    return log_survival / np.log(10) - np.log10(tail.fraction)


class Judgement(NamedTuple):
    """What `Calibration.judge` gives for one score, [B] each."""

    percentile: np.ndarray
    log10_p: np.ndarray
    beyond: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """Quantile tables and tails of S scores in K classes.

    Parameters
    ----------
    names
        The S score names.
    quantiles
        [S, K, Q] scores at `LEVELS`; NaN where a class has too few rows.
    tails
        [S, K, 4], the fields of `Tail`.
    counts
        [K] calibration rows.
    classes
        The K class names; the last is the fallback, of all rows.
    """

    names: tuple[str, ...]
    quantiles: np.ndarray
    tails: np.ndarray
    counts: np.ndarray
    classes: tuple[str, ...] = CLASSES

    def arrays(self) -> dict[str, np.ndarray]:
        """Tables as float32 arrays to keep in a checkpoint."""
        parts = {"quantiles": self.quantiles, "tails": self.tails, "counts": self.counts}
        return {f"calibration_{key}": value.astype(np.float32) for key, value in parts.items()}

    def judge(self, name: str, scores: np.ndarray, classes: np.ndarray) -> Judgement:
        """Percentile and tail probability of one score.

        Parameters
        ----------
        name
            Which score.
        scores
            [B], high = anomalous; NaN stays NaN.
        classes
            [B] indices into `classes`, as `usable_classes` gives them.

        Returns
        -------
        Judgement
            `percentile` 0-100 in float64 and `log10_p` = -log10(1 - percentile/100), both continuous
            across the threshold; `beyond` is True above the highest calibration score.
        """
        row = self.names.index(name)
        scores = np.asarray(scores, np.float64)
        log10_p, beyond = np.full(len(scores), np.nan), np.zeros(len(scores), bool)
        for index in np.unique(classes):
            chosen = classes == index
            table, tail = self.quantiles[row, index], Tail(*map(float, self.tails[row, index]))
            log10_p[chosen] = _log10_p(table, tail, scores[chosen])
            beyond[chosen] = scores[chosen] > table[-1]
        return Judgement(100 * (1 - 10.0**-log10_p), log10_p, beyond)

    def usable_classes(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Table index of each row and whether it had to fall back to `all`, [B] each.

        Parameters
        ----------
        labels
            [B] strings or None; unknown ones and classes with too few rows fall back.
        """
        usable = {n: i for i, n in enumerate(self.classes[:-1]) if np.isfinite(self.quantiles[0, i, 0])}
        fallback = len(self.classes) - 1
        index = np.array([usable.get(label, fallback) for label in labels], np.int64)
        return index, index == fallback


def _log10_p(table: np.ndarray, tail: Tail, scores: np.ndarray) -> np.ndarray:
    below = scores < tail.threshold
    result = tail_log10_p(tail, scores)
    # Body: interpolated, and never below the tail's own start, so that p is monotonic in the score.
    body = np.minimum(np.interp(scores[below], table, LEVELS), 1 - tail.fraction)
    result[below] = -np.log10(1 - body)
    return result


def fit_calibration(
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    min_class_rows: int,
    classes: tuple[str, ...] = CLASSES,
) -> Calibration:
    """Make tables from held-out normal objects.

    Parameters
    ----------
    scores
        Name to [N] scores, high = anomalous; rows with a NaN are left out.
    labels
        [N] class of each row, or None.
    min_class_rows
        A class with fewer rows gets no table of its own.
    classes
        Names of the classes; the last takes all rows, whatever their label.

    Raises
    ------
    ValueError
        If fewer than `MIN_EXCEEDANCES` + 1 rows are usable in all.
    """
    labels = np.asarray(labels, object)
    finite = np.asarray(np.isfinite(np.stack(list(scores.values()))).all(0))
    members = {label: finite & (labels == label) for label in classes[:-1]}
    enough = {
        name: member if member.sum() >= min_class_rows else np.zeros_like(member)
        for name, member in members.items()
    }
    return fit_tables(scores, enough | {classes[-1]: finite})


def fit_tables(scores: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]) -> Calibration:
    """Make one table for each of several groups of held-out normal objects, which may overlap.

    Parameters
    ----------
    scores
        Name to [N] scores, high = anomalous; where one is NaN, the row counts for the others.
    groups
        Name of the group to [N] booleans. Where a group has `MIN_EXCEEDANCES` rows of a score or less, it gets no table
        of it.

    Raises
    ------
    ValueError
        If all scores of the last group are so few.
    """
    values = np.stack(list(scores.values()))
    finite = np.isfinite(values)
    quantiles = np.full((len(scores), len(groups), len(LEVELS)), np.nan)
    tails = np.full((len(scores), len(groups), len(Tail._fields)), np.nan)
    counts = np.array([(member & finite).sum(1).max() for member in groups.values()], np.float64)
    if counts[-1] <= MIN_EXCEEDANCES:
        raise ValueError(
            f"{int(counts[-1])} calibration rows are too few, need {MIN_EXCEEDANCES + 1} with finite scores: "
            "hold out more normal objects"
        )
    for k, member in enumerate(groups.values()):
        for s in range(len(scores)):
            rows = values[s, member & finite[s]]
            if len(rows) > MIN_EXCEEDANCES:
                quantiles[s, k], tails[s, k] = np.quantile(rows, LEVELS), fit_tail(rows)
    return Calibration(tuple(scores), quantiles, tails, counts, tuple(groups))


def calibration_from_arrays(
    names: tuple[str, ...], arrays: Mapping[str, np.ndarray], classes: tuple[str, ...] = CLASSES
) -> Calibration:
    """Tables as `Calibration.arrays` gave them.

    Raises
    ------
    ValueError
        If they are missing or of other shapes.
    """
    expected = {
        "quantiles": (len(names), len(classes), len(LEVELS)),
        "tails": (len(names), len(classes), len(Tail._fields)),
        "counts": (len(classes),),
    }
    for key, shape in expected.items():
        found = arrays.get(f"calibration_{key}")
        if found is None or found.shape != shape:
            got = "nothing" if found is None else found.shape
            raise ValueError(f"calibration_{key}: got {got}, expected an array {shape}; fit the scores anew")
    tables = {key: arrays[f"calibration_{key}"].astype(np.float64) for key in expected}
    return Calibration(names, **tables, classes=classes)
