"""Normal galaxies: bulge, disk and clumps, each with its own stars, and relations to magnitude and redshift.

None of this is fitted; each relation says what it follows. Flux is nJy, sizes are arcsec.
"""

# B = objects

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaincc, gammainccinv

from engine.synthetic.field.bands import COUNT_SLOPE, FloatArray, fluxes
from engine.synthetic.field.config import Z_RANGE
from engine.synthetic.field.seds import SedParams, galaxy_colours
from engine.synthetic.field.sources import Blobs, Profile, Source

BRIGHTEST = 19.0
"""Brightest galaxies in F200W (AB): brighter ones are too rare to matter."""
BULGE, DISK, CLUMPS = 0, 1, 2
"""Rows of `Source.flux` of a normal galaxy."""
NUM_PARTS = 3
BULGE_INDICES = np.array([2.5, 3.0, 4.0, 4.0])
"""Sersic indices of bulges; a few values only, because each needs its own table in GalSim."""
MAX_CLUMPS = 6
COLOUR_SCATTER_MAG = 0.03
"""Scatter of the bands about the templates, for what they do not know."""


@dataclass(frozen=True, slots=True)
class Galaxies:
    """Arrays [B]; `flux` [B, 3, 6] of bulge, disk and clumps, sizes are semi-major half-light radii."""

    z: FloatArray
    flux: FloatArray
    disk_size: FloatArray
    bulge_size: FloatArray
    bulge_index: FloatArray
    axis_ratio: FloatArray
    bulge_axis_ratio: FloatArray
    angle: FloatArray


def draw_magnitudes(num: int, faintest: float, rng: np.random.Generator) -> FloatArray:
    """Magnitudes in F200W [num]: counts rise as 10^(`COUNT_SLOPE` m) from `BRIGHTEST` to `faintest`."""
    low, high = 10.0 ** (COUNT_SLOPE * (np.array([BRIGHTEST, faintest]) - faintest))
    return faintest + np.log10(rng.uniform(low, high, num)) / COUNT_SLOPE


def draw_redshifts(
    mag: FloatArray, rng: np.random.Generator, z_range: tuple[float, float] = Z_RANGE
) -> FloatArray:
    """Redshifts [B] from p(z) ~ z^2 exp(-(z / z0)^1.5) (Smail et al. 1994); medians 0.7 at 22 mag, 2.4 at 28.

    Within a narrower range than `Z_RANGE` they follow the same law, cut off at its ends.
    """
    z0 = np.clip(0.5 + 0.2 * (mag - 22.0), 0.15, None)
    if z_range == Z_RANGE:
        return np.clip(z0 * rng.gamma(2.0, 1.0, len(mag)) ** (1.0 / 1.5), *Z_RANGE)
    # (z / z0)^1.5 is of a gamma distribution: drawn by its upper tail, which keeps its digits far out.
    nearest, farthest = (gammaincc(2.0, (end / z0) ** 1.5) for end in z_range)
    tail = rng.uniform(farthest, nearest)
    return np.clip(z0 * gammainccinv(2.0, tail) ** (1.0 / 1.5), *z_range)


def draw(
    mag: FloatArray,
    rng: np.random.Generator,
    old_fraction: float | None = None,
    z_range: tuple[float, float] = Z_RANGE,
    redshifts: Literal["sky", "uniform"] = "sky",
) -> Galaxies:
    """Draw galaxies of magnitudes [B] in F200W; `old_fraction` of them old, by default fewer among faint ones."""
    num = len(mag)
    z = draw_redshifts(mag, rng, z_range) if redshifts == "sky" else rng.uniform(*z_range, num)
    share = 0.28 * 10.0 ** (-0.2 * np.clip(mag - 21.0, 0.0, None)) if old_fraction is None else old_fraction
    is_old = rng.uniform(size=num) < share
    bulge_share = np.where(is_old, rng.uniform(0.4, 1.0, num), rng.beta(1.2, 4.0, num))
    is_clumpy = ~is_old & (rng.uniform(size=num) < np.clip(0.15 + 0.15 * z, 0.0, 0.55))
    clump_share = np.where(is_clumpy, rng.uniform(0.05, 0.3, num), 0.0)
    shares = np.stack(
        [bulge_share, (1 - bulge_share) * (1 - clump_share), (1 - bulge_share) * clump_share], 1
    )
    size = _disk_size(mag, is_old, rng)
    return Galaxies(
        z=z,
        flux=fluxes(mag)[:, None, None] * shares[:, :, None] * _colours(z, is_old, rng),
        disk_size=size,
        bulge_size=np.maximum(size * np.where(is_old, 0.7, rng.uniform(0.2, 0.5, num)), 0.015),
        bulge_index=rng.choice(BULGE_INDICES, num),
        axis_ratio=_disk_axis_ratio(num, rng),
        bulge_axis_ratio=rng.uniform(0.55, 1.0, num),
        angle=rng.uniform(0.0, 180.0, num),
    )


def _disk_size(mag: FloatArray, is_old: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """Half-light radii: 0.25 arcsec at 24 mag, 0.1 at 28, scatter 0.2 dex, old ones 0.2 dex smaller.

    References
    ----------
    van der Wel et al. (2014), ApJ 788, 28: scatter, and sizes of the two classes.
    """
    log_size = np.log10(0.25) - 0.1 * (mag - 24.0) - 0.2 * is_old + rng.normal(0.0, 0.2, len(mag))
    return np.clip(10.0**log_size, 0.03, 1.5)


def _disk_axis_ratio(num: int, rng: np.random.Generator) -> FloatArray:
    """Thin disks of intrinsic thickness 0.2 at random inclination (Hubble 1926)."""
    return np.sqrt(0.2**2 + (1.0 - 0.2**2) * rng.uniform(size=num) ** 2)


def _colours(z: FloatArray, is_old: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """Colours [B, 3, 6] of bulge, disk and clumps, 1 in F200W: old, younger, youngest; one dust, one scatter."""
    num = len(z)
    oldest = np.clip(1.02 - 0.11 * z, 0.3, 0.97)
    """The age that the Universe allows, on the scale of `galaxies.AGES`."""
    disk_age = np.where(is_old, oldest - 0.05, np.clip(rng.normal(0.42, 0.13, num), 0.05, oldest))
    bulge_age = np.where(is_old, oldest, np.clip(disk_age + rng.uniform(0.1, 0.4, num), 0.1, oldest))
    ebv = np.where(is_old, rng.gamma(1.2, 0.03, num), np.clip(rng.gamma(2.0, 0.07, num), 0.0, 0.7))
    is_strong = rng.uniform(size=num) < 0.08
    log_ew = 0.7 + 1.3 * np.log10(1.0 + z) + rng.normal(0.0, 0.3, num) + 0.6 * is_strong - 1.7 * is_old
    log_oh = np.clip(8.75 - 0.45 * (log_ew - 0.5) + rng.normal(0.0, 0.15, num), 7.8, 9.1)
    ages = (bulge_age, disk_age, np.clip(disk_age - 0.25, 0.02, None))
    gas = (0.2, 1.0, 2.0)
    rows = [
        galaxy_colours(SedParams(age, ebv, factor * 10.0**log_ew, log_oh, z), rng)
        for age, factor in zip(ages, gas, strict=True)
    ]
    scatter = 10.0 ** (0.4 * COLOUR_SCATTER_MAG * rng.standard_normal((num, 1, 6)))
    return np.stack(rows, axis=1) * scatter / scatter[:, :, 2:3]


def source(
    galaxies: Galaxies, i: int, object_id: int, place: tuple[float, float], rng: np.random.Generator, stamp: int = -1
) -> Source:  # fmt: skip
    """Make galaxy `i` into a source at `place` [arcsec]; with COSMOS galaxy `stamp` if that is not negative."""
    flux = galaxies.flux[i]
    if stamp >= 0:
        real = Profile(0, 1.0, float(galaxies.disk_size[i]), stamp=stamp, angle=float(galaxies.angle[i]))
        return Source(object_id, *place, "galaxy", float(galaxies.z[i]), flux.sum(0, keepdims=True), (real,))
    angle = float(galaxies.angle[i])
    disk = Profile(DISK, 1.0, float(galaxies.disk_size[i]), 1.0, float(galaxies.axis_ratio[i]), angle)
    bulge = Profile(
        BULGE, 1.0, float(galaxies.bulge_size[i]), float(galaxies.bulge_index[i]),
        float(galaxies.bulge_axis_ratio[i]), angle,
    )  # fmt: skip
    blobs = (clumps(disk, rng),) if flux[CLUMPS].any() else ()
    return Source(object_id, *place, "galaxy", float(galaxies.z[i]), flux, (bulge, disk), blobs)


def clumps(disk: Profile, rng: np.random.Generator) -> Blobs:
    """Two to six star-forming clumps in the plane of a disk, unresolved or nearly so."""
    num = int(rng.integers(2, MAX_CLUMPS + 1))
    radius = disk.half_light * np.sqrt(rng.uniform(0.1, 3.0, num))
    phase, turn = rng.uniform(0.0, 2.0 * np.pi, num), np.radians(disk.angle)
    along, across = radius * np.cos(phase), disk.axis_ratio * radius * np.sin(phase)
    weight = rng.uniform(0.3, 1.0, num)
    return Blobs(
        CLUMPS,
        float(0.12 * disk.half_light),
        weight / weight.sum(),
        along * np.cos(turn) - across * np.sin(turn),
        along * np.sin(turn) + across * np.cos(turn),
    )
