"""Calibration of spectra within class and signal-to-noise, so that a faint object does not pass for a strange one.

Residuals of bright spectra show what the model cannot draw, those of faint ones noise, and latents of faint ones shrink
to the middle. So each class is cut at quantiles of its own S/N into bins that hold equally many calibration
spectra: as many bins as leave enough in each. A class that has too few for one takes the bins of all classes.
"""

# N calibration rows, B objects, K classes, J bins of a class at most

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.scoring.calibration import (
    CLASSES,
    MIN_EXCEEDANCES,
    Calibration,
    calibration_from_arrays,
    fit_tables,
)

ALL = len(CLASSES) - 1
"""Place of the class that everything belongs to."""


class Place(NamedTuple):
    """Where objects are calibrated, [B] each.

    `group` is the table of `SnrCalibration.tables`; `is_other_class` where too few calibration spectra are of the
    object's class, so that those of all classes count; `is_other_snr` where they are not of its S/N: the class has a
    single bin, or the object lies outside of what calibration has seen and takes the nearest bin.
    """

    group: np.ndarray
    is_other_class: np.ndarray
    is_other_snr: np.ndarray


@dataclass(frozen=True)
class SnrCalibration:
    """Tables of each class and bin of S/N.

    Parameters
    ----------
    tables
        One group for each class and bin, K * J in the order of classes, and one of everything; see `snr_groups`.
    edges
        [K, J + 1] S/N at the edges of the bins of each class, from the lowest to the highest calibration spectrum;
        infinite beyond the bins that a class has, NaN for a class that has none.
    """

    tables: Calibration
    edges: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps."""
        return self.tables.arrays() | {"calibration_snr_edges": self.edges.astype(np.float32)}

    def place(self, labels: np.ndarray, snr: np.ndarray) -> Place:
        """Find the tables that objects are compared with.

        Parameters
        ----------
        labels
            [B] class of each, or None.
        snr
            [B]; NaN, of an object that has no usable pixel and no score, falls into the lowest bin.
        """
        known = {name: k for k, name in enumerate(CLASSES[:-1]) if np.isfinite(self.edges[k, 0])}
        row = np.array([known.get(label, ALL) for label in labels], np.intp)
        edges, num_bins = self.edges[row], np.isfinite(self.edges).sum(1)[row] - 1
        index = np.clip((snr[:, None] >= edges[:, 1:]).sum(1), 0, num_bins - 1)
        highest = edges[np.arange(len(row)), num_bins]
        is_seen = (num_bins > 1) & (snr >= edges[:, 0]) & (snr <= highest)
        return Place(row * (self.edges.shape[1] - 1) + index, row == ALL, ~is_seen)


def snr_groups(num_bins: int) -> tuple[str, ...]:
    """Names of the tables of a calibration with so many bins a class, in their order."""
    return (*(f"{name} {index}" for name in CLASSES for index in range(num_bins)), "all")


def fit_snr_calibration(
    scores: Mapping[str, np.ndarray], labels: np.ndarray, snr: np.ndarray, num_bins: int, min_rows: int
) -> SnrCalibration:
    """Make the tables from held-out normal spectra.

    Parameters
    ----------
    scores
        Name to [N] scores, high = anomalous; where one is NaN, the row counts for the others.
    labels
        [N] class of each row, or None.
    snr
        [N] signal-to-noise; rows where it is NaN are left out.
    num_bins
        Bins of S/N of a class at most.
    min_rows
        Rows that a bin needs; only the bin of all classes makes do with fewer.

    Raises
    ------
    ValueError
        If `MIN_EXCEEDANCES` rows or less are usable in all.
    """
    finite = np.isfinite(snr) & np.isfinite(np.stack(list(scores.values()))).any(0)
    labels = np.asarray(labels, object)
    members = [finite & (labels == name) for name in CLASSES[:-1]] + [finite]
    edges = np.full((len(CLASSES), num_bins + 1), np.nan)
    groups: list[np.ndarray] = []
    for k, member in enumerate(members):
        if member.sum() >= (1 if k == ALL else min_rows):
            edges[k] = _bin_edges(snr[member], num_bins, min_rows)
        index = np.clip(np.searchsorted(edges[k, 1:], snr, side="right"), 0, num_bins - 1)
        last = np.isfinite(edges[k]).sum() - 2
        groups += [member & (np.minimum(index, last) == j) for j in range(num_bins)]
    named = dict(zip(snr_groups(num_bins), [*groups, finite], strict=True))
    return SnrCalibration(fit_tables(scores, named), edges)


def _bin_edges(snr: np.ndarray, num_bins: int, min_rows: int) -> np.ndarray:
    """Edges [num_bins + 1] of as many bins as leave enough rows in each; infinite where there are fewer."""
    enough = max(min_rows, MIN_EXCEEDANCES + 1)
    edges = np.array([snr.min(), snr.max()])
    for num in range(min(num_bins, len(snr) // enough), 1, -1):
        tried = np.quantile(snr, np.linspace(0, 1, num + 1)).astype(np.float32)
        if np.histogram(snr, tried)[0].min() >= enough:
            edges = tried
            break
    return np.pad(edges.astype(np.float64), (0, num_bins + 1 - len(edges)), constant_values=np.inf)


def snr_calibration_from_arrays(
    names: tuple[str, ...], arrays: Mapping[str, np.ndarray], num_bins: int
) -> SnrCalibration:
    """Tables as `SnrCalibration.arrays` gave them.

    Raises
    ------
    ValueError
        If they are missing or of other shapes.
    """
    edges, expected = arrays.get("calibration_snr_edges"), (len(CLASSES), num_bins + 1)
    if edges is None or edges.shape != expected:
        got = "nothing" if edges is None else edges.shape
        raise ValueError(
            f"calibration_snr_edges: got {got}, expected an array {expected}; fit the scores anew"
        )
    tables = calibration_from_arrays(names, arrays, snr_groups(num_bins))
    return SnrCalibration(tables, edges.astype(np.float64))
