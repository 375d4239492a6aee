"""Injected anomalies: artefacts of the instrument and real oddities, each with a stated range of strength.

Physical ones change what is emitted, before noise; artefacts change what the cameras gave, after it, without
telling it to the inverse variance or the mask (or they would not be anomalies).
"""

# B = spectra, L = pixels of the common grid

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from engine.spectra.grid import WAVE_OBS
from engine.synthetic import lines
from engine.synthetic.galaxies import GalaxyParams
from engine.synthetic.noise import CAMERAS, Arms, sky_line_pattern
from engine.synthetic.profiles import FloatArray
from engine.synthetic.qsos import QsoParams
from engine.synthetic.stars import blackbody

ALL_TARGETS = ("BGS", "LRG", "ELG", "QSO", "STAR")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of anomaly: its family, the range of its strength with unit, and which objects can have it."""

    family: Literal["artefact", "physical"]
    low: float
    high: float
    unit: str
    targets: tuple[str, ...] = ALL_TARGETS
    z_max: float = 9.0


KINDS: Mapping[str, Kind] = MappingProxyType({
    "arm_offset": Kind("artefact", 1.5, 5.0, "offset of one camera in its median noise a pixel"),
    "sky_residual": Kind("artefact", 1.5, 4.0, "residual of the r and z sky lines in their own excess noise"),
    "bad_columns": Kind("artefact", 10.0, 40.0, "height of 3 to 6 groups of bad pixels in noise a pixel"),
    "wrong_normalisation": Kind("artefact", 0.35, 0.8, "relative error of one camera's calibration at its ends"),
    "double_peaked_lines": Kind("physical", 300.0, 700.0, "separation [km/s]", ("BGS",), 0.45),
    "odd_line_ratios": Kind("physical", 0.8, 1.4, "shift of one species' lines [dex]", ("BGS",), 0.4),
    "extreme_broad_lines": Kind("physical", 15000.0, 28000.0, "FWHM of H beta [km/s]", ("QSO",)),
    "blend": Kind("physical", 0.5, 1.2, "r flux of the second object relative to the first", ("BGS", "LRG", "QSO")),
    "wrong_redshift": Kind("physical", 0.1, 0.4, "|dz| / (1 + z), of the report only", ("BGS", "LRG", "ELG", "QSO")),
    "supernova_bump": Kind("physical", 0.5, 1.5, "r flux of the supernova relative to its host", ("BGS",), 0.25),
})  # fmt: skip
ODD_SPECIES = (("NII_6548", "NII_6584"), ("SII_6716", "SII_6731"), ("OI_6300",), ("OIII_4959", "OIII_5007"))
# centre [Angstrom], sigma [Angstrom], depth (negative: emission) near maximum of a type Ia supernova
SUPERNOVA_FEATURES = (
    (3770.0, 70.0, 0.62), (4020.0, 70.0, -0.20), (4320.0, 75.0, 0.38), (4620.0, 80.0, -0.18),
    (4880.0, 85.0, 0.42), (5180.0, 60.0, -0.08), (5430.0, 35.0, 0.24), (5610.0, 35.0, 0.24),
    (5900.0, 80.0, -0.10), (6130.0, 65.0, 0.52), (6420.0, 90.0, -0.16), (7450.0, 110.0, 0.25),
    (8150.0, 150.0, 0.42), (8600.0, 120.0, -0.20),
)  # fmt: skip


def alter_galaxies(
    params: GalaxyParams, anomaly: np.ndarray, strength: FloatArray, rng: np.random.Generator
) -> GalaxyParams:
    """Make double-peaked lines and odd line ratios where `anomaly` [B] says so."""
    is_double, is_odd = anomaly == "double_peaked_lines", anomaly == "odd_line_ratios"
    if not (is_double | is_odd).any():
        return params
    gas_sigma = np.where(is_double, np.minimum(params.gas_sigma_kms, strength / 4.5), params.gas_sigma_kms)
    ratios = params.line_ratios.copy()
    for row in np.flatnonzero(is_odd):
        for name in ODD_SPECIES[rng.integers(len(ODD_SPECIES))]:
            ratios[row, lines.column(name)] *= 10.0 ** strength[row]
    return replace(
        params, gas_sigma_kms=gas_sigma, split_kms=np.where(is_double, strength, 0.0), line_ratios=ratios,
        ebv=np.where(is_double | is_odd, np.minimum(params.ebv, 0.4), params.ebv),
    )  # fmt: skip


def alter_qsos(params: QsoParams, anomaly: np.ndarray, strength: FloatArray) -> QsoParams:
    """Make extreme broad lines where `anomaly` [B] says so; they keep their equivalent width."""
    return replace(params, fwhm_kms=np.where(anomaly == "extreme_broad_lines", strength, params.fwhm_kms))


def supernova(z: FloatArray) -> FloatArray:
    """Type Ia supernovae near maximum at redshifts [B] on the observed grid, [B, L], 1 near 6400 Angstrom."""
    wave = np.linspace(2000.0, 10000.0, 2001)
    flux = blackbody(wave, 11000.0) / (1.0 + np.exp((3300.0 - wave) / 120.0))
    for centre, sigma, depth in SUPERNOVA_FEATURES:
        flux *= 1.0 - depth * np.exp(-0.5 * np.square((wave - centre) / sigma))
    return np.array([np.interp(WAVE_OBS / (1.0 + one), wave, flux) for one in z], np.float32)


def spoil(arms: Arms, anomaly: np.ndarray, strength: FloatArray, rng: np.random.Generator) -> None:
    """Put artefacts into the observed data in place where `anomaly` [B] names one."""
    spoilers = {
        "arm_offset": _offset_arm,
        "sky_residual": _leave_sky,
        "bad_columns": _spoil_columns,
        "wrong_normalisation": _bend_calibration,
    }
    for row in np.flatnonzero(np.isin(anomaly, list(spoilers))):
        spoilers[str(anomaly[row])](arms, int(row), float(strength[row]), rng)


def _noise(arms: Arms, camera: str, row: int) -> FloatArray:
    """Noise a pixel; masked pixels take the median."""
    ivar = arms.ivar[camera][row]
    return 1.0 / np.sqrt(np.where(ivar > 0, ivar, np.median(ivar[ivar > 0])))


def _offset_arm(arms: Arms, row: int, strength: float, rng: np.random.Generator) -> None:
    camera = str(rng.choice(CAMERAS))
    sign = rng.choice([-1.0, 1.0])
    arms.flux[camera][row] += np.float32(sign * strength * np.median(_noise(arms, camera, row)))


def _leave_sky(arms: Arms, row: int, strength: float, rng: np.random.Generator) -> None:
    sign = rng.choice([-1.0, 1.0])
    for camera in ("r", "z"):
        pattern = sky_line_pattern(camera)
        level = np.median(_noise(arms, camera, row))
        arms.flux[camera][row] += (sign * strength * level * pattern).astype(np.float32)


def _spoil_columns(arms: Arms, row: int, strength: float, rng: np.random.Generator) -> None:
    camera = str(rng.choice(CAMERAS))
    flux, noise = arms.flux[camera][row], _noise(arms, camera, row)
    for first in rng.integers(0, flux.size - 12, int(rng.integers(3, 7))):
        here = slice(int(first), int(first) + int(rng.integers(3, 11)))
        flux[here] += (rng.choice([-1.0, 1.0]) * strength * noise[here]).astype(np.float32)


def _bend_calibration(arms: Arms, row: int, strength: float, rng: np.random.Generator) -> None:
    camera = str(rng.choice(CAMERAS))
    x = np.linspace(-1.0, 1.0, arms.flux[camera].shape[1])
    curve = (1.0 + rng.choice([-1.0, 1.0]) * strength * (1.5 * x**2 - 0.5)).astype(np.float32)
    curve = np.maximum(curve, np.float32(0.1))
    arms.flux[camera][row] *= curve
    arms.ivar[camera][row] /= curve**2
