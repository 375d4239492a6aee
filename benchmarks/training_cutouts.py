"""Synthetic NIRCam cutouts on disk, for training without mosaics, and what is put on top of them at random.

A pool of cutouts is drawn once and kept without noise; each pass over it gets noise of its own depth, small errors
of zero points and background, so that a network learns colours and not one field's depth.
"""

# B cutouts, S pixels a side

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from engine.images.bands import BANDS
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.cutouts import CHUNK, CutoutMaker
from engine.synthetic.field.cutouts import Cutouts as Drawn
from engine.synthetic.nircam import morphology

Batch = dict[str, np.ndarray]
CLASSIFIED: dict[str, Any] = {
    "old_fraction": 0.5, "z_min": 0.5, "z_max": 7.0, "redshifts": "uniform", "anomaly_fraction": 0.15,
    "anomaly_kinds": ("merger",),
}  # fmt: skip
"""Of `FieldConfig`: the galaxies that the disk classifier learns from, disks, spheroids and mergers."""


@dataclass(frozen=True)
class Augment:
    """Sizes of what is put on top of a cutout; standard deviations."""

    log_depth: float = 0.3
    """ln of the noise of all bands together, to that of CEERS."""
    log_band_depth: float = 0.1
    """The same of each band."""
    zero_point: float = 0.02
    """Relative flux error of each band."""
    background: float = 0.1
    """Of each band, in its noise a pixel."""


def batch_of(drawn: Drawn) -> Batch:
    """Cutouts as staged rows have them, with the truth beside: anomaly, kind, morphology ("": no class)."""
    num = len(drawn.science)
    return {
        "science": drawn.science.reshape(num, -1),
        "error": drawn.error.reshape(num, -1),
        "mask": drawn.mask.reshape(num, -1),
        "dx": drawn.dx,
        "dy": drawn.dy,
        "pixel_scale": np.full(num, drawn.pixel_arcsec, np.float32),
        "anomaly": np.array([source.anomaly or "" for source in drawn.sources], object),
        "kind": np.array([source.kind for source in drawn.sources], object),
        "morphology": np.array([morphology(source) or "" for source in drawn.sources], object),
    }


def augmented(batch: Batch, noiseless: np.ndarray, sizes: Augment, rng: np.random.Generator) -> Batch:
    """Return the same objects seen with another depth, zero points and background."""
    num = len(noiseless)
    shape = (num, len(BANDS), 1)
    depth = rng.normal(0, sizes.log_depth, (num, 1, 1)) + rng.normal(0, sizes.log_band_depth, shape)
    factor = np.exp(depth).astype(np.float32)
    science, error = (batch[name].reshape(num, len(BANDS), -1) for name in ("science", "error"))
    light = noiseless.reshape(science.shape)
    noise = (science - light) * factor
    level = np.median(error, axis=2, keepdims=True) * factor
    offset = rng.normal(0, sizes.background, shape).astype(np.float32) * level
    scale = np.exp(rng.normal(0, sizes.zero_point, shape)).astype(np.float32)
    science = light * scale + noise + offset
    return batch | {"science": science.reshape(num, -1), "error": (error * factor).reshape(num, -1)}


class Pool:
    """Cutouts in files of `CHUNK`, made by other processes where they are not there yet.

    Parameters
    ----------
    folder
        Where they lie; one for each configuration, size and limiting magnitude.
    config
        Population, seed and anomalies.
    size_px
        Pixels of a side.
    faintest_mag
        Faintest central objects.
    """

    def __init__(self, folder: Path, config: FieldConfig, size_px: int, faintest_mag: float) -> None:
        self._folder, self._arguments = folder, (config, size_px, faintest_mag)

    def make(self, num_chunks: int, num_workers: int) -> None:
        """Draw the chunks that are missing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(num_chunks) if not self._path(number).exists()]
        with ProcessPoolExecutor(num_workers, get_context("spawn"), _open, self._arguments) as pool:
            jobs = [pool.submit(_write, number, self._path(number)) for number in missing]
            for job in jobs:
                job.result()

    def read(self, number: int) -> tuple[Batch, np.ndarray]:
        """Return a chunk and its light without noise, [CHUNK, 6 * S * S]."""
        with np.load(self._path(number)) as file:
            batch = {name: file[name] for name in file.files}
        batch |= {name: values.astype(object) for name, values in batch.items() if values.dtype.kind == "U"}
        return batch, batch.pop("noiseless")

    def batches(self, numbers: np.ndarray, rows: int, sizes: Augment | None, seed: int) -> Iterator[Batch]:
        """Batches of so many rows of the chunks in this order, each chunk shuffled and augmented."""
        for number in numbers.tolist():
            rng = np.random.default_rng((seed, number))
            batch, noiseless = self.read(number)
            if sizes is not None:
                batch = augmented(batch, noiseless, sizes, rng)
            order = rng.permutation(CHUNK)
            for start in range(0, CHUNK - rows + 1, rows):
                yield {key: values[order[start : start + rows]] for key, values in batch.items()}

    def _path(self, number: int) -> Path:
        return self._folder / f"chunk-{number:05d}.npz"


_maker: CutoutMaker | None = None  # of a worker process; set by its initializer


def _open(config: FieldConfig, size_px: int, faintest_mag: float) -> None:
    global _maker  # the only way that an initializer can hand something to the tasks
    _maker = CutoutMaker(config, size_px, faintest_mag)


def _write(number: int, path: Path) -> None:
    assert _maker is not None
    drawn = _maker.chunk(number)
    columns = {k: v.astype(str) if v.dtype == object else v for k, v in batch_of(drawn).items()}
    part = path.with_suffix(".part.npz")
    np.savez(part, noiseless=drawn.noiseless.reshape(len(drawn.noiseless), -1), **columns)
    part.rename(path)
