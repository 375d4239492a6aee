"""All that is said of a generator beside its floor: distances with intervals, coverage, copies."""

# N, M = real and generated images, F = features

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from models.evaluation.frechet import frechet_distance
from models.evaluation.intervals import bootstrap
from models.evaluation.neighbours import precision_recall
from models.evaluation.table import SetMeasures, TableConfig, compare, compare_draw

UNITS: dict[str, str] = {
    "precision": "share",
    "recall": "share",
    "frechet_pooled": "variance of pooled pixels",
}
"""What is no Wasserstein distance."""


class Value(NamedTuple):
    """A quantity and its interval at `models.evaluation.intervals.CONFIDENCE`; NaN where none is taken."""

    value: float
    low: float = np.nan
    high: float = np.nan


def verdict(
    real: SetMeasures,
    generated: SetMeasures,
    features: tuple[np.ndarray, np.ndarray] | None = None,
    config: TableConfig | None = None,
    repeats: int = 200,
    seed: int = 1,
) -> dict[str, Value]:
    """Measure a generated set by the real one.

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
    dict
        Names of `models.evaluation.table.compare`, then those of `UNITS`. Intervals of a group are NaN where a draw of
        the bootstrap cannot be measured though the sets can: too few of its images are defined, or within the histograms.

    Raises
    ------
    ValueError
        If there are too few images that could be measured, and what distances raise.
    """
    row = compare(real, generated, config)
    ends = _ends(real, generated, config, repeats, seed) if repeats else {}
    found = {name: Value(value, *ends.get(name, ())) for name, value in row.items()}
    if features is None:
        return found
    precision, recall = precision_recall(*features)
    distance = frechet_distance(*features)
    values = (precision, recall, distance)
    return found | {name: Value(value) for name, value in zip(UNITS, values, strict=True)}


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
    return compare_draw(real.take(first), generated.take(second), config)


def shown(value: Value, factor: float = 100.0, digits: int = 2) -> str:
    """Format a value for people with its interval, in hundredths as published."""
    text = f"{factor * value.value:.{digits}f}"
    if np.isfinite(value.low):
        text += f" [{factor * value.low:.{digits}f}, {factor * value.high:.{digits}f}]"
    return text
