"""The row of a generator in the published table."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.images.power import Variant, modes_of
from models.evaluation.distances import (
    Measured,
    average,
    colour_distances,
    cuts_for,
    keep,
    morphology_distances,
    power_distances,
)
from models.evaluation.wasserstein import MIN_SAMPLES

Group = tuple[dict[str, float], list[float]]
"""Distances of a group by name, and those of them that are averaged."""


@dataclass(frozen=True)
class SetMeasures:
    """What was measured of a set of N images.

    Parameters
    ----------
    morphology
        Values of `engine.images.morphology.MEASURES` [N], NaN where undefined; of multi-band sets `g_minus_i` too.
    spectra
        `engine.images.power.radial_amplitude`, [N, R], of images of several sizes `stacked`.
    num_unusable
        Images there were beside these N, which are not finite or constant: nothing can be measured of them.
    """

    morphology: Measured
    spectra: np.ndarray
    num_unusable: int = 0

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.morphology.items()}
        if set(lengths.values()) - {len(self.spectra)}:
            raise ValueError(f"{len(self.spectra)} spectra, but morphology of {lengths}")

    def __len__(self) -> int:
        return len(self.spectra)

    def take(self, rows: np.ndarray) -> "SetMeasures":
        """Return some of the images, by index."""
        return SetMeasures(
            {name: values[rows] for name, values in self.morphology.items()}, self.spectra[rows]
        )


@dataclass(frozen=True)
class TableConfig:
    """How distances are taken; the defaults are the publication's.

    Parameters
    ----------
    size
        Pixels a side of the images: the cut in radius scales with it.
    circular
        Orientation on a circle instead of a line.
    histogram
        Power by the published histograms instead of exactly.
    min_samples
        Fewest images of a distance.
    """

    size: int = 256
    circular: bool = False
    histogram: bool = True
    min_samples: int = MIN_SAMPLES


def compare(real: SetMeasures, generated: SetMeasures, config: TableConfig | None = None) -> dict[str, float]:
    """Distances of a generated set from the real one.

    Parameters
    ----------
    real, generated
        What was measured; images that are outliers or have no measure are left out here, and `keep` counts them.
    config
        How.

    Returns
    -------
    dict
        The eight properties [sigma]; `morphology`, their mean; `power`, the mean of the released modes [dex];
        `power_partitions`, that of the intended ones that have
        `min_samples` values; with `g_minus_i`: `colour_early`, `colour_late` [mag], `bulge`; and
        `average`, the mean of the groups, with `power` as released.

    Raises
    ------
    ValueError
        What the distances raise: too few images, no spread, power outside of the histograms.
    """
    found = [group() for group in _groups(real, generated, config or TableConfig())]
    return _row(found) | {"average": average(*(values for _, values in found))}


def compare_draw(
    real: SetMeasures, generated: SetMeasures, config: TableConfig | None = None
) -> dict[str, float]:
    """Do the same for a draw of a bootstrap: a group that cannot be measured of it is left out, and so is the average."""
    groups, found = _groups(real, generated, config or TableConfig()), list[Group]()
    for group in groups:
        with suppress(ValueError):
            found.append(group())
    if len(found) < len(groups):
        return _row(found)
    return _row(found) | {"average": average(*(values for _, values in found))}


def _row(groups: Sequence[Group]) -> dict[str, float]:
    return {name: value for row, _ in groups for name, value in row.items()}


def _groups(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> list[Callable[[], Group]]:
    """Return what measures each group: morphology, power, and colour in sets of several bands."""
    ours, theirs = (keep(one.morphology, cuts_for(config.size)).values for one in (real, generated))
    groups = [partial(_morphology, ours, theirs, config), partial(_power, real, generated, config)]
    return [*groups, partial(_colours, ours, theirs, config)] if "g_minus_i" in ours else groups


def _morphology(ours: Measured, theirs: Measured, config: TableConfig) -> Group:
    row = morphology_distances(ours, theirs, config.circular, config.min_samples)
    values = list(row.values())
    return row | {"morphology": float(np.mean(values))}, values


def _power(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> Group:
    released, partitions = (
        power_distances(*_modes(real, generated, variant, config), config.histogram, config.min_samples)
        for variant in ("released", "partitions")
    )
    return {"power": float(np.mean(released)), "power_partitions": float(np.mean(partitions))}, released


def _modes(
    real: SetMeasures, generated: SetMeasures, variant: Variant, config: TableConfig
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Modes of both sets; ranges of frequency that few images are large enough for are left out."""
    ours, theirs = (modes_of(one.spectra, variant) for one in (real, generated))
    least = config.min_samples if variant == "partitions" else 0
    numbers = [n for n in ours if n in theirs and min(len(ours[n]), len(theirs[n])) >= least]
    return [ours[n] for n in numbers], [theirs[n] for n in numbers]


def _colours(ours: Measured, theirs: Measured, config: TableConfig) -> Group:
    row = colour_distances(ours, theirs, min_samples=config.min_samples)
    return row, list(row.values())
