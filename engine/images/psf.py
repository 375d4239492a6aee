"""Kernels that give one band the point-spread function (PSF) of another, and their use on masked images."""

import math

import numpy as np
from scipy.ndimage import map_coordinates

from engine.errors import ConfigError
from engine.images.planes import Plane

SCALE_TOLERANCE = 0.01
"""Relative difference of pixel scales up to which a PSF is taken to fit."""

MIN_WEIGHT = 0.5
"""A convolved pixel is masked if less of the kernel than this lies on usable pixels."""

WINDOW_ALPHA, WINDOW_BETA = 0.3, 0.4
"""Taper of high frequencies, where the ratio of two transforms is noise."""


def prepare_psf(
    psf: np.ndarray, psf_scale: float, image_scale: float, size: int, where: str, resample: bool = False
) -> np.ndarray:
    """Bring a PSF to the image's pixels, cropped or padded to `size`, sum 1.

    Parameters
    ----------
    psf
        [H, W], centred on the middle pixel, H and W odd.
    psf_scale, image_scale
        Pixel scales [arcsec].
    size
        Odd number of pixels of the result's side.
    resample
        Interpolate a PSF of another scale (cubic splines; poor where it is undersampled).

    Raises
    ------
    ConfigError
        If the scales differ and `resample` is False, or the PSF has no centre pixel or no flux.
    """
    if psf.ndim != 2 or not all(side % 2 for side in (*psf.shape, size)):
        raise ConfigError(
            "PSF has no middle pixel", where, str(psf.shape), "an odd number of rows and columns"
        )
    ratio = image_scale / psf_scale
    if abs(ratio - 1) > SCALE_TOLERANCE and not resample:
        raise ConfigError(
            "PSF has another pixel scale than the image", where,
            got=f"{psf_scale:.4g} arcsec for the PSF", expected=f"{image_scale:.4g} arcsec as the image",
            hint="Give PSFs on the image's pixels, or allow psf.resample = true.",
        )  # fmt: skip
    step = ratio if resample else 1.0
    offsets = (np.arange(size) - size // 2) * step
    y, x = np.meshgrid(offsets + psf.shape[0] // 2, offsets + psf.shape[1] // 2, indexing="ij")
    out = map_coordinates(np.asarray(psf, np.float64), [y, x], order=3 if step != 1 else 0)
    total = float(out.sum())
    if not math.isfinite(total) or total <= 0:
        raise ConfigError("PSF has no flux", where, f"sum {total}", "a positive one")
    return out / total


def matching_kernel(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Kernel of sum 1 that, convolved with the PSF `source`, gives the wider PSF `target`.

    Both [H, H] of one scale, from `prepare_psf`.

    References
    ----------
    Gordon et al. (2008), ApJ 682, 336, Sect. 2.3: ratio of transforms with a cosine taper.
    """
    from photutils.psf_matching import SplitCosineBellWindow, make_kernel  # import: only matching needs it

    window = SplitCosineBellWindow(alpha=WINDOW_ALPHA, beta=WINDOW_BETA)
    kernel = make_kernel(source, target, window=window)
    return kernel / kernel.sum()


def convolve(plane: Plane, kernel: np.ndarray) -> Plane:
    """Convolve a plane with a kernel of sum 1; masked pixels have no weight, and stay masked.

    A pixel is the kernel's mean over usable pixels. Errors go through the kernel squared, as if pixels were
    independent.
    """
    from scipy.signal import oaconvolve  # 2 s of import that only matching needs

    valid = (~plane.mask).astype(np.float32)
    kernel = kernel.astype(np.float32)
    weight = oaconvolve(valid, kernel, mode="same")
    science = oaconvolve(plane.science, kernel, mode="same")
    variance = oaconvolve(np.square(plane.error), np.square(kernel), mode="same")
    mask = plane.mask | (weight < MIN_WEIGHT)
    weight = np.where(mask, 1, weight)
    science, error = science / weight, np.sqrt(np.maximum(variance, 0)) / weight
    return Plane(
        np.where(mask, 0, science).astype(np.float32), np.where(mask, 0, error).astype(np.float32), mask,
        plane.y0, plane.x0,
    )  # fmt: skip
