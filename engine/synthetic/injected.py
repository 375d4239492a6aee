"""Anomalies put into prepared spectra: what a training has held out becomes what it learns artefacts from.

`anomalies.py` acts on templates and on cameras before they are merged. Here both are gone: spectra are normalised, and in
the rest frame on another grid. Each kind is therefore a plain function on the model's grid, with the strengths of
`anomalies.KINDS` where they mean the same. Double-peaked lines need the light of the lines alone, and are left out.
"""

# L pixels of the model's grid

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.schema import Arrays
from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS, WAVE_STEP_ANGSTROM
from engine.spectra.normalise import normalise
from engine.spectra.prepare import SpectrumPrep
from engine.synthetic.anomalies import KINDS, ODD_SPECIES, supernova
from engine.synthetic.lines import LINES
from engine.synthetic.noise import CAMERAS, sky_line_pattern
from engine.synthetic.profiles import LIGHT_SPEED_KMS

BROAD_WAVES = (1215.67, 1549.06, 1908.73, 2798.75, 4862.68, 6564.61)
"""Lines of quasars that get broad [Angstrom]."""
BROAD_HEIGHT = (0.3, 1.0)
"""Of a broad line over the median flux."""
ODD_LINE_HEIGHT = (8.0, 30.0)
"""Of the lines of one species, in noise of a pixel of `WAVE_OBS`."""
ODD_LINE_SIGMA_KMS = 150.0
FWHM_OF_SIGMA = 2.3548
CLASS_OF_TARGET = {"BGS": "GALAXY", "LRG": "GALAXY", "ELG": "GALAXY", "QSO": "QSO", "STAR": "STAR"}


@dataclass(frozen=True)
class One:
    """A prepared spectrum: flux and ivar float64 [L], `wave` [L] as observed, redshift (NaN if unknown)."""

    flux: np.ndarray
    ivar: np.ndarray
    wave: np.ndarray
    z: float

    @property
    def level(self) -> float:
        """Median flux of usable pixels, at least their median noise."""
        good = self.ivar > 0
        return float(max(np.median(self.flux[good]), 1 / np.sqrt(np.median(self.ivar[good]))))

    @property
    def noise(self) -> np.ndarray:
        """Noise [L] that a pixel as wide as those of `WAVE_OBS` would have; the median where unusable."""
        ivar = np.where(self.ivar > 0, self.ivar, np.median(self.ivar[self.ivar > 0]))
        return np.sqrt(np.gradient(self.wave) / WAVE_STEP_ANGSTROM / ivar)

    def inside(self, camera: str) -> np.ndarray:
        """Whether a camera covers each pixel, [L]."""
        wave = WAVE_OBS[CAMERA_SLICES[camera]]
        return (self.wave >= wave[0]) & (self.wave <= wave[-1])

    def camera(self, rng: np.random.Generator) -> np.ndarray:
        """Pixels of a random camera that has usable ones."""
        seen = [here for here in map(self.inside, CAMERAS) if (self.ivar[here] > 0).any()]
        return seen[rng.integers(len(seen))] if seen else np.ones(len(self.wave), bool)


Change = Callable[[One, One, float, np.random.Generator], One]
"""`(spectrum, another one, strength, rng) -> spectrum with the anomaly`."""


def _sign(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _offset_arm(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    here = one.camera(rng)
    step = _sign(rng) * strength * np.median(one.noise[here])
    return replace(one, flux=one.flux + step * here)


def _leave_sky(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    flux, sign = one.flux.copy(), _sign(rng)
    for camera in ("r", "z"):
        here = one.inside(camera)
        if here.any():
            pattern = np.interp(one.wave[here], WAVE_OBS[CAMERA_SLICES[camera]], sky_line_pattern(camera))
            flux[here] += sign * strength * np.median(one.noise[here]) * pattern
    return replace(one, flux=flux)


def _spoil_columns(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    flux, width, noise = one.flux.copy(), np.gradient(one.wave), one.noise
    usable = np.flatnonzero(one.camera(rng) & (one.ivar > 0))
    for middle in rng.choice(usable, int(rng.integers(3, 7))):
        half = 0.5 * WAVE_STEP_ANGSTROM * rng.integers(3, 11)
        low = np.maximum(one.wave - width / 2, one.wave[middle] - half)
        high = np.minimum(one.wave + width / 2, one.wave[middle] + half)
        flux += _sign(rng) * strength * noise * np.maximum(high - low, 0) / width
    return replace(one, flux=flux)


def _bend_calibration(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    here = one.camera(rng)
    x = np.linspace(-1.0, 1.0, here.sum())
    gain = np.ones(len(here))
    gain[here] = np.maximum(1.0 + _sign(rng) * strength * (1.5 * x**2 - 0.5), 0.1)
    return replace(one, flux=one.flux * gain, ivar=one.ivar / gain**2)


def _blend(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    # Nearest pixels: between two of them noise would be averaged away.
    near = np.searchsorted(0.5 * (other.wave[1:] + other.wave[:-1]), one.wave)
    is_seen = (one.wave >= other.wave[0]) & (one.wave <= other.wave[-1])
    flux, ivar = other.flux[near], other.ivar[near]
    scale = strength * one.level / other.level
    usable = (one.ivar > 0) & (ivar > 0) & is_seen
    variance = 1 / np.where(usable, one.ivar, 1) + scale**2 / np.where(usable, ivar, 1)
    return replace(one, flux=one.flux + scale * flux, ivar=usable / variance)


def _report_wrong_redshift(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    wrong = (1 + one.z) * (1 + _sign(rng) * strength) - 1
    return replace(one, z=wrong if wrong > 0 else (1 + one.z) * (1 + strength) - 1)


def _add_supernova(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    light = np.interp(one.wave, WAVE_OBS, supernova(np.array([one.z]))[0])
    return replace(one, flux=one.flux + strength * one.level * light)


def _lines(one: One, waves: tuple[float, ...], sigma_kms: float) -> np.ndarray:
    """Gaussian lines of height 1 at rest wavelengths, [L]."""
    velocity = LIGHT_SPEED_KMS * (one.wave / (np.array(waves)[:, None] * (1 + one.z)) - 1)
    return np.exp(-0.5 * np.square(velocity / sigma_kms)).sum(0)


def _add_odd_lines(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    waves = tuple(LINES[name] for name in ODD_SPECIES[rng.integers(len(ODD_SPECIES))])
    height = rng.uniform(*ODD_LINE_HEIGHT) * np.median(one.noise)
    return replace(one, flux=one.flux + height * _lines(one, waves, ODD_LINE_SIGMA_KMS))


def _broaden_lines(one: One, other: One, strength: float, rng: np.random.Generator) -> One:  # noqa: ARG001
    height = rng.uniform(*BROAD_HEIGHT) * one.level
    return replace(one, flux=one.flux + height * _lines(one, BROAD_WAVES, strength / FWHM_OF_SIGMA))


CHANGES: Mapping[str, Change] = {
    "arm_offset": _offset_arm,
    "sky_residual": _leave_sky,
    "bad_columns": _spoil_columns,
    "wrong_normalisation": _bend_calibration,
    "odd_line_ratios": _add_odd_lines,
    "extreme_broad_lines": _broaden_lines,
    "blend": _blend,
    "wrong_redshift": _report_wrong_redshift,
    "supernova_bump": _add_supernova,
}
"""By the kind of `anomalies.KINDS` that it stands for."""
WITHOUT_REDSHIFT = ("arm_offset", "sky_residual", "bad_columns", "wrong_normalisation", "blend")


def can_have(kind: str, spectype: str | None, z: float) -> bool:
    """Whether an object of a class (None: unknown, may be any) and redshift (NaN: unknown) can have the anomaly."""
    allowed = KINDS[kind]
    classes = {CLASS_OF_TARGET[target] for target in allowed.targets}
    is_near = z <= allowed.z_max if np.isfinite(z) else kind in WITHOUT_REDSHIFT
    return bool(is_near and (spectype is None or spectype in classes))


def inject(batch: Arrays, prep: SpectrumPrep, rng: np.random.Generator) -> Arrays:
    """Give every spectrum an anomaly that it can have, half of them artefacts where both families can be.

    Parameters
    ----------
    batch
        Prepared spectra: `flux`, `ivar` [B, L], `spectype` [B], and `z` [B] if known; spectra without a usable pixel are
        left out. The second object of a blend is another row.
    prep
        How they were prepared; what comes out is normalised anew in the same way.
    rng
        For kinds, strengths and places.

    Returns
    -------
    dict
        The rows that can have one, with `flux`, `ivar` and `z` as they are then, `anomaly` [B], and `is_artefact` [B].
    """
    rows = np.flatnonzero((batch["ivar"] > 0).any(1))
    batch = {name: np.asarray(values)[rows] for name, values in batch.items()}
    z = np.asarray(batch.get("z", np.full(len(rows), np.nan)), np.float64)
    kinds = [_drawn(batch["spectype"][row], z[row], rng) for row in range(len(rows))]
    able = np.array(
        [row for row, kind in enumerate(kinds) if kind and (kind != "blend" or len(rows) > 1)], int
    )
    changed = [_changed(batch, z, row, kinds[row], prep, rng) for row in able]
    chosen = {name: values[able] for name, values in batch.items()}
    pairs = (np.array([getattr(one, name) for one in changed]) for name in ("flux", "ivar"))
    flux, ivar = (pair.reshape(len(able), prep.num_pixels) for pair in pairs)
    ready = normalise(flux, ivar, prep.floor_sigma, prep.clip_min, prep.clip_max)
    names = np.array([kinds[row] for row in able], object)
    return chosen | {
        "flux": ready.flux,
        "ivar": ready.ivar,
        "z": np.array([one.z for one in changed]),
        "anomaly": names,
        "is_artefact": np.array([KINDS[name].family == "artefact" for name in names], bool),
    }


def _drawn(spectype: str | None, z: float, rng: np.random.Generator) -> str:
    """Draw a kind of a random family, of the other where there is none of it; "" if there is none at all."""
    families: dict[str, list[str]] = {"artefact": [], "physical": []}
    for kind in CHANGES:
        if can_have(kind, spectype, z):
            families[KINDS[kind].family].append(kind)
    known = [kinds for kinds in families.values() if kinds]
    kinds = known[rng.integers(len(known))] if known else [""]
    return kinds[rng.integers(len(kinds))]


def _changed(
    batch: Arrays, z: np.ndarray, row: int, kind: str, prep: SpectrumPrep, rng: np.random.Generator
) -> One:
    """Return one row with the anomaly, on the model's grid."""
    number = int(rng.integers(len(z)))
    number = (number + 1) % len(z) if number == row else number  # with itself it would be no blend
    one, other = (_one(batch, z, index, prep) for index in (row, number))
    strength = float(rng.uniform(KINDS[kind].low, KINDS[kind].high))
    odd = CHANGES[kind](one, other, strength, rng)
    return _moved(odd, one.z, prep) if prep.frame == "rest" and kind == "wrong_redshift" else odd


def _one(batch: Arrays, z: np.ndarray, row: int, prep: SpectrumPrep) -> One:
    flux, ivar = (np.asarray(batch[name][row], np.float64) for name in ("flux", "ivar"))
    return One(flux, ivar, prep.wave * (1 + z[row] if prep.frame == "rest" else 1), float(z[row]))


def _moved(one: One, true_z: float, prep: SpectrumPrep) -> One:
    """Shift a spectrum of the rest frame to where its redshift puts it, by whole pixels, and make the redshift fit."""
    step = np.log(prep.wave[1] / prep.wave[0])
    pixels = round(np.log((1 + true_z) / (1 + one.z)) / step)
    z = (1 + true_z) * np.exp(-pixels * step) - 1
    place = np.arange(len(one.wave)) - pixels
    inside = (place >= 0) & (place < len(one.wave))
    place = np.clip(place, 0, len(one.wave) - 1)
    return replace(one, flux=one.flux[place] * inside, ivar=one.ivar[place] * inside, z=float(z))
