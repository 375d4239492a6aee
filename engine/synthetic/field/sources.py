"""An object on the sky as parts: profiles and blobs, each with the light of one of a few SEDs."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import gammainc, gammaincinv

from engine.synthetic.field.bands import REFERENCE, FloatArray


@dataclass(frozen=True, slots=True)
class Profile:
    """A Sersic profile or a real galaxy.

    `sed` says which row of `Source.flux` it has, `weight` the share of it. `half_light` [arcsec] is the
    semi-major axis that holds half of the light; `axis_ratio` b / a; `angle` [deg] from +x to +y of the mosaic;
    (`dx`, `dy`) [arcsec] from the object's position. `stamp` >= 0 is a COSMOS galaxy instead of Sersic `index`.
    """

    sed: int
    weight: float
    half_light: float
    index: float = 1.0
    axis_ratio: float = 1.0
    angle: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    stamp: int = -1


@dataclass(frozen=True, slots=True)
class Blobs:
    """Round Gaussians of one size (points where `sigma` is 0) with the light of one SED.

    `weight`, `dx`, `dy` [K]: share of the SED's flux and places [arcsec].
    """

    sed: int
    sigma: float
    weight: FloatArray
    dx: FloatArray
    dy: FloatArray


POINT = Blobs(0, 0.0, np.ones(1), np.zeros(1), np.zeros(1))
"""All light in one point."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """What a detector left in one band around an object: kind, band [0 to 5], peak [nJy/pixel at 0.03], shape."""

    kind: str
    band: int
    peak: float
    size: float
    angle: float
    dx: float
    dy: float


@dataclass(frozen=True, slots=True)
class Source:
    """One object: place [arcsec from the mosaic's lower left corner], class, light, shape.

    `flux` [S, 6] nJy by SED and band. `anomaly` is "" where nothing was injected.
    """

    object_id: int
    u: float
    v: float
    kind: str
    z: float
    flux: FloatArray
    profiles: tuple[Profile, ...] = ()
    blobs: tuple[Blobs, ...] = ()
    anomaly: str = ""
    strength: float = 0.0
    artefact: Artefact | None = None

    @property
    def total_flux(self) -> FloatArray:
        """Flux in the bands [6] nJy."""
        return self.flux.sum(axis=0)


@cache
def sersic_b(index: float) -> float:
    """b_n of the Sersic profile: half of the light within the effective radius (Graham & Driver 2005, Eq. 4)."""
    return float(gammaincinv(2.0 * index, 0.5))


def sersic_fraction(radius: FloatArray, half_light: float, index: float) -> FloatArray:
    """Share of the light within ellipses of semi-major axis `radius` (Graham & Driver 2005, Eq. 2)."""
    return gammainc(2.0 * index, sersic_b(index) * (np.asarray(radius) / half_light) ** (1.0 / index))


def half_light_radius(source: Source) -> float:
    """Circularised half-light radius [arcsec] of the profiles in F200W (the brightest band without SW light).

    0 for point sources. Offsets of parts from each other are left out.
    """
    total = source.flux[:, REFERENCE] if source.flux[:, REFERENCE].any() else source.flux.max(axis=1)
    parts = [(total[p.sed] * p.weight, p.half_light * p.axis_ratio**0.5, p.index) for p in source.profiles]
    light = sum(flux for flux, _, _ in parts)
    if not parts or light <= 0:
        return 0.0
    radius = np.geomspace(1e-3, 20.0, 400)
    grown = sum(flux * sersic_fraction(radius, size, index) for flux, size, index in parts) / light
    return float(np.interp(0.5, grown, radius))
