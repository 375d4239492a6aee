"""Images for generators: elliptical exponential profiles without noise, and their parameters."""

import numpy as np

CONDITIONS = {"half_light_radius_pixels": (1.0, 4.0), "axis_ratio": (0.4, 1.0)}
"""Columns that may be conditions, with their ranges."""


def make_blobs(
    rows: int, size: int = 16, seed: int = 0, conditions: tuple[str, ...] = (), channels: int = 1
) -> dict[str, np.ndarray]:
    """Columns of `models.generators.images.columns_read`.

    Parameters
    ----------
    rows, size, channels
        Images, their pixels a side, and how many of a galaxy, each fainter than the one before.
    seed
        Of everything.
    conditions
        Keys of `CONDITIONS`.
    """
    rng = np.random.default_rng(seed)
    low, high = np.array(list(CONDITIONS.values())).T
    radius, ratio = rng.uniform(low, high, (rows, 2)).astype(np.float32).T
    dy, dx = rng.uniform(-size / 16, size / 16, (2, rows, 1, 1))
    angle = rng.uniform(0, np.pi, (rows, 1, 1))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along = (x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)
    across = (y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)
    scale = (radius * size / 16)[:, None, None]
    images = 20 * np.exp(-1.68 * np.hypot(along, across / ratio[:, None, None]) / scale)
    images = images[:, None] * 0.5 ** np.arange(channels)[:, None, None]
    columns = dict(zip(CONDITIONS, (radius, ratio), strict=True))
    image = images.reshape(rows, channels * size**2).astype(np.float32)
    return {"image": image} | {name: columns[name] for name in conditions}
