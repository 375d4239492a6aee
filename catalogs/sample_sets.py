"""Sets of images as a report compares them, and what was found; apart from the report, which imports what draws."""

# N = images, S = pixels a side, R = radial bins

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from catalogs.sample_robustness import Robustness


@dataclass(frozen=True)
class ImageSet:
    """Images of a set that can be measured, and what was measured of them.

    Parameters
    ----------
    images
        A channel of each [N, S, S].
    morphology
        Values of `engine.images.morphology.MEASURES` [N], and colours where there are bands for them.
    spectra
        Radially averaged amplitudes [N, R], NaN beyond the bins of smaller ones where images say their own size.
    pooled
        Features of pooled pixels of all channels, [N, F].
    """

    images: np.ndarray
    morphology: Mapping[str, np.ndarray]
    spectra: np.ndarray
    pooled: np.ndarray

    @property
    def num_failed(self) -> int:
        """Images that could not be measured at all."""
        return int((self.morphology["flag"] >= 4).sum())


class Copies(Protocol):
    """What `models.evaluation.neighbours.copying` finds."""

    @property
    def generated(self) -> float:
        """Median distance of samples from the nearest training image."""
        ...

    @property
    def held_out(self) -> float:
        """That of real images that were not trained on."""
        ...

    @property
    def nearer(self) -> float:
        """Probability that a sample is the nearer of two."""
        ...

    @property
    def error(self) -> float:
        """Its standard error."""
        ...


@dataclass(frozen=True)
class Findings:
    """What a report says of samples beside the pictures.

    Parameters
    ----------
    distances
        Quantity, value with its interval, floor, as text.
    missing
        Groups of quantities that could not be measured, and why.
    taken
        How distances are taken.
    floor_of
        What the floor is the distance between.
    copies, no_copies
        How near samples are to training images; or why it is not known.
    searched
        Training images among which the nearest was looked for, and how many there are.
    nearest
        Distances [M] from the nearest real image, if they were measured.
    robustness
        What mixing samples into a training did, if an experiment was given.
    num_held_out
        Real images of the comparison that were not trained on; the others were, for want of more.
    left_out
        How many real and how many generated images take part in the distances, and why others do not.
    """

    distances: Sequence[tuple[str, str, str]] = ()
    missing: Sequence[str] = ()
    taken: str = ""
    floor_of: str = ""
    copies: Copies | None = None
    no_copies: str = ""
    searched: tuple[int, int] = (0, 0)
    nearest: np.ndarray | None = None
    robustness: "Robustness | None" = None
    num_held_out: int | None = None
    left_out: str = ""
