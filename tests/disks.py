"""Cutouts of toy disks, seen edge-on, and of round galaxies, of the same brightness, size and colour."""

import numpy as np

from models.band_gan_config import NOISE_NJY
from models.scoring.cutouts import BANDS
from tests.cutouts import PIXEL_SCALE, profile


def make_disks(rows: int, size: int = 32, seed: int = 0, unknown: float = 0.0) -> dict[str, np.ndarray]:
    """Columns of `models.scoring.cutouts.cutout_input`, and `label`.

    Parameters
    ----------
    rows, size
        Objects and pixels a side.
    seed
        Of everything.
    unknown
        Part of the labels that are -1.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    dx, dy = rng.uniform(-0.5, 0.5, (2, rows)).astype(np.float32)
    axis_ratio = np.where(label == 1, rng.uniform(0.2, 0.35, rows), rng.uniform(0.85, 1, rows))
    shape = profile(
        size, dx, dy, rng.uniform(2, 3, rows) / np.sqrt(axis_ratio), axis_ratio, rng.uniform(0, np.pi, rows)
    )
    flux = 10 ** rng.uniform(2.3, 3.7, rows)
    noise = np.array(NOISE_NJY)[:, None, None] * np.ones((rows, len(BANDS), size, size))
    science = (flux[:, None, None] * shape)[:, None] + noise * rng.normal(size=noise.shape)
    columns = {"science": science.astype(np.float32), "error": noise.astype(np.float32)}
    batch = {name: values.reshape(rows, len(BANDS) * size**2) for name, values in columns.items()}
    batch |= {"mask": np.zeros_like(batch["science"], bool), "dx": dx, "dy": dy}
    label[rng.random(rows) < unknown] = -1
    return batch | {"pixel_scale": np.full(rows, PIXEL_SCALE, np.float32), "label": label.astype(np.int8)}
