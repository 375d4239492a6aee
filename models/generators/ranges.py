"""Ranges of conditions: measured on what is staged, or checked on it before a training starts."""

# N rows, K conditions

from collections.abc import Iterable, Mapping

import numpy as np

from engine.images.columns import LABEL, UNKNOWN_LABEL
from models.generators.config import GeneratorConfig
from models.spec import Batch

RANGE = ("condition_low", "condition_high")
"""Settings that follow from all that is staged."""
LEFT_OUT = "rows_without_condition"
"""Metric of a checkpoint: staged rows of which a condition is null, which nothing is learned from."""


def _values(batch: Batch, name: str) -> np.ndarray:
    """Values [N] of a condition, NaN where it is null or an unknown class."""
    values = np.asarray(batch[name], np.float64)
    return np.where(values == UNKNOWN_LABEL, np.nan, values) if name == LABEL.name else values


def condition_table(config: GeneratorConfig, batch: Batch) -> np.ndarray:
    """Conditions [N, K] of rows in their units, NaN where one is not known; without conditions K is 0."""
    columns = [_values(batch, name) for name in config.conditions]
    return np.stack(columns, 1) if columns else np.zeros((len(batch[config.image_column]), 0))


def limits(config: GeneratorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value [K] of each condition.

    Raises
    ------
    ValueError
        If they are not known: `train` measures them, nothing else does.
    """
    low, high = np.array(config.condition_low), np.array(config.condition_high)
    if len(low) < len(config.conditions):
        raise ValueError(
            f"condition_low and condition_high are not given, and not measured: {', '.join(config.conditions)} want them"
        )
    return low, high


def is_outside(config: GeneratorConfig, condition: np.ndarray) -> np.ndarray:
    """Whether each of [N, K] is outside of its range, or NaN; a float32 may lie outside by its rounding."""
    low, high = limits(config)
    slack = 1e-6 * (high - low)
    return ~((condition >= low - slack) & (condition <= high + slack))


def survey(
    config: GeneratorConfig, batches: Iterable[Batch]
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Look at the conditions of all staged rows before the first step.

    Parameters
    ----------
    config
        Its ranges are taken where they are given.
    batches
        Columns of `config.conditions`, of rows that are held out too: these are judged within the same range.

    Returns
    -------
    tuple
        `condition_low` and `condition_high`, the least and the largest value, or nothing where they are given; and the
        number of rows that are left out (`LEFT_OUT`).

    Raises
    ------
    ValueError
        If a row is outside of what is given, or there is no range: a condition is unknown or the same everywhere.
    """
    tables = [condition_table(config, batch) for batch in batches]
    table = np.concatenate(tables) if tables else np.zeros((0, len(config.conditions)))
    known = table[~np.isnan(table).any(1)]
    left_out = {LEFT_OUT: float(len(table) - len(known))}
    if config.condition_low:
        _check_within(config, known)
        return {}, left_out
    return _measured(config, known), left_out


def _measured(config: GeneratorConfig, known: np.ndarray) -> dict[str, tuple[float, ...]]:
    if not len(known):
        raise ValueError(f"no row has all of {', '.join(config.conditions)}: no range can be measured")
    low, high = known.min(0), known.max(0)
    for name, least, most in zip(config.conditions, low, high, strict=True):
        if not -np.inf < least < most < np.inf:
            raise ValueError(
                f"condition {name} is {least:g} to {most:g}, must be finite and vary: take it out"
            )
    return {end: tuple(map(float, values)) for end, values in zip(RANGE, (low, high), strict=True)}


def _check_within(config: GeneratorConfig, known: np.ndarray) -> None:
    outside = is_outside(config, known)
    low, high = limits(config)
    for column in np.flatnonzero(outside.any(0)):
        values, name = known[:, column], config.conditions[column]
        raise ValueError(
            f"condition {name} is {values.min():g} to {values.max():g} in what is staged and outside of "
            f"[{low[column]:g}, {high[column]:g}] in {int(outside[:, column].sum())} of {len(known)} rows: widen "
            "condition_low and condition_high, or leave both out to have them measured, or stage fewer rows"
        )


def told_ranges(config: GeneratorConfig) -> Mapping[str, str]:
    """Say of each condition what its range is, for its column."""
    if not config.condition_low:
        return dict.fromkeys(config.conditions, "")
    low, high = limits(config)
    return {n: f", {a:g} to {b:g}" for n, a, b in zip(config.conditions, low, high, strict=True)}
