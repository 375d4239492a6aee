"""The row of a generator in the published table."""

from collections.abc import Callable, Iterable
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
from models.evaluation.wasserstein import MIN_SAMPLES, checked

PARTITIONS = "power_partitions"
"""Group that the average leaves out."""
Group = tuple[dict[str, float], list[float]]
"""Distances of a group by name, and those of them that are averaged; none of a group that the average leaves out."""


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
    return _row(group() for group in _groups(real, generated, config or TableConfig()).values())


def compare_groups(
    real: SetMeasures, generated: SetMeasures, config: TableConfig | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Do the same, but leave out a group that cannot be measured, and `average` where it is one of those averaged.

    Returns
    -------
    tuple
        Distances by name, and of each group that is left out why: `morphology`, `power`, `power_partitions`, `colours`.
    """
    groups, found, missing = (
        _groups(real, generated, config or TableConfig()),
        dict[str, Group](),
        dict[str, str](),
    )
    for name, group in groups.items():
        try:
            found[name] = group()
        except ValueError as error:
            missing[name] = str(error).rstrip(".")
    row = _row(found.values())
    if {*missing} - {PARTITIONS}:
        row.pop("average", None)
    return row, missing


def _row(groups: Iterable[Group]) -> dict[str, float]:
    """Distances of groups, and the average of those that are averaged, if there is one."""
    found = [*groups]
    averaged = [values for _, values in found if values]
    row = {name: value for one, _ in found for name, value in one.items()}
    return row | ({"average": average(*averaged)} if averaged else {})


def _groups(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> dict[str, Callable[[], Group]]:
    """Return what measures each group: morphology, power in two ways, and colour in sets of several bands."""
    ours, theirs = (keep(one.morphology, cuts_for(config.size)).values for one in (real, generated))
    groups: dict[str, Callable[[], Group]] = {
        "morphology": partial(_morphology, ours, theirs, config),
        "power": partial(_power, real, generated, config),
        PARTITIONS: partial(_power_partitions, real, generated, config),
    }
    return groups | ({"colours": partial(_colours, ours, theirs, config)} if "g_minus_i" in ours else {})


def _morphology(ours: Measured, theirs: Measured, config: TableConfig) -> Group:
    row = morphology_distances(ours, theirs, config.circular, config.min_samples)
    values = list(row.values())
    return row | {"morphology": float(np.mean(values))}, values


def _power(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> Group:
    found = _power_of(real, generated, "released", config)
    return {"power": float(np.mean(found))}, found


def _power_partitions(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> Group:
    """Of as many images as any other distance, though each has several values in most ranges."""
    for name, one in (("real", real), ("generated", generated)):
        checked(one.spectra[:, :1], f"spectra of the {name} set", config.min_samples)
    return {PARTITIONS: float(np.mean(_power_of(real, generated, "partitions", config)))}, []


def _power_of(
    real: SetMeasures, generated: SetMeasures, variant: Variant, config: TableConfig
) -> list[float]:
    pair = _modes(real, generated, variant, config)
    return power_distances(*pair, config.histogram, config.min_samples)


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
