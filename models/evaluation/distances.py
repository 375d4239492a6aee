"""The published measure of a generator: distances of morphology, power spectra and colours, and their average.

What the publication does not say is an option with a label: the table's morphological distances fit only if each is
divided by the standard deviation of the real set; those of power spectra are in dex; how colours are scaled is
not known, here they are in magnitudes.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, Table 2, and its released code.
"""

# N, M = images of the real and of the generated set

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.images.own_size import has_size
from models.evaluation.wasserstein import (
    MIN_SAMPLES,
    checked,
    circular_wasserstein,
    histogram_wasserstein,
    wasserstein,
)

Measured = Mapping[str, np.ndarray]
"""Quantity to values [N], NaN where it is not defined."""

PROPERTIES: tuple[str, ...] = (
    "asymmetry", "smoothness", "concentration", "gini", "rhalf_circ", "sersic_n", "orientation_centroid",
    "ellipticity_centroid",
)  # fmt: skip
"""The eight properties that are averaged."""

CUTS: dict[str, tuple[float, float]] = {
    "sersic_n": (-np.inf, 10.0),
    "asymmetry": (-1.0, 1.0),
    "smoothness": (-0.05, 0.2),
    "rhalf_circ": (-np.inf, 60.0),
}
"""Ranges outside of which the publication calls an image an outlier; radii in pixels of images of 256."""

COLOURS: tuple[str, ...] = ("g_minus_i", "gini_m20_bulge")
"""What colours are told apart by, in sets of several bands."""

PERIOD = np.pi
"""Of orientations [rad]."""
HISTOGRAM = (-5.0, 4.0, 1000)
"""Edges of the published histograms of power: log10 from, to, how many."""


@dataclass(frozen=True)
class Kept:
    """Images that take part, and how many do not and why.

    Parameters
    ----------
    values
        `PROPERTIES`, and more if there were, of the images kept.
    num
        Images there were.
    undefined
        Images of which a property is NaN.
    outliers
        Images outside of the range of each cut; one may be outside of several.
    no_colour
        Of multi-band sets, images that have all properties, but no colour or bulge statistic.
    """

    values: dict[str, np.ndarray]
    num: int
    undefined: int
    outliers: dict[str, int]
    no_colour: int = 0

    @property
    def num_kept(self) -> int:
        """Images that are left."""
        return len(self.values[PROPERTIES[0]])

    @property
    def told(self) -> str:
        """How many take part, and how many do not and why, for people."""
        outside = ", ".join(f"{num} by {name}" for name, num in self.outliers.items() if num)
        reasons = (
            (self.undefined, f"{self.undefined} undefined"),
            (self.no_colour, f"{self.no_colour} without a colour"),
            (outside, f"outside of the cuts {outside}"),
        )
        left = "; ".join(text for is_any, text in reasons if is_any)
        return f"{self.num_kept} of {self.num} kept" + (f" ({left})" if left else "")


def cuts_for(size: int) -> dict[str, tuple[float, float]]:
    """Return `CUTS` for images of the same field with `size` pixels a side: radii scale with it."""
    low, high = CUTS["rhalf_circ"]
    return CUTS | {"rhalf_circ": (low, high * size / 256)}


def cut_size(num_channels: int, size: int) -> int:
    """Pixels a side that the published cut in radius is scaled by: images with a size channel are measured at their own."""
    return 256 if has_size(num_channels) else size


def keep(measured: Measured, cuts: Mapping[str, tuple[float, float]] = CUTS) -> Kept:
    """Leave out outliers and images of which a property is not defined; of multi-band sets, colour and bulge too.

    Raises
    ------
    ValueError
        If a property is missing.
    """
    missing = [name for name in {*PROPERTIES, *cuts} if name not in measured]
    if missing:
        raise ValueError(
            f"properties {', '.join(sorted(missing))} were not measured, there are {', '.join(measured)}"
        )
    defined = _finite(measured, PROPERTIES)
    coloured = _finite(measured, COLOURS) if COLOURS[0] in measured else np.ones_like(defined)
    inside = {name: (measured[name] >= low) & (measured[name] <= high) for name, (low, high) in cuts.items()}
    good = np.logical_and.reduce([defined, coloured, *inside.values()])
    outliers = {name: int((defined & ~ok).sum()) for name, ok in inside.items()}
    values = {name: np.asarray(column)[good] for name, column in measured.items()}
    return Kept(
        values, len(defined), int((~defined).sum()), outliers, no_colour=int((defined & ~coloured).sum())
    )


def _finite(measured: Measured, names: Sequence[str]) -> np.ndarray:
    """Images of which all these are finite: bool [N]."""
    table = np.stack([np.asarray(measured[name], np.float64) for name in names])
    return np.asarray(np.isfinite(table).all(axis=0))


def morphology_distances(
    real: Measured, generated: Measured, circular: bool = False, min_samples: int = MIN_SAMPLES
) -> dict[str, float]:
    """Distance of each property, in standard deviations of the real set.

    Parameters
    ----------
    real, generated
        Values of `PROPERTIES`, [N] and [M], as `keep` leaves them.
    circular
        Orientation on a circle, in units of the standard deviation of uniform orientations (pi / sqrt(12)). The
        publication takes it on a line, where -89 and 89 degrees are far apart: that is the default, to compare with its table.
    min_samples
        Fewest images.

    Raises
    ------
    ValueError
        Naming the property, if a set has too few images or the real set does not vary.
    """
    result: dict[str, float] = {}
    for name in PROPERTIES:
        ours = checked(real[name], f"{name} of the real set", min_samples)
        theirs = checked(generated[name], f"{name} of the generated set", min_samples)
        if circular and name == "orientation_centroid":
            result[name] = circular_wasserstein(ours, theirs, PERIOD) / (PERIOD / 12**0.5)
            continue
        spread = ours.std()
        if not spread > 0:
            raise ValueError(
                f"{name} of the real set is {ours[0]} of all images: nothing to measure a distance by"
            )
        result[name] = wasserstein(ours, theirs) / spread
    return result


def power_distances(
    real: Sequence[np.ndarray],
    generated: Sequence[np.ndarray],
    histogram: bool = True,
    min_samples: int = MIN_SAMPLES,
) -> list[float]:
    """Distance of log10 of the amplitude of each mode [dex].

    Parameters
    ----------
    real, generated
        Amplitudes of the modes, as `engine.images.power.modes_of` divides them.
    histogram
        By the published histograms, 0.009 dex wide from -5 to 4; otherwise exactly, in any unit.
    min_samples
        Fewest values of a mode.

    Raises
    ------
    ValueError
        Naming the mode, if it has too few values, one is not above 0, or is outside of the histograms.
    """
    if len(real) != len(generated):
        raise ValueError(f"the real set has {len(real)} modes, the generated one {len(generated)}")
    distances = []
    for mode, pair in enumerate(zip(real, generated, strict=True)):
        first, second = (
            np.log10(_positive(checked(values, f"mode {mode} of the {name} set", min_samples), mode, name))
            for name, values in zip(("real", "generated"), pair, strict=True)
        )
        distances.append(
            histogram_wasserstein(first, second, *HISTOGRAM) if histogram else wasserstein(first, second)
        )
    return distances


def _positive(values: np.ndarray, mode: int, name: str) -> np.ndarray:
    num_bad = int((values <= 0).sum())
    if num_bad:
        raise ValueError(f"mode {mode} of the {name} set has no power in {num_bad} of {len(values)} values")
    return values


def colour_distances(
    real: Measured, generated: Measured, standardised: bool = False, min_samples: int = MIN_SAMPLES
) -> dict[str, float]:
    """Distances of colour by type, and of the bulge statistic.

    Parameters
    ----------
    real, generated
        `g_minus_i` [mag] and `gini_m20_bulge`, [N] and [M] each. Types are early where the latter is not below 0.
    standardised
        In standard deviations of the real set instead of magnitudes and the statistic's own unit.
    min_samples
        Fewest images of a type.

    Returns
    -------
    dict
        `colour_early`, `colour_late`, `bulge`.

    Raises
    ------
    ValueError
        If a type has too few images, or a value is not finite.
    """
    sets = []
    for one in (real, generated):
        early = np.asarray(one["gini_m20_bulge"]) >= 0
        colour = np.asarray(one["g_minus_i"])
        sets.append(
            {"colour_early": colour[early], "colour_late": colour[~early], "bulge": one["gini_m20_bulge"]}
        )
    result = {}
    for name in sets[0]:
        ours = checked(sets[0][name], f"{name} of the real set", min_samples)
        theirs = checked(sets[1][name], f"{name} of the generated set", min_samples)
        result[name] = wasserstein(ours, theirs) / (ours.std() if standardised else 1.0)
    return result


def average(*groups: Sequence[float]) -> float:
    """Mean of the means of groups, as published: morphology and power, of multi-band sets colour too.

    Raises
    ------
    ValueError
        If there is no group, or one is empty.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("an average needs at least one group, and a value in each")
    return float(np.mean([np.mean(group) for group in groups]))


def split_floor(
    distance: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    num: int,
    repeats: int = 5,
    seed: int = 1,
) -> dict[str, tuple[float, float]]:
    """Distances that the real set has from itself: halves of it, drawn anew each time.

    No generator can be told from the real set below it. Halves are smaller than the set: with sets of N images each the
    floor is lower by about sqrt(2).

    Parameters
    ----------
    distance
        Distances by name between two choices of rows of the real set.
    num
        Images of the real set.
    repeats
        How often it is divided.
    seed
        Of the choices.

    Returns
    -------
    dict
        Name to mean and standard deviation over the repeats, of what all of them have.

    Raises
    ------
    ValueError
        If there are fewer than two images or no repeats, and what `distance` raises.
    """
    if num < 2 or repeats < 1:
        raise ValueError(f"{num} images and {repeats} repeats: at least 2 and 1 are needed for a floor")
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        order = generator.permutation(num)
        for name, value in distance(order[: num // 2], order[num // 2 :]).items():
            found.setdefault(name, []).append(value)
    whole = {name: values for name, values in found.items() if len(values) == repeats}
    return {name: (float(np.mean(values)), float(np.std(values))) for name, values in whole.items()}
