"""A set of images as a report compares it; apart from the report, which imports what draws."""

# N = images, S = pixels a side, R = radial bins

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.images.power import radial_amplitude


@dataclass(frozen=True)
class ImageSet:
    """Images [N, S, S] and what `engine.images.morphology.MEASURES` are of them, [N] each."""

    images: np.ndarray
    morphology: Mapping[str, np.ndarray]

    @property
    def spectra(self) -> np.ndarray:
        """Radially averaged amplitudes [N, R]."""
        return radial_amplitude(self.images)

    @property
    def num_failed(self) -> int:
        """Images that could not be measured at all."""
        return int((self.morphology["flag"] >= 4).sum())
