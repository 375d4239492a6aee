"""Prepared synthetic spectra without end, made in other processes, for training without files.

What real spectra have and the simulation has not is put on top at random, mildly, so that it counts as normal:
errors of flux calibration and background, noise that is not quite what ivar says, and pixels or cameras missing.
"""

# B spectra, L pixels

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS
from engine.spectra.prepare import SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic.bases import Bases
from engine.synthetic.noise import sky_line_pattern
from engine.synthetic.population import SimulateConfig
from engine.synthetic.simulate import simulate
from engine.synthetic.templates import load_bases
from models.spectral_vae_config import PRESETS

Batch = dict[str, np.ndarray]

REST_MODEL = PRESETS["rest_2860x10"]
WIDE_REST = SpectrumPrep(
    frame="rest",
    rest_wave_min_angstrom=REST_MODEL.wave_min_angstrom,
    rest_wave_max_angstrom=REST_MODEL.wave_max_angstrom,
    num_rest_pixels=REST_MODEL.num_pixels,
)
"""The rest frame of `checkpoints/spectral_vae_rest`."""


@dataclass(frozen=True)
class Augment:
    """Sizes of what is put on top of a simulated spectrum; all are standard deviations or probabilities."""

    calibration: float = 0.06
    """Relative flux error at the ends of the grid, as a slope and a curvature."""
    camera_scale: float = 0.015
    """Relative flux error of one camera against the others."""
    background: float = 0.12
    """Error of the background of each camera, in its median noise a pixel."""
    sky_lines: float = 0.12
    """Residual of sky lines in the r and z cameras, in units of their excess noise."""
    log_ivar: float = 0.08
    """Error of ln(ivar) of each camera: the noise that is there stays, what is said of it changes."""
    missing_camera: float = 0.02
    """Probability that one camera has no usable pixel."""
    masked_stretch: float = 0.1
    """Probability of a masked stretch of 10 to 600 pixels."""


def augment(flux: np.ndarray, ivar: np.ndarray, sizes: Augment, rng: np.random.Generator) -> None:
    """Put calibration errors, wrong noise and missing pixels on spectra [B, L] in place."""
    num = len(flux)
    x = np.linspace(-1, 1, NUM_PIXELS, dtype=np.float32)
    shape = np.stack([x, 1.5 * x**2 - 0.5])
    curve = np.exp(rng.normal(0, sizes.calibration, (num, 2)).astype(np.float32) @ shape)
    for camera, where in CAMERA_SLICES.items():
        noise = 1 / np.sqrt(np.maximum(np.median(ivar[:, where], axis=1), 1e-12))
        offset = rng.normal(0, sizes.background, num) * noise
        flux[:, where] += offset[:, None].astype(np.float32)
        if camera != "b":
            residual = rng.normal(0, sizes.sky_lines, num) * noise
            flux[:, where] += residual[:, None].astype(np.float32) * sky_line_pattern(camera)
        curve[:, where] *= np.exp(rng.normal(0, sizes.camera_scale, (num, 1))).astype(np.float32)
        ivar[:, where] *= np.exp(rng.normal(0, sizes.log_ivar, (num, 1))).astype(np.float32)
    flux *= curve
    ivar /= curve**2
    _mask(ivar, sizes, rng)
    flux[ivar == 0] = 0


def _mask(ivar: np.ndarray, sizes: Augment, rng: np.random.Generator) -> None:
    names = tuple(CAMERA_SLICES)
    for row in np.flatnonzero(rng.random(len(ivar)) < sizes.missing_camera):
        # What other cameras see of an overlap stays.
        gone = rng.integers(len(names))
        kept = np.zeros(NUM_PIXELS, bool)
        for camera in names[:gone] + names[gone + 1 :]:
            kept[CAMERA_SLICES[camera]] = True
        ivar[row, ~kept] = 0
    for row in np.flatnonzero(rng.random(len(ivar)) < sizes.masked_stretch):
        length = int(np.exp(rng.uniform(np.log(10), np.log(600))))
        first = rng.integers(NUM_PIXELS - length)
        ivar[row, first : first + length] = 0


@dataclass(frozen=True)
class Recipe:
    """What one chunk is made of; picklable."""

    rows: int
    simulate: SimulateConfig
    prepare: SpectrumPrep
    augment: Augment | None
    bases_uri: str

    def loader(self) -> Callable[[Sequence[int]], Batch]:
        """Read the templates once and return the function from a seed to a chunk."""
        bases = load_bases(self.bases_uri, Storage()) if self.bases_uri else None
        return lambda seed: make_chunk(self, seed, bases)


def make_chunk(recipe: Recipe, seed: Sequence[int], bases: Bases | None) -> Batch:
    """Simulate, augment and prepare one chunk: flux, ivar, spectype, z as reported; and truth: anomaly, target, rmag."""
    spectra = simulate(recipe.rows, seed, recipe.simulate, bases=bases)
    if recipe.augment is not None:
        augment(spectra.flux, spectra.ivar, recipe.augment, np.random.default_rng((*seed, 1)))
    ready = prepare(spectra.flux, spectra.ivar, spectra.truth.z_reported, recipe.prepare).spectra
    return {
        "flux": ready.flux,
        "ivar": ready.ivar,
        "spectype": spectra.spectype.astype(object),
        "z": spectra.truth.z_reported,
        "anomaly": spectra.anomaly,
        "target": spectra.truth.target,
        "rmag": spectra.rmag,
    }


_make: Callable[[Sequence[int]], Batch] | None = None  # of a worker process; set by its initializer


def _open_worker(recipe: Recipe) -> None:
    global _make  # the only way that an initializer can hand something to the tasks
    _make = recipe.loader()


def _work(seed: Sequence[int]) -> Batch:
    assert _make is not None
    return _make(seed)


def chunks(recipe: Recipe, seed: int, first: int, last: int, num_workers: int) -> Iterator[Batch]:
    """Chunks number `first` to `last` - 1 of a seed, in order, whatever the number of workers.

    With workers, at most two chunks a worker are ahead of the reader.
    """
    seeds = ((seed, index) for index in range(first, last))
    if num_workers == 0:
        yield from map(recipe.loader(), seeds)
        return
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _open_worker, (recipe,))
    with pool:
        waiting: deque[Future[Batch]] = deque()
        for one in seeds:
            waiting.append(pool.submit(_work, one))
            if len(waiting) >= 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
