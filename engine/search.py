"""A space of settings and the points of it that a study tries: the same points for the same space and seed.

Points are those of a scrambled Halton sequence: a few of them cover each setting evenly, which points drawn
independently do not, and more points later keep the first ones. Not here: what is tried (`engine.tune`).
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from engine.config import Config

Value = bool | int | float | str | list[int] | list[float] | list[str]


class Range(Config):
    """What a setting may be: exactly one of these."""

    uniform: tuple[float, float] | None = None
    """Any number between two, the same density everywhere."""
    log_uniform: tuple[float, float] | None = None
    """Any number between two above 0, the same density of its logarithm."""
    integer: tuple[int, int] | None = None
    """Any whole number from the first to the last."""
    choice: list[Value] | None = Field(default=None, min_length=1)
    """One of a list."""

    @model_validator(mode="after")
    def _is_one_range(self) -> "Range":
        given = sorted(self.model_fields_set)
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(Range.model_fields)} must be given, not {', '.join(given) or 'none'}"
            )
        bounds = self.uniform or self.log_uniform or self.integer
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(
                f"{given[0]}: the first bound must be below the second (got {bounds[0]:g}, {bounds[1]:g})"
            )
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: bounds must be above 0 (got {self.log_uniform[0]:g})")
        return self

    def at(self, place: float) -> Any:
        """Value at a place in [0, 1)."""
        if self.uniform:
            low, high = self.uniform
            return low + place * (high - low)
        if self.log_uniform:
            low, high = map(math.log, self.log_uniform)
            return math.exp(low + place * (high - low))
        if self.integer:
            low, high = self.integer
            return low + int(place * (high - low + 1))
        assert self.choice
        return self.choice[int(place * len(self.choice))]

    def corners(self) -> list[Any]:
        """Values that a study may reach and that are the likeliest to be refused: bounds, or all choices."""
        bounds = self.uniform or self.log_uniform or self.integer
        return list(bounds) if bounds else list(self.choice or ())


class TuneConfig(Config):
    """A study of settings."""

    space: dict[str, Range] = Field(min_length=1)
    """Settings to try, by their names in this file, such as "model.settings.learning_rate" or
    "train.global_batch_rows", and what each may be."""
    num_trials: int = Field(default=12, ge=1)
    """Points of the space; a study with more of them keeps those that were tried."""
    metric: str = Field(default="val_loss", min_length=1)
    """What is to be small: a metric of the epochs, or a sum such as "val_nll + val_kl", which unlike the loss means the
    same whatever the weight of the KL term is."""
    max_concurrent: int = Field(default=1, ge=1)
    """Trials at once; each needs the CPUs of a training run."""
    grace_epochs: int = Field(default=2, ge=1)
    """Epochs that every trial gets."""
    reduction_factor: int = Field(default=3, ge=2)
    """At each rung, of so many trials one goes on (ASHA)."""
    seed: int = Field(default=0, ge=0)
    """Of the points."""
    best: str = Field(default="best.toml", min_length=1)
    """Where the best configuration goes, as a file that `train` takes: local or s3://bucket/key."""


def points(space: Mapping[str, Range], num_points: int, seed: int) -> list[dict[str, Any]]:
    """Points of a space.

    Parameters
    ----------
    space
        Settings and what they may be, at least one.
    num_points
        How many; fewer are the first of more.
    seed
        Of the scrambling.

    References
    ----------
    Owen (2017), arXiv:1706.02808: randomised Halton sequences.
    """
    from scipy.stats import qmc  # a second that other jobs need not pay

    names = sorted(space)
    places = qmc.Halton(len(names), rng=seed).random(num_points)
    return [{name: space[name].at(float(at)) for name, at in zip(names, row, strict=True)} for row in places]
