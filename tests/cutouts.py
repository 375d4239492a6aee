"""Cutouts of simple galaxies: a disk and a bulge with power-law spectra, so that the SW bands tell the LW bands."""

import numpy as np

from models.band_gan_config import NOISE_NJY
from models.scoring.cutouts import BANDS, LW, PIVOT_UM

PIXEL_SCALE = 0.03
COLOUR_SCATTER_MAG = 0.03
"""Of the LW bands about the power law: what no model can predict."""


def make_cutouts(rows: int, size: int = 32, seed: int = 0, noise: float = 1.0) -> dict[str, np.ndarray]:
    """Columns of `models.scoring.cutouts.cutout_input`.

    Parameters
    ----------
    rows, size
        Objects and pixels a side.
    seed
        Of everything.
    noise
        Background rms in units of that of CEERS; a tenth of the pixels of some rows is masked.
    """
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-0.5, 0.5, (2, rows)).astype(np.float32)
    flux = 10 ** rng.uniform(1.5, 3.7, rows)
    slope, bulge = rng.uniform(0, 2, rows), rng.uniform(0, 0.6, rows)
    radius = rng.uniform(2, 5, rows)
    images = np.zeros((rows, len(BANDS), size, size))
    for part, redder, extent in ((1 - bulge, 0.0, radius), (bulge, 0.7, 0.35 * radius)):
        spectrum = (np.array(PIVOT_UM) / 1.5) ** (slope + redder)[:, None]
        images += (flux * part)[:, None, None, None] * spectrum[:, :, None, None] * profile(
            size, dx, dy, extent, rng.uniform(0.4, 1, rows), rng.uniform(0, np.pi, rows)
        )[:, None]  # fmt: skip
    images[:, LW] *= 10 ** (0.4 * COLOUR_SCATTER_MAG * rng.normal(size=(rows, 3, 1, 1)))
    error = noise * np.array(NOISE_NJY)[:, None, None] * np.ones_like(images)
    error = np.hypot(error, np.sqrt(0.01 * noise * np.maximum(images, 0)))
    mask = (rng.random(images.shape) < 0.1) & (rng.random((rows, 1, 1, 1)) < 0.2)
    science = np.where(mask, 0, images + error * rng.normal(size=images.shape))
    flat = {"science": science, "error": np.where(mask, 0, error)}
    batch = {
        name: values.reshape(rows, len(BANDS) * size**2).astype(np.float32) for name, values in flat.items()
    }
    batch |= {"mask": mask.reshape(rows, len(BANDS) * size**2), "dx": dx, "dy": dy}
    return batch | {"pixel_scale": np.full(rows, PIXEL_SCALE, np.float32)}


def profile(size: int, dx, dy, radius, axis_ratio, angle) -> np.ndarray:
    """Exponential disks of unit flux with a core, [rows, size, size]."""
    at = np.arange(size) - size // 2
    x, y = at[None, None, :] - dx[:, None, None], at[None, :, None] - dy[:, None, None]
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    major, minor = c * x + s * y, (c * y - s * x) / axis_ratio[:, None, None]
    shape = np.exp(-np.sqrt((major**2 + minor**2 + 1) / (radius**2)[:, None, None]))
    return shape / shape.sum((1, 2), keepdims=True)


def by_band(values: np.ndarray, size: int) -> np.ndarray:
    """View [rows, 6 * S * S] as [rows, 6, S, S]."""
    return values.reshape(len(values), len(BANDS), size, size)


def swap_bands(batch: dict[str, np.ndarray], row: int, size: int, first: int, second: int) -> None:
    """Exchange two bands of one row."""
    for name in ("science", "error", "mask"):
        view = by_band(batch[name], size)
        view[row, [first, second]] = view[row, [second, first]]


def hide_band(batch: dict[str, np.ndarray], row: int, size: int, band: int) -> None:
    """Leave no usable pixel of a band."""
    for name, value in (("science", 0), ("error", 0), ("mask", True)):
        by_band(batch[name], size)[row, band] = value
