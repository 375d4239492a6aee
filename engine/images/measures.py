"""All that is measured of images to compare sets of them: morphology, power spectra and colours.

Of images that say their own size it is of that size, as published: the jobs and the benchmarks measure alike.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, Sect. 4, and its released code.
"""

# B = images, C = channels, S, H, W = pixels, R = radial bins

from collections.abc import Iterable

import numpy as np

from engine.images.morphology import MorphologyConfig, measure
from engine.images.own_size import SIZE_CHANNEL, SKIRT_G, SKIRT_I, SKIRT_R, at_own_size, has_size
from engine.images.power import radial_amplitude, stacked
from engine.schema import Arrays


def usable(images: np.ndarray) -> np.ndarray:
    """Images [B, C, S, S] of which something can be measured: finite, and constant in no channel but that of size."""
    finite = np.asarray(np.isfinite(images).all((1, 2, 3)))
    bands = images[:, :SIZE_CHANNEL] if has_size(images.shape[1]) else images
    planes = np.where(finite[:, None, None, None], bands, 0)
    return finite & (planes.max((2, 3)) > planes.min((2, 3))).all(1)


def measures(images: np.ndarray, keys: Iterable[int], config: MorphologyConfig) -> tuple[Arrays, np.ndarray]:
    """Morphology and colours of images [B, C, S, S], and their power spectra [B, R].

    Parameters
    ----------
    images
        Usable ones.
    keys, config
        See `engine.images.morphology.measure`.
    """
    found = measure(at_own_size(images, config.channel), keys, config)
    return found | colours(images), spectra(images, config.channel)


def spectra(images: np.ndarray, channel: int) -> np.ndarray:
    """Radially averaged amplitudes [B, R] of a channel; of SKIRT images of the r band at its own size, `stacked`."""
    if not has_size(images.shape[1]):
        return radial_amplitude(images[:, channel])
    return stacked(radial_amplitude(plane[None]) for plane in at_own_size(images, SKIRT_R))


def colours(images: np.ndarray) -> Arrays:
    """`g_minus_i` [B, mag] of SKIRT images; nothing of others."""
    if not has_size(images.shape[1]):
        return {}
    return {"g_minus_i": g_minus_i(images[:, SKIRT_G], images[:, SKIRT_I])}


def g_minus_i(g: np.ndarray, i: np.ndarray) -> np.ndarray:
    """Colours [B, mag] of images [B, H, W] by their total flux; NaN where one is not above 0."""
    flux_g, flux_i = (np.asarray(image, np.float64).sum(axis=(-2, -1)) for image in (g, i))
    good = (flux_g > 0) & (flux_i > 0)
    ratio = np.divide(flux_g, flux_i, out=np.full(len(flux_g), np.nan), where=good)
    return -2.5 * np.log10(ratio)
