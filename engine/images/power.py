"""Radially averaged power spectra of images, and the two ways to divide them into modes.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, Sect. 4, and its released code (`radially_averaged_power_spectrum`).
"""

# B = images, S = pixels a side, R = radial bins, M = modes

from collections.abc import Iterable
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
        [B, S, S].

    Returns
    -------
    numpy.ndarray
        float64 [B, R], R = floor(S / sqrt(2)) + 1, of odd S floor((S - 1) / sqrt(2)) + 1: mean of ``|F(k)| / S**2`` over modes with ``r <= |k| < r + 1``, in the
        unit of the image. Bin 0 is the absolute value of the image's mean. Bins beyond S / 2 are corners only. Of odd S
        the published code bins about a point half a mode away from frequency 0, here it is frequency 0.

    Raises
    ------
    ValueError
        If images are not square.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images have shape {images.shape}, expected [B, S, S]")
    size = images.shape[1]
    wave = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(wave, wave[:, None]).astype(np.int64).ravel()
    count = np.bincount(radius)
    result = np.empty((len(images), len(count)))
    for image, row in zip(images, result, strict=True):
        amplitude = np.abs(np.fft.fft2(image.astype(np.float64))).ravel() / size**2
        row[:] = np.bincount(radius, amplitude) / count
    return result


def stacked(spectra: Iterable[np.ndarray]) -> np.ndarray:
    """Put spectra [B, R] of images of several sizes into one array: NaN beyond the bins of the smaller ones."""
    parts = list(spectra)
    most = max(part.shape[1] for part in parts)
    tails = (((0, 0), (0, most - part.shape[1])) for part in parts)
    return np.concatenate(
        [np.pad(part, tail, constant_values=np.nan) for part, tail in zip(parts, tails, strict=True)]
    )


def modes_of(spectra: np.ndarray, variant: Variant) -> dict[int, np.ndarray]:
    """Divide spectra into modes.

    Parameters
    ----------
    spectra
        [B, R] as `radial_amplitude` returns them, or `stacked`: each image has the bins before its first NaN.
    variant
        Which division.

    Returns
    -------
    dict
        Number of a mode, 0 to 14, to its values. If `released`, bin 0 to 14 of the images that have it. If `partitions`,
        all bins of all images, each by its share of that image's highest frequency; those ranges that hold no bin are
        left out (14 remain of images of 64 and 128 pixels, 15 of 256).

    Raises
    ------
    ValueError
        If no image has 15 bins.
    """
    num_bins = spectra.shape[1]
    if num_bins < NUM_MODES:
        raise ValueError(
            f"spectra have {num_bins} bins, {NUM_MODES} are needed: images of 20 pixels at least"
        )
    counts = (~np.isnan(spectra)).sum(axis=1)
    if variant == "released":
        return {number: spectra[counts > number, number] for number in range(NUM_MODES)}
    found: dict[int, list[np.ndarray]] = {}
    for count in np.unique(counts).tolist():
        rows, mode = spectra[counts == count, :count], partition_of_bins(count)
        for number in np.unique(mode).tolist():
            found.setdefault(number, []).append(rows[:, mode == number].ravel())
    return {number: np.concatenate(parts) for number, parts in sorted(found.items())}


def partition_of_bins(num_bins: int) -> np.ndarray:
    """Mode of each radial bin, int64 [R], 0 to 14: bin 0 alone, then ranges that widen with frequency.

    Images of few pixels may leave some of the lowest ranges empty.
    """
    share = np.arange(num_bins) / max(num_bins - 1, 1)
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
