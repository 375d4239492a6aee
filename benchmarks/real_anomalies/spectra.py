"""Real SDSS and BOSS spectra, and the oddities made of them, as models read them."""

# N spectra

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.ablation.sample import FRAMES, Sample
from benchmarks.real_anomalies.oddities import ODDITIES
from benchmarks.real_anomalies.transformations import Spectrum
from engine.schema import matrix
from engine.sources.sdss import SdssSource, parse_name
from engine.spectra.grid import NUM_PIXELS

MIN_GOOD_PIXELS = NUM_PIXELS // 2
ODDITY_SEED = 7


def read_real(folder: Path) -> list[Spectrum]:
    """Read all spectra below a folder that cover half of the grid, in order of plate and fibre.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found: list[Spectrum] = []
    source = SdssSource(str(folder))
    for unit in source.plan():
        rows = source.read(unit).rows
        flux, ivar = (matrix(rows, name).astype(np.float64) for name in ("flux", "ivar"))
        facts = rows.select(["source_uri", "z", "spectype", "num_good_pixels"]).to_pylist()
        for one, f, w in zip(facts, flux, ivar, strict=True):
            if one["num_good_pixels"] >= MIN_GOOD_PIXELS and one["z"] is not None:
                found.append(Spectrum(_name(one["source_uri"]), f, w, one["z"], one["spectype"].strip()))
    if not found:
        raise FileNotFoundError(f"no spec-*.fits below {folder}: give the folder of real data with --data")
    return sorted(found, key=lambda spectrum: spectrum.name)


def _name(uri: str) -> str:
    named = parse_name(uri)
    assert named is not None
    return f"{named.plate}-{named.mjd}-{named.fiber:04d}"


def make_oddities(real: Sequence[Spectrum]) -> list[tuple[str, Spectrum]]:
    """Make all of `ODDITIES`: name of the transformation, and the spectrum, which keeps its source's name."""
    by_name = {one.name: one for one in real}
    out = []
    for index, (kind, oddity) in enumerate(ODDITIES.items()):
        for row, source in enumerate(oddity.sources):
            first, second = source if isinstance(source, tuple) else (source, None)
            rng = np.random.default_rng((ODDITY_SEED, index, row))
            out.append((kind, oddity.make(by_name[first], by_name[second] if second else None, rng)))
    return out


def as_sample(spectra: Sequence[Spectrum], kinds: Sequence[str]) -> Sample:
    """Prepare spectra in all frames; `anomaly` is the transformation, "" for none."""
    flux, ivar = (np.stack([getattr(one, n) for one in spectra]).astype(np.float32) for n in ("flux", "ivar"))
    z = np.array([one.z for one in spectra])
    spectype = np.array([one.spectype for one in spectra], object)
    columns = {
        "z": z,
        "spectype": spectype,
        "snr": np.array([median_snr(one) for one in spectra], np.float32),
        "anomaly": np.array(kinds),
        "target": spectype.astype(str),
        "name": np.array([one.name for one in spectra]),
    }
    return Sample({name: frame(flux, ivar, z) for name, frame in FRAMES.items()}, columns)


def median_snr(one: Spectrum) -> float:
    """Median signal-to-noise of usable pixels."""
    good = one.ivar > 0
    return float(np.median(one.flux[good] * np.sqrt(one.ivar[good])))
