"""Where the target of a clean image is, how bright, and how far its light goes."""

# C = channels, S = pixels a side

from dataclasses import dataclass

import numpy as np

from engine.synthetic.field.bands import FloatArray

TARGET_RADIUS = 1 / 3
"""Light within this part of the side is taken to be the target's; what lies further out is a neighbour's."""


@dataclass(frozen=True, slots=True)
class Target:
    """The object in the middle of an image.

    `x`, `y` its centre [pixel]; `channel` its brightest one, in which `flux`, `half_light_px` and `centre`,
    the light of its central pixel, are taken; flux and centre are at least the noise of a pixel.
    """

    x: float
    y: float
    channel: int
    flux: float
    half_light_px: float
    centre: float


def measure_target(clean: FloatArray, error: FloatArray, dx: float = 0.0, dy: float = 0.0) -> Target:
    """Measure the target of one image by its curve of growth.

    Parameters
    ----------
    clean, error
        [C, S, S].
    dx, dy
        Centre minus pixel S // 2.
    """
    size = clean.shape[-1]
    x, y = size // 2 + dx, size // 2 + dy
    ring = np.minimum(radii(size, x, y).astype(np.int64), size).ravel()
    last = max(round(size * TARGET_RADIUS), 2)
    growth = np.array([np.bincount(ring, image.ravel(), size + 1)[:last].cumsum() for image in clean])
    channel = int(growth[:, -1].argmax())
    curve, noise = growth[channel], float(np.median(error[channel]))
    half = float(np.interp(0.5 * curve[-1], np.r_[0.0, np.maximum.accumulate(curve)], np.arange(last + 1)))
    centre = clean[channel, round(y), round(x)]
    return Target(x, y, channel, max(float(curve[-1]), noise), max(half, 1.0), max(float(centre), noise))


def radii(size: int, x: float, y: float) -> FloatArray:
    """Distance of pixels [S, S] from a place [pixel]."""
    pixels = np.arange(size)
    return np.hypot(pixels - x, (pixels - y)[:, None])


def half_light_snr(clean: FloatArray, error: FloatArray, target: Target) -> float:
    """S/N of the target within its half-light radius: sum of the light over the root of the summed variance.

    In the target's channel; pixels count whole if their centre is inside. 0 where there is no light. Pixels are
    taken as independent: with the correlated noise of `engine.synthetic.field.noise` the true S/N is lower, as
    in `models.scoring.aperture`.

    Parameters
    ----------
    clean, error
        [C, S, S]; pixels with error 0 do not count.
    target
        Of `measure_target`.
    """
    light, sigma = clean[target.channel], error[target.channel]
    inside = (radii(clean.shape[-1], target.x, target.y) <= target.half_light_px) & (sigma > 0)
    noise = np.sqrt(np.square(sigma[inside], dtype=np.float64).sum())
    return max(float(light[inside].sum(dtype=np.float64) / noise), 0.0) if noise > 0 else 0.0
