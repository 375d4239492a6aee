"""Which objects a survey holds: classes, redshifts, magnitudes, conditions, and who carries an anomaly.

Distributions imitate DESI's target classes (DESI Collaboration 2023, arXiv:2306.06307, fig. 1): a bright galaxy
survey and stars in bright time; luminous red galaxies, emission-line galaxies, quasars and stars in dark time.
"""

# B = spectra

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from engine.synthetic.anomalies import KINDS
from engine.synthetic.noise import Observing
from engine.synthetic.profiles import FloatArray

TARGETS = ("BGS", "LRG", "ELG", "QSO", "STAR")
BRIGHT_SHARE = {"BGS": 1.0, "LRG": 0.0, "ELG": 0.0, "QSO": 0.0, "STAR": 0.6}
"""Share of each class that is observed in bright time."""
ANOMALY_FAINTEST = {"BGS": 19.3, "LRG": 20.8, "ELG": 22.4, "QSO": 21.0, "STAR": 18.8}
"""Anomalies are put into objects about this bright, so that what is injected can be seen."""


@dataclass(frozen=True)
class SimulateConfig:
    """What to draw. Fractions of classes need not add up to 1: they are scaled."""

    bgs_fraction: float = 0.26
    """Bright galaxies."""
    lrg_fraction: float = 0.22
    """Luminous red galaxies."""
    elg_fraction: float = 0.22
    """Emission-line galaxies."""
    qso_fraction: float = 0.13
    """Quasars."""
    star_fraction: float = 0.17
    """Stars of the Milky Way Survey."""
    program: str = "all"
    """What is observed in "bright" or "dark" time, or "all"."""
    anomaly_fraction: float = 0.0
    """Part of the objects that get an anomaly."""
    anomaly_kinds: tuple[str, ...] = tuple(KINDS)
    """Of which kinds, with equal probability."""
    exptime_s: float = 1000.0
    """Effective exposure time that objects scatter around [s]."""
    bases_fraction: float = 0.0
    """Part of the objects that is drawn from real template bases, where some are given."""

    def target_fractions(self) -> FloatArray:
        """Probability of each of `TARGETS` in this programme, [5], sum 1."""
        mix = (self.bgs_fraction, self.lrg_fraction, self.elg_fraction, self.qso_fraction, self.star_fraction)
        bright = np.array([BRIGHT_SHARE[target] for target in TARGETS])
        share = {"all": np.ones(5), "bright": bright, "dark": 1.0 - bright}[self.program]
        return np.array(mix) * share / np.sum(np.array(mix) * share)


@dataclass(frozen=True)
class Population:
    """Objects before they have spectra; arrays [B].

    `z` is true, `z_reported` what the pipeline says; `rmag` the AB magnitude of the light in the fibre;
    `anomaly` a kind of `engine.synthetic.anomalies.KINDS` or "", `strength` in that kind's unit (0 for none).
    """

    target: np.ndarray
    z: FloatArray
    z_reported: FloatArray
    rmag: FloatArray
    anomaly: np.ndarray
    strength: FloatArray
    exptime_s: FloatArray
    sky: FloatArray
    is_from_bases: np.ndarray

    @property
    def observing(self) -> Observing:
        """Conditions under which the spectra were taken."""
        return Observing(self.exptime_s, self.sky)

    def take(self, rows: np.ndarray) -> "Population":
        """Return the objects of some rows (indices or booleans)."""
        return Population(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def concatenate(parts: Sequence[Population]) -> Population:
    """Return the objects of all parts in order."""
    return Population(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Population)}
    )


def draw(num: int, config: SimulateConfig, rng: np.random.Generator) -> Population:
    """Draw `num` objects."""
    fractions = config.target_fractions()
    present = [name for name, fraction in zip(TARGETS, fractions, strict=True) if fraction > 0]
    anomaly, strength = _draw_anomalies(num, config, present, rng)
    target = rng.choice(TARGETS, num, p=fractions).astype("U4")
    for kind in np.unique(anomaly[anomaly != ""]):
        able = [name for name in present if name in KINDS[kind].targets]
        wrong = (anomaly == kind) & ~np.isin(target, able)
        target[wrong] = rng.choice(able, int(wrong.sum()))
    rmag, z = _draw_magnitudes(target, rng)
    is_anomalous = anomaly != ""
    limit = np.array([ANOMALY_FAINTEST[t] for t in target]) if num else np.zeros(0)
    rmag = np.where(is_anomalous & (rmag > limit), limit - 0.3 * (rmag - limit), rmag)
    near = np.array([KINDS[kind].z_max if kind else 9.0 for kind in anomaly]) if num else np.zeros(0)
    z = np.where(z > near, near * rng.uniform(0.15, 1.0, num), z)
    is_bright = np.isin(target, ("BGS",)) | ((target == "STAR") & (rng.uniform(size=num) < 0.6))
    if config.program != "all":
        is_bright = np.full(num, config.program == "bright")
    return Population(
        target, z, _reported(z, anomaly, strength, rng), rmag, anomaly, strength,
        exptime_s=_draw_exptime(target, config.exptime_s, rng),
        sky=np.where(is_bright, rng.uniform(1.5, 4.5, num), 1.0 + rng.exponential(0.15, num)),
        is_from_bases=rng.uniform(size=num) < config.bases_fraction,
    )  # fmt: skip


def draw_companions(hosts: Population, config: SimulateConfig, rng: np.random.Generator) -> Population:
    """Draw the second objects of blends: galaxies or quasars whose redshift differs by 0.1 (1 + z) at least."""
    plain = replace(config, anomaly_fraction=0.0, star_fraction=0.0, program="all")
    others = draw(len(hosts.z), plain, rng)
    near = np.abs(others.z - hosts.z) < 0.1 * (1.0 + hosts.z)
    z = np.where(near, hosts.z + 0.15 * (1.0 + hosts.z), others.z)
    return replace(others, z=z, is_from_bases=np.zeros(len(z), bool))


def _draw_anomalies(
    num: int, config: SimulateConfig, present: Sequence[str], rng: np.random.Generator
) -> tuple[np.ndarray, FloatArray]:
    """Kinds and strengths; only kinds that some class that is present can have."""
    able = [kind for kind in config.anomaly_kinds if set(present) & set(KINDS[kind].targets)]
    if config.anomaly_fraction == 0 or not able:
        return np.full(num, "", "U24"), np.zeros(num)
    kinds = np.array(able, "U24")
    anomaly = np.where(rng.uniform(size=num) < config.anomaly_fraction, rng.choice(kinds, num), "")
    lowest = np.array([KINDS[kind].low if kind else 0.0 for kind in anomaly])
    highest = np.array([KINDS[kind].high if kind else 0.0 for kind in anomaly])
    return anomaly, rng.uniform(lowest, highest)


def _draw_magnitudes(target: np.ndarray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Magnitudes and redshifts by class; counts of a class rise with magnitude as in flux-limited samples."""
    num = len(target)
    u, v, w = rng.uniform(1e-4, 1.0, num), rng.standard_normal(num), rng.standard_normal(num)
    bgs_mag = np.clip(20.6 + np.log10(u) / 0.55, 14.5, None)
    bgs_z = np.clip(0.2 * 10.0 ** (0.12 * (bgs_mag - 19.3)) * np.exp(0.4 * v), 0.012, 0.65)
    lrg_z = np.clip(0.74 + 0.2 * v, 0.3, 1.12)
    lrg_mag = np.clip(20.7 + 2.1 * (lrg_z - 0.5) + 0.45 * w, 18.8, 23.0)
    elg_z = 0.6 + 1.0 * rng.beta(2.0, 2.0, num)
    qso_z = np.clip(0.25 + rng.gamma(3.4, 0.46, num), 0.3, 4.6)
    qso_mag = np.clip(23.0 + np.log10(u) / 0.4, 15.8, None)
    star_mag = np.clip(20.0 + np.log10(u) / 0.35, 14.8, None)
    cases = [target == name for name in TARGETS]
    rmag = np.select(cases, [bgs_mag, lrg_mag, np.clip(23.2 + 0.5 * w, 21.3, 24.3), qso_mag, star_mag])
    return rmag, np.select(cases, [bgs_z, lrg_z, elg_z, qso_z, 4e-4 * v])


def _draw_exptime(target: np.ndarray, exptime_s: float, rng: np.random.Generator) -> FloatArray:
    """Effective exposure times: bright time is shorter, quasars and others are visited again."""
    num = len(target)
    visits = np.where(target == "QSO", rng.integers(1, 5, num), 1 + (rng.uniform(size=num) < 0.25))
    shorter = np.where(target == "BGS", 0.6, 1.0)
    return exptime_s * shorter * visits * 10.0 ** rng.normal(0.0, 0.08, num)


def _reported(
    z: FloatArray, anomaly: np.ndarray, strength: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Redshifts as the pipeline reports them: right to 20 km/s but where the anomaly is a wrong one."""
    offset = np.where(anomaly == "wrong_redshift", strength, 0.0) * (1.0 + z)
    offset = np.where((rng.uniform(size=len(z)) < 0.5) & (z - offset > 0.005), -offset, offset)
    return z + offset + rng.normal(0.0, 7e-5, len(z)) * (1.0 + z)
