"""Objects as the scores of normality see them: where they lie, what is left of them, and what is known of them."""

# B objects, D latents, K windows

from typing import NamedTuple

import numpy as np

from models.scoring.calibration import CLASSES

NO_CLASS = len(CLASSES) - 1
"""Number of the class of an object whose class is unknown."""


class Objects(NamedTuple):
    """Some objects.

    `latent` [B, D] means; `profile` [B, K] coherent residual of each window in standard deviations, compressed by
    asinh, 0 where nothing is seen; [B] each: `id`; `class_index` in `CLASSES`, `NO_CLASS` if unknown; `redshift`, NaN
    if unknown; median `snr`.
    """

    latent: np.ndarray
    profile: np.ndarray
    id: np.ndarray
    class_index: np.ndarray
    redshift: np.ndarray
    snr: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Objects":
        """Return the objects of some rows."""
        return Objects(*(values[rows] for values in self))

    @property
    def is_finite(self) -> np.ndarray:
        """Whether latent and profile are, [B]."""
        return np.asarray(np.isfinite(np.concatenate([self.latent, self.profile], axis=1)).all(1))


def class_index(spectype: np.ndarray) -> np.ndarray:
    """Return the number of each class [B] in `CLASSES`."""
    known = {name: index for index, name in enumerate(CLASSES[:-1])}
    return np.array([known.get(name, NO_CLASS) for name in spectype], np.int64)


NUM_WAVES = 6
NUM_CONDITIONS = 2 + 2 * NUM_WAVES + NO_CLASS + 1


def condition(objects: Objects) -> np.ndarray:
    """Return what densities depend on, [B, `NUM_CONDITIONS`].

    A line of the observed frame lies elsewhere at another redshift: ln(1 + z) is given with sines and cosines down to
    a period of 0.125, about the width that latents tell apart. All zero for an unknown redshift.
    """
    is_known = np.isfinite(objects.redshift)
    log_stretch = np.log1p(np.clip(np.where(is_known, objects.redshift, 0), -0.01, 7.0))
    waves = [f(np.pi * 2.0**k * log_stretch / 2) for k in range(NUM_WAVES) for f in (np.sin, np.cos)]
    place = np.stack([np.ones(len(is_known)), log_stretch - 0.5, *waves]) * is_known
    classes = [objects.class_index == index for index in range(NO_CLASS)]
    log_snr = np.log(np.clip(np.nan_to_num(objects.snr), 0.05, 300.0)) / 2
    return np.concatenate([place, classes, [log_snr]]).T.astype(np.float32)
