"""All that is said of a generator beside its floor: distances with intervals, coverage, copies."""

# N, M = real and generated images, F = features

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from models.evaluation.distances import cuts_for, keep, split_floor
from models.evaluation.frechet import frechet_distance, kernel_distance
from models.evaluation.intervals import bootstrap, by_halves
from models.evaluation.neighbours import copying, precision_recall
from models.evaluation.table import SetMeasures, TableConfig, compare_groups

UNITS: dict[str, str] = {
    "precision": "share",
    "recall": "share",
    "frechet_pooled": "variance of pooled pixels",
}
"""What is no Wasserstein distance: by features, all of it or none."""
COVERAGE = "coverage"
"""Group of these."""
NETWORK = ("fid", "kid")
"""Distances by the seed's network, where its weights are given."""
NEARER = "nearer"
KEPT, UNUSABLE = "kept", "unusable"
"""Share of a set's images that distances of morphology are of, and images of which nothing can be measured."""
LABELS: dict[str, str] = {
    "power": "power (released, averaged)",
    "power_partitions": "power (partitions, intended)",
}
"""What tables call quantities whose names do not say which they are."""
Pair = tuple[np.ndarray, np.ndarray]
"""Features [N, F] and [M, F] of the real and of the generated set."""
Of = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""Distances by name between features of two sets."""
SHARES = ("precision", "recall", NEARER)


class Value(NamedTuple):
    """A quantity and its interval at `models.evaluation.intervals.CONFIDENCE`; NaN where none is taken."""

    value: float
    low: float = np.nan
    high: float = np.nan


class Verdict(NamedTuple):
    """What could be measured, and why the rest could not.

    Parameters
    ----------
    values
        Quantities by name.
    missing
        Groups that could not be measured (`models.evaluation.table.compare_groups`, `COVERAGE`), and why.
    """

    values: dict[str, Value]
    missing: dict[str, str]

    @property
    def told(self) -> list[str]:
        """What is missing, a line each, for people."""
        return [f"no {label(group)}: {why}" for group, why in self.missing.items()]


def verdict(
    real: SetMeasures,
    generated: SetMeasures,
    features: tuple[np.ndarray, np.ndarray] | None = None,
    config: TableConfig | None = None,
    repeats: int = 200,
    seed: int = 1,
) -> Verdict:
    """Measure a generated set by the real one. A group that cannot be measured takes nothing else with it.

    Parameters
    ----------
    real, generated
        What was measured of N and M images. Of another real set in the place of the generated one this is the floor.
    features
        [N, F] and [M, F] of the same images, as `engine.images.nearest.features` gives them: precision, recall and
        `frechet_pooled`, a Frechet distance that is no FID.
    config
        How distances are taken.
    repeats
        Draws of the bootstrap; 0: no intervals.
    seed
        Of the draws.

    Returns
    -------
    Verdict
        Names of `models.evaluation.table.compare`, then those of `UNITS`, of groups that can be measured. Intervals of a
        group are NaN where a draw of the bootstrap cannot be measured though the sets can: too few of its images are
        defined, or within the histograms.
    """
    row, missing = compare_groups(real, generated, config)
    ends = _ends(real, generated, config, repeats, seed) if repeats and row else {}
    found = {name: Value(value, *ends.get(name, ())) for name, value in row.items()}
    if features is not None:
        try:
            found |= coverage(features, repeats, seed)
        except ValueError as error:
            missing[COVERAGE] = str(error).rstrip(".")
    return Verdict(found, missing)


def takers(measured: SetMeasures, size: int = 256) -> dict[str, Value]:
    """Say how much of a set its distances are of: a generator that fails often may be near in what is left.

    Parameters
    ----------
    measured
        Of the usable images.
    size
        `TableConfig.size`, which the cut in radius scales with.

    Returns
    -------
    dict
        `kept`: share of all images of the set that are usable, have all properties and are within the cuts;
        `unusable`: number of those that are not finite or constant.
    """
    num = len(measured) + measured.num_unusable
    num_kept = keep(measured.morphology, cuts_for(size)).num_kept if len(measured) else 0
    return {KEPT: Value(num_kept / num if num else 0.0), UNUSABLE: Value(float(measured.num_unusable))}


def coverage(features: Pair, repeats: int = 200, seed: int = 1) -> dict[str, Value]:
    """Precision, recall and `frechet_pooled` of features [N, F] and [M, F]; intervals by halves of both sets."""
    return _by_features(_covered, features, repeats, seed)


def by_network(features: Pair, repeats: int = 200, seed: int = 1) -> dict[str, Value]:
    """FID and KID (`NETWORK`) of features [N, F] and [M, F] of the seed's network; intervals by halves of both sets.

    A kernel distance is without bias, so that it may come out below 0; its interval does not. A draw takes as long as
    the distances of sets of half the size: of 50,000 images some 10^12 operations.
    """
    return _by_features(_deep, features, repeats, seed)


def _by_features(distances: Of, features: Pair, repeats: int, seed: int) -> dict[str, Value]:
    def drawn(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        return distances(features[0][first], features[1][second])

    sizes = len(features[0]), len(features[1])
    ends = by_halves(drawn, *sizes, repeats=repeats, seed=seed) if repeats else {}
    return {name: _value(name, value, ends) for name, value in distances(*features).items()}


def nearness(generated: np.ndarray, held_out: np.ndarray, repeats: int = 200, seed: int = 1) -> Value:
    """Probability that an image is nearer to a training image than a held-out one is; see `copying`.

    Parameters
    ----------
    generated, held_out
        Distances from the nearest training image.
    repeats, seed
        Of the bootstrap; 0: no interval. Training images stay the same.
    """

    def nearer(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        return {NEARER: copying(generated[second], held_out[first]).nearer}

    sizes = len(held_out), len(generated)
    ends = bootstrap(nearer, *sizes, repeats=repeats, seed=seed) if repeats else {}
    return _value(NEARER, copying(generated, held_out).nearer, ends)


def floor(
    real: SetMeasures,
    features: np.ndarray | None = None,
    config: TableConfig | None = None,
    repeats: int = 5,
    seed: int = 1,
) -> Verdict:
    """Mean of a verdict between halves of the real set, with a standard deviation to either side; see `split_floor`.

    For want of a second real set: halves are smaller than the sets that are compared, so distances are larger, and
    coverage less, than between sets of their size. What cannot be measured of one of the halves is missing.
    """
    missing = dict[str, str]()

    def halves(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        pair = None if features is None else (features[first], features[second])
        found = verdict(real.take(first), real.take(second), pair, config, repeats=0)
        missing.update(found.missing)
        return {name: value.value for name, value in found.values.items()}

    try:
        return Verdict(spread(split_floor(halves, len(real), repeats, seed)), missing)
    except ValueError as error:
        return Verdict({}, {"floor": str(error)})


def spread(found: Mapping[str, tuple[float, float]]) -> dict[str, Value]:
    """Means with a standard deviation to either side."""
    return {name: Value(mean, mean - scatter, mean + scatter) for name, (mean, scatter) in found.items()}


def network_floor(features: np.ndarray, repeats: int = 5, seed: int = 1) -> dict[str, tuple[float, float]]:
    """Do the same for FID and KID: both of halves [N, F], a Frechet distance is larger of fewer images."""

    def halves(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        return _deep(features[first], features[second])

    return split_floor(halves, len(features), repeats, seed)


def _deep(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    values = frechet_distance(real, generated), kernel_distance(real, generated)
    return dict(zip(NETWORK, values, strict=True))


def _covered(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    values = (*precision_recall(real, generated), frechet_distance(real, generated))
    return dict(zip(UNITS, values, strict=True))


def _value(name: str, value: float, ends: Mapping[str, tuple[float, float]]) -> Value:
    """Return a value with its interval; shares are not above 1."""
    low, high = ends.get(name, (np.nan, np.nan))
    return Value(value, low, min(high, 1.0) if name in SHARES and np.isfinite(high) else high)


def _ends(
    real: SetMeasures, generated: SetMeasures, config: TableConfig | None, repeats: int, seed: int
) -> Mapping[str, tuple[float, float]]:
    return bootstrap(
        partial(_drawn, real, generated, config), len(real), len(generated), repeats=repeats, seed=seed
    )


def _drawn(
    real: SetMeasures,
    generated: SetMeasures,
    config: TableConfig | None,
    first: np.ndarray,
    second: np.ndarray,
) -> dict[str, float]:
    return compare_groups(real.take(first), generated.take(second), config)[0]


def label(name: str) -> str:
    """Return what tables call a quantity."""
    return LABELS.get(name, name)


def shown(value: Value, factor: float = 100.0, digits: int = 2) -> str:
    """Format a value for people with its interval, in hundredths as published."""
    text = f"{factor * value.value:.{digits}f}"
    if np.isfinite(value.low):
        text += f" [{factor * value.low:.{digits}f}, {factor * value.high:.{digits}f}]"
    return text
