"""Radially averaged power spectra of images, and the two ways to divide them into modes.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, Sect. 4, and its released code (`radially_averaged_power_spectrum`).
"""

# B = images, S = pixels a side, R = radial bins, M = modes

from typing import Literal

import numpy as np

Variant = Literal["released", "partitions"]
"""`released`: what the published code computes and its table shows, the first 15 radial bins. `partitions`: what it
says and the paper means, 15 ranges of frequency up to the highest; every bin of every image is a value."""

NUM_MODES = 15
_HIGHEST = 0.5 * 0.7 / 0.276
"""Highest frequency of the published partitions [h / kpc]; only ratios to it matter."""
_LOWEST = 1 / 1024
_REFERENCE_BINS = 181
"""Radial bins of an image of 128 pixels, on which the published partitions are laid out."""


def radial_amplitude(images: np.ndarray) -> np.ndarray:
    """Mean amplitude of the Fourier transform by whole wavenumber.

    Parameters
    ----------
    images
        [B, S, S], S even.

    Returns
    -------
    numpy.ndarray
        float64 [B, R], R = floor(S / sqrt(2)) + 1: mean of ``|F(k)| / S**2`` over modes with ``r <= |k| < r + 1``, in the
        unit of the image. Bin 0 is the absolute value of the image's mean. Bins beyond S / 2 are corners only.

    Raises
    ------
    ValueError
        If images are not square, or S is odd: the zero frequency would not lie where bins are centred.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.shape[1] % 2:
        raise ValueError(f"images have shape {images.shape}, expected [B, S, S] with S even")
    size = images.shape[1]
    wave = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(wave, wave[:, None]).astype(np.int64).ravel()
    count = np.bincount(radius)
    result = np.empty((len(images), len(count)))
    for image, row in zip(images, result, strict=True):
        amplitude = np.abs(np.fft.fft2(image.astype(np.float64))).ravel() / size**2
        row[:] = np.bincount(radius, amplitude) / count
    return result


def modes_of(spectra: np.ndarray, variant: Variant) -> list[np.ndarray]:
    """Divide spectra into modes.

    Parameters
    ----------
    spectra
        [B, R] as `radial_amplitude` returns them.
    variant
        Which division.

    Returns
    -------
    list of numpy.ndarray
        15 arrays [B] if `released`. If `partitions` [B x bins] each, 15 of them for images of 256 pixels; those ranges
        that hold no bin of smaller images are left out (14 remain at 64 and 128 pixels).

    Raises
    ------
    ValueError
        If there are fewer than 15 bins.
    """
    num_bins = spectra.shape[1]
    if num_bins < NUM_MODES:
        raise ValueError(
            f"spectra have {num_bins} bins, {NUM_MODES} are needed: images of 20 pixels at least"
        )
    if variant == "released":
        return list(spectra[:, :NUM_MODES].T)
    mode = partition_of_bins(num_bins)
    return [spectra[:, mode == number].ravel() for number in np.unique(mode)]


def partition_of_bins(num_bins: int) -> np.ndarray:
    """Mode of each radial bin, int64 [R], 0 to 14: bin 0 alone, then ranges that widen with frequency.

    Images of few pixels may leave some of the lowest ranges empty.
    """
    share = np.arange(num_bins) / (num_bins - 1)
    return np.where(share > 0, 1 + np.searchsorted(_upper_edges(), share, side="left"), 0)


def _upper_edges() -> np.ndarray:
    """Upper ends of modes 1 to 14 as shares of the highest frequency.

    A range gets bins in proportion to 1 / log(f[i + 1] / f[i]) of 15 frequencies spaced evenly; a range without a
    bin of its own at its place takes one all the same, as in the published code.
    """
    steps = np.diff(np.log(np.linspace(_LOWEST, _HIGHEST, NUM_MODES)))
    ends = np.cumsum(1 / steps) * _REFERENCE_BINS / (1 / steps).sum()
    edges, current = [], 0
    for index in range(_REFERENCE_BINS):
        if index >= ends[current]:
            current += 1
            edges.append((index + 1) / _REFERENCE_BINS)
    return np.array([*edges, 1.0])
