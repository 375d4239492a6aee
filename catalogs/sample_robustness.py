"""What mixing generated images into the training of a restorer does to its errors: curves over the fraction alpha.

The measurements are those that `benchmarks.augmentation --json` writes.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, Sect. 6: 11 % at pixels of another size, 45 % at stronger noise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import t as student

from catalogs.figures import BLUE, GREEN, GREY, PURPLE, VERMILION, new_figure, style, to_svg
from engine.errors import SourceError

CONFIDENCE = 0.95
COLOURS = (GREY, BLUE, VERMILION, PURPLE, GREEN)
"""Of the shifts in their order."""

Errors = Mapping[float, Sequence[Mapping[str, float]]]
"""Alpha to the mean squared errors under each shift, one entry a seed, in the order of the seeds."""


class Gain(NamedTuple):
    """Mean of 1 - MSE(alpha) / MSE(0) over seeds, and half the width of its interval at `CONFIDENCE` (NaN for one seed)."""

    mean: float
    half: float


class Robustness(BaseModel):
    """The experiment: errors by alpha, and how it was made."""

    model_config = ConfigDict(frozen=True)

    errors: dict[float, list[dict[str, float]]] = Field(min_length=1)
    options: dict[str, object] = Field(default_factory=dict)

    @property
    def shifts(self) -> list[str]:
        """Changes of the images that were tested, in their order."""
        return list(next(iter(self.errors.values()))[0])


def read_robustness(text: bytes, uri: str) -> Robustness:
    """Parse what `benchmarks.augmentation --json` has written.

    Raises
    ------
    SourceError
        If it is something else, has no alpha = 0, or its alphas have other seeds or shifts.
    """
    try:
        found = Robustness.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(
            "not the JSON of benchmarks.augmentation", uri, f"{where}: {first['msg']}"
        ) from error
    seeds = [len(one) for one in found.errors.values()]
    if 0.0 not in found.errors or min(seeds) != max(seeds) or not seeds[0]:
        raise SourceError(
            "alphas cannot be compared", uri, f"alphas {list(found.errors)} with {seeds} seeds",
            "alpha 0, and the same seeds for each",
        )  # fmt: skip
    if any(one.keys() != {*found.shifts} for alpha in found.errors.values() for one in alpha):
        raise SourceError("shifts differ between seeds", uri, ", ".join(found.shifts), "the same for all")
    return found


def improvement(errors: Errors, alpha: float, shift: str) -> Gain:
    """Gain of one alpha under a shift; each seed is paired with its own alpha = 0."""
    pairs = zip(errors[alpha], errors[0.0], strict=True)
    return mean_of(np.array([1 - one[shift] / base[shift] for one, base in pairs]))


def mean_of(gains: np.ndarray) -> Gain:
    """Mean of gains [N], one a seed of a restorer, with the interval of Student's t: of these seeds alone."""
    num, tail = len(gains), (1 - CONFIDENCE) / 2
    half = student.ppf(1 - tail, num - 1) * gains.std(ddof=1) / num**0.5 if num > 1 else np.nan
    return Gain(float(gains.mean()), float(half))


def robustness_chart(errors: Errors, shifts: Sequence[str]) -> str:
    """Draw the gain over alpha, one panel a shift, with its intervals; SVG."""
    alphas = sorted(errors)
    with style():
        figure = new_figure(10.5, 2.9)
        panels = figure.subplots(1, len(shifts), sharey=True, squeeze=False).ravel()
        for axes, shift, colour in zip(panels, shifts, COLOURS * len(shifts), strict=False):
            gains = [improvement(errors, alpha, shift) for alpha in alphas]
            mean, half = (100 * np.array([getattr(gain, name) for gain in gains]) for name in Gain._fields)
            axes.axhline(0, color=GREY, lw=0.8)
            axes.errorbar(
                alphas, mean, np.nan_to_num(half), color=colour, marker="o", ms=4, lw=1.4, capsize=2
            )
            axes.set_title(shift, fontsize=10)
            axes.set_xticks([0, 0.5, 1])
        panels[0].set_ylabel("lower MSE [%]")
        figure.supxlabel("fraction of generated batches", fontsize="medium")
        return to_svg(figure)


def robustness_rows(found: Robustness) -> list[tuple[str, float, list[Gain]]]:
    """Shift, MSE at alpha = 0, and the gain of every other alpha in growing order."""
    others = sorted(alpha for alpha in found.errors if alpha)
    return [
        (
            shift,
            float(np.mean([one[shift] for one in found.errors[0.0]])),
            [improvement(found.errors, alpha, shift) for alpha in others],
        )
        for shift in found.shifts
    ]
