"""Simulated spectra in the frames that methods work in, with truth.

Observed frame: the common grid averaged to 4 Angstrom, so that all methods can be trained on a laptop. Rest frame: as
many kilometres a second a pixel as the rest-frame preset has, over all that redshifts up to 4.6 bring in.
"""

# B spectra, L pixels

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.training_spectra import WIDE_REST, Augment, augment
from engine.spectra.grid import NUM_PIXELS, WAVE_MIN_ANGSTROM, WAVE_STEP_ANGSTROM
from engine.spectra.prepare import SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic.bases import Bases
from engine.synthetic.population import SimulateConfig
from engine.synthetic.simulate import simulate
from engine.synthetic.templates import load_bases

CHUNK_ROWS = 1024
BINNING = 5
NUM_OBSERVED = NUM_PIXELS // BINNING
OBSERVED_MIN = WAVE_MIN_ANGSTROM + WAVE_STEP_ANGSTROM * (BINNING - 1) / 2
OBSERVED_MAX = OBSERVED_MIN + WAVE_STEP_ANGSTROM * BINNING * (NUM_OBSERVED - 1)
PREPARED = {"full": SpectrumPrep(), "rest": WIDE_REST}
"""Frames as the engine prepares them. full: all 7781 pixels of the observed frame."""

COLUMNS = ("z", "spectype", "snr", "anomaly", "target", "rmag")

Batch = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
"""Flux and ivar."""
Frame = Callable[[np.ndarray, np.ndarray, np.ndarray], Pair]


def binned(flux: np.ndarray, ivar: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of `factor` neighbouring pixels weighted with ivar, and its ivar; [B, L // factor] float32 each."""
    whole = flux.shape[1] // factor * factor
    parts, weights = (a[:, :whole].reshape(len(a), -1, factor) for a in (flux, ivar))
    total = weights.sum(2)
    mean = np.divide((parts * weights).sum(2), total, out=np.zeros_like(total), where=total > 0)
    return mean.astype(np.float32), total.astype(np.float32)


def _prepared(prep: SpectrumPrep, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray) -> Pair:
    return prepare(flux, ivar, z, prep).spectra[:2]


def _observed(flux: np.ndarray, ivar: np.ndarray, z: np.ndarray) -> Pair:
    return binned(*_prepared(SpectrumPrep(), flux, ivar, z), BINNING)


FRAMES: dict[str, Frame] = {
    "observed": _observed,
    **{name: partial(_prepared, prep) for name, prep in PREPARED.items()},
}
"""Flux and ivar on the common grid, and the reported redshift, to a model's input."""


@dataclass(frozen=True)
class Sample:
    """Prepared spectra [B, L] by frame, and columns [B]: z (as reported), spectype, snr, anomaly, target, rmag."""

    frames: dict[str, tuple[np.ndarray, np.ndarray]]
    columns: Batch

    def batch(self, frame: str, rows: slice | np.ndarray = slice(None)) -> Batch:
        """Rows as a model reads them."""
        flux, ivar = self.frames[frame]
        return {"flux": flux[rows], "ivar": ivar[rows], **{k: v[rows] for k, v in self.columns.items()}}

    def first(self, num: int) -> "Sample":
        """Return the first rows."""
        frames = {name: (flux[:num], ivar[:num]) for name, (flux, ivar) in self.frames.items()}
        return Sample(frames, {name: values[:num] for name, values in self.columns.items()})

    def batches(self, frame: str, num_rows: int = CHUNK_ROWS) -> Iterator[Batch]:
        """All rows in order."""
        for start in range(0, len(self.columns["z"]), num_rows):
            yield self.batch(frame, slice(start, start + num_rows))


def sample_chunks(
    num: int, seed: int, mix: SimulateConfig, bases_uri: str, frames: Sequence[str]
) -> Iterator[Sample]:
    """Simulate `num` spectra with the mild errors that count as normal, chunk by chunk, the same for a seed."""
    bases = load_bases(bases_uri, Storage()) if bases_uri else None
    for index, start in enumerate(range(0, num, CHUNK_ROWS)):
        yield make_sample(min(CHUNK_ROWS, num - start), (seed, index), mix, bases, frames)


def make_sample(
    num: int, seed: Sequence[int], mix: SimulateConfig, bases: Bases | None, frames: Sequence[str]
) -> Sample:
    """Simulate, put calibration errors on top, and prepare for each of the frames."""
    spectra = simulate(num, seed, mix, bases=bases)
    augment(spectra.flux, spectra.ivar, Augment(), np.random.default_rng((*seed, 1)))
    z = spectra.truth.z_reported
    columns = {
        "z": z,
        "spectype": spectra.spectype.astype(object),
        "snr": spectra.snr.astype(np.float32),
        "anomaly": spectra.anomaly,
        "target": spectra.truth.target,
        "rmag": spectra.rmag,
    }
    return Sample({name: FRAMES[name](spectra.flux, spectra.ivar, z) for name in frames}, columns)


def drawn(
    num: int, seed: int, mix: SimulateConfig, bases_uri: str, frames: Sequence[str], folder: Path | None
) -> Sample:
    """`sample_chunks` as one sample; with a folder it is kept there and read from there the next time.

    Runs beside each other share what is kept, in memory too.
    """
    if folder is None:
        return joined(list(sample_chunks(num, seed, mix, bases_uri, frames)))
    asked = f"{num}-{seed}-{mix.anomaly_fraction:g}-{mix.bases_fraction:g}"
    missing = [name for name in frames if not (folder / f"{asked}-{name}-ivar.npy").exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        made = joined(list(sample_chunks(num, seed, mix, bases_uri, missing)))
        for name, value in made.columns.items():
            _keep(folder / f"{asked}-{name}.npy", value.astype(str) if value.dtype == object else value)
        for frame, pair in made.frames.items():
            for name, value in zip(("flux", "ivar"), pair, strict=True):
                _keep(folder / f"{asked}-{frame}-{name}.npy", value)
    columns = {name: np.load(folder / f"{asked}-{name}.npy") for name in COLUMNS}
    columns["spectype"] = columns["spectype"].astype(object)
    pairs = {
        frame: tuple(
            np.load(folder / f"{asked}-{frame}-{name}.npy", mmap_mode="r") for name in ("flux", "ivar")
        )
        for frame in frames
    }
    return Sample(pairs, columns)  # pyright: ignore[reportArgumentType]


def _keep(path: Path, value: np.ndarray) -> None:
    """Write an array so that it is there at once: another run may be waiting for it."""
    part = path.with_name(f"{os.getpid()}-{path.name}")
    np.save(part, value)
    part.rename(path)


def joined(parts: Sequence[Sample]) -> Sample:
    """One sample of several."""
    frames = {
        name: tuple(np.concatenate([part.frames[name][i] for part in parts]) for i in (0, 1))
        for name in parts[0].frames
    }
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Sample(frames, columns)  # pyright: ignore[reportArgumentType]
