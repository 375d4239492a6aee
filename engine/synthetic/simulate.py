"""Spectra as DESI would observe them, with truth: the entry to the synthetic physics.

Everything follows from a seed; the result does not depend on how work is spread. Plain numpy.
"""

# B = spectra, L = pixels of the common grid, n = pixels of a camera

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.spectra.coadd import merge_arms
from engine.spectra.grid import NUM_PIXELS, WAVE_OBS
from engine.synthetic import anomalies, galaxies, lines, noise, population, qsos, stars
from engine.synthetic.bases import Bases
from engine.synthetic.noise import Arms
from engine.synthetic.population import Population, SimulateConfig
from engine.synthetic.profiles import LIGHT_SPEED_KMS, FloatArray, add_observed_lines, to_observed

CHUNK_ROWS = 128
"""Spectra made at once: keeps the arrays in reach of the cache. Part of what a seed means."""
SNR_STRIDE = 4
"""The median signal-to-noise is taken over every fourth pixel."""
R_BAND = slice(*np.searchsorted(WAVE_OBS, [5700.0, 7100.0]))
R_ZERO_POINT_FLAM = 2.66e8
"""Flux density of AB = 0 at 6400 Angstrom [1e-17 erg / (s cm2 Angstrom)]: 3631 Jy c / lambda^2."""


@dataclass(frozen=True)
class SimulatedSpectra:
    """Spectra and their truth.

    `flux`, `ivar` float32 [B, L] are the merged cameras; `arms` the cameras apart, `noiseless` [B, L] what
    was there before noise and artefacts (both only if asked for); `truth` the objects; `spectype`,
    `subtype` as redrock names them; `snr` the median signal-to-noise a pixel of the merged spectrum.
    """

    flux: FloatArray
    ivar: FloatArray
    truth: Population
    spectype: np.ndarray
    subtype: np.ndarray
    snr: FloatArray
    arms: Arms | None = None
    noiseless: FloatArray | None = None

    @property
    def z(self) -> FloatArray:
        """True redshift [B]."""
        return self.truth.z

    @property
    def anomaly(self) -> np.ndarray:
        """Kind of anomaly [B], "" for none."""
        return self.truth.anomaly

    @property
    def strength(self) -> FloatArray:
        """Strength of the anomaly [B] in the unit of its kind."""
        return self.truth.strength

    @property
    def rmag(self) -> FloatArray:
        """AB magnitude in r of the light in the fibre [B]."""
        return self.truth.rmag


def simulate(
    num: int,
    seed: int | Sequence[int],
    config: SimulateConfig | None = None,
    *,
    bases: Bases | None = None,
    keep_arms: bool = False,
    keep_noiseless: bool = False,
) -> SimulatedSpectra:
    """Simulate spectra on the common grid.

    Parameters
    ----------
    num
        Number of spectra.
    seed
        One integer or several (release, file); the same seed gives the same spectra.
    config
        Mix of objects and anomalies; the survey's without anomalies by default.
    bases
        Real template bases from which `config.bases_fraction` of the objects are drawn.
    keep_arms, keep_noiseless
        Return the three cameras too, and the spectra before noise.
    """
    config = config or SimulateConfig()
    rng = np.random.default_rng(seed)
    flux, ivar = np.empty((num, NUM_PIXELS), np.float32), np.empty((num, NUM_PIXELS), np.float32)
    chunks = []
    for start in range(0, max(num, 1), CHUNK_ROWS):
        here = slice(start, min(start + CHUNK_ROWS, num))
        chunk = _simulate_chunk(here.stop - here.start, config, bases, rng)
        flux[here], ivar[here] = merge_arms(chunk.arms.flux, chunk.arms.ivar, chunk.arms.mask)
        if not keep_arms:
            chunk = replace(chunk, arms=None)
        chunks.append(chunk if keep_noiseless else replace(chunk, noiseless=None))
    return _join(chunks, flux, ivar)


@dataclass(frozen=True)
class _Chunk:
    truth: Population
    subtype: np.ndarray
    arms: Any
    noiseless: Any


def _simulate_chunk(
    num: int, config: SimulateConfig, bases: Bases | None, rng: np.random.Generator
) -> _Chunk:
    objects = population.draw(num, config, rng)
    noiseless, subtype = emit(objects, bases, rng)
    add_second_objects(noiseless, objects, config, rng)
    arms = noise.observe(noiseless, objects.observing, rng)
    anomalies.spoil(arms, objects.anomaly, objects.strength, rng)
    return _Chunk(objects, subtype, arms, noiseless)


def emit(objects: Population, bases: Bases | None, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
    """Noiseless spectra [B, L] with the objects' magnitudes, and redrock's subtypes [B]."""
    flux = np.empty((len(objects.z), NUM_PIXELS), np.float32)
    subtype = np.full(len(objects.z), "", "U20")
    real = objects.is_from_bases if bases is not None else np.zeros(len(objects.z), bool)
    families = {
        "GALAXY": np.isin(objects.target, galaxies.KINDS),
        "QSO": objects.target == "QSO",
        "STAR": objects.target == "STAR",
    }
    emitters = {"GALAXY": _emit_galaxies, "QSO": _emit_qsos, "STAR": _emit_stars}
    for family, member in families.items():
        rows = np.flatnonzero(member & ~real)
        if rows.size:
            flux[rows], subtype[rows] = emitters[family](objects.take(rows), rng)
    rows = np.flatnonzero(real)
    if bases is not None and rows.size:
        chosen = objects.take(rows)
        flux[rows], subtype[rows] = bases.draw(chosen.target, chosen.z, rng)
    flux *= brightness(flux, objects.rmag)
    return flux, subtype


def brightness(flux: FloatArray, rmag: FloatArray) -> FloatArray:
    """Factor [B, 1] that gives spectra their magnitude."""
    mean = np.maximum(flux[:, R_BAND].mean(axis=1), 1e-6)
    return (R_ZERO_POINT_FLAM * 10.0 ** (-0.4 * rmag) / mean)[:, None].astype(np.float32)


def _emit_galaxies(objects: Population, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
    is_emission = np.isin(objects.anomaly, ("double_peaked_lines", "odd_line_ratios"))
    params = galaxies.draw(rng, objects.target, is_emission)
    params = anomalies.alter_galaxies(params, objects.anomaly, objects.strength, rng)
    return render_galaxies(params, objects.z), np.full(len(objects.z), "")


def render_galaxies(params: galaxies.GalaxyParams, z: FloatArray) -> FloatArray:
    """Observed-frame spectra [B, L] of galaxies at redshifts [B], of arbitrary brightness."""
    rest, line_flux = galaxies.spectra(params)
    flux = to_observed(rest, galaxies.GRID, z)
    line_flux *= (1.0 + z)[:, None]
    is_split = params.split_kms > 0
    shift = 0.5 * params.split_kms / LIGHT_SPEED_KMS * (1.0 + z)
    first = line_flux * np.where(is_split, 0.5, 1.0)[:, None]
    add_observed_lines(flux, lines.WAVES, first, params.gas_sigma_kms, z + shift)
    second = line_flux * np.where(is_split, 0.5, 0.0)[:, None]
    add_observed_lines(flux, lines.WAVES, second, params.gas_sigma_kms, z - shift)
    return flux


def _emit_qsos(objects: Population, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
    params = qsos.draw(rng, objects.z, objects.rmag)
    params = anomalies.alter_qsos(params, objects.anomaly, objects.strength)
    return render_qsos(params, objects.z, rng), np.where(objects.z < 1.6, "LOZ", "HIZ")


def render_qsos(params: qsos.QsoParams, z: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Observed-frame spectra [B, L] of quasars at redshifts [B], of arbitrary brightness; `rng` is for the forest."""
    rest, line_flux = qsos.spectra(params, z)
    flux = to_observed(rest, qsos.GRID, z)
    add_observed_lines(flux, lines.WAVES, line_flux * (1.0 + z)[:, None], np.full(len(flux), 220.0), z)
    qsos.absorb_forest(flux, z, rng)
    return flux


def _emit_stars(objects: Population, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
    params = stars.draw(rng, len(objects.z))
    return to_observed(stars.spectra(params), stars.GRID, objects.z), stars.subtype(params)


def add_second_objects(
    flux: FloatArray, objects: Population, config: SimulateConfig, rng: np.random.Generator
) -> None:
    """Add companions of blends and supernovae to noiseless spectra [B, L] in place."""
    rows = np.flatnonzero(objects.anomaly == "blend")
    if rows.size:
        companions = population.draw_companions(objects.take(rows), config, rng)
        _add_scaled(flux, rows, emit(companions, None, rng)[0], objects.strength[rows])
    rows = np.flatnonzero(objects.anomaly == "supernova_bump")
    if rows.size:
        _add_scaled(flux, rows, anomalies.supernova(objects.z[rows]), objects.strength[rows])


def _add_scaled(flux: FloatArray, rows: np.ndarray, more: FloatArray, ratio: FloatArray) -> None:
    """Add spectra with `ratio` times the mean r flux of what is there."""
    scale = ratio * flux[rows, R_BAND].mean(axis=1) / np.maximum(more[:, R_BAND].mean(axis=1), 1e-9)
    flux[rows] += scale[:, None].astype(np.float32) * more


def _join(chunks: list[_Chunk], flux: FloatArray, ivar: FloatArray) -> SimulatedSpectra:
    """Concatenate what the chunks kept."""
    truth = population.concatenate([chunk.truth for chunk in chunks])
    arms = [chunk.arms for chunk in chunks]
    noiseless = [chunk.noiseless for chunk in chunks]
    every = slice(None, None, SNR_STRIDE)
    return SimulatedSpectra(
        flux=flux,
        ivar=ivar,
        truth=truth,
        spectype=np.where(np.isin(truth.target, galaxies.KINDS), "GALAXY", truth.target),
        subtype=np.concatenate([chunk.subtype for chunk in chunks]),
        snr=np.median(flux[:, every] * np.sqrt(ivar[:, every]), axis=1),
        arms=noise.concatenate(arms) if arms[0] is not None else None,
        noiseless=np.concatenate(noiseless) if noiseless[0] is not None else None,
    )
