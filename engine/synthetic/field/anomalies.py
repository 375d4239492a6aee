"""Injected anomalies: what each kind looks like and how strong it is.

All are bright enough to be found and measured (F200W, or F444W where there is no other light, 22.5 to 25.5 mag).
Strength: merger, flux ratio of the two; band_swap, largest change of a band [mag]; ero, F277W - F444W [mag];
dropout, F444W [mag]; lens, Einstein radius [arcsec]; artefacts, peak in units of the background rms.
"""

from dataclasses import replace
from itertools import permutations

import numpy as np

from engine.synthetic.field import galaxies
from engine.synthetic.field.bands import (
    BANDS,
    PIVOT_MICRON,
    RMS_PIXEL_ARCSEC,
    FloatArray,
    background_rms_njy,
    fluxes,
)
from engine.synthetic.field.config import ARTEFACTS, FieldConfig
from engine.synthetic.field.seds import SedParams, galaxy_colours
from engine.synthetic.field.sources import POINT, Artefact, Blobs, Profile, Source

BRIGHTEST, FAINTEST = 22.5, 25.5
NEAREST_MERGER = 0.4
"""Least redshift of mergers: nearer ones would be larger than they are drawn."""
LW = slice(3, 6)


def draw_kinds(config: FieldConfig, num: int, rng: np.random.Generator) -> np.ndarray:
    """Kinds [num], "" where there is no anomaly."""
    if not config.anomaly_kinds:
        return np.full(num, "", "U12")
    chosen = rng.choice(np.array(config.anomaly_kinds, "U12"), num)
    return np.where(rng.uniform(size=num) < config.anomaly_fraction, chosen, "")


def make(
    kind: str,
    object_id: int,
    place: tuple[float, float],
    rng: np.random.Generator,
    z_range: tuple[float, float] | None = None,
) -> Source:
    """Make an anomaly of a kind at `place` [arcsec from the mosaic's corner].

    Galaxies that it happens to have redshifts uniform in `z_range`, without it those of galaxies as bright; point
    sources, dropouts and lenses have their own.
    """
    host = _host(object_id, place, rng, z_range)
    if kind in ARTEFACTS:
        return _spoil(host, kind, rng)
    return {"merger": _merger, "band_swap": _swap, "ero": _ero, "dropout": _dropout, "lens": _lens}[kind](
        host, rng
    )


def _host(
    object_id: int, place: tuple[float, float], rng: np.random.Generator, z_range: tuple[float, float] | None
) -> Source:
    mag = rng.uniform(BRIGHTEST, FAINTEST, 1)
    drawn = galaxies.draw(mag, rng, None, z_range, "uniform") if z_range else galaxies.draw(mag, rng)
    return galaxies.source(drawn, 0, object_id, place, rng)


def _colours(age: float, ebv: float, hbeta_ew: float, z: float, rng: np.random.Generator) -> FloatArray:
    """Colours [6] of one population, 1 in F200W."""
    values = (np.array([value]) for value in (age, ebv, hbeta_ew, 8.4, z))
    return galaxy_colours(SedParams(*values), rng)[0]


def _merger(host: Source, rng: np.random.Generator) -> Source:
    """Two galaxies of one redshift, one old or dusty and one young, that overlap, with tidal tails on one side."""
    ratio, share = rng.uniform(0.4, 1.0), rng.uniform(0.10, 0.25)
    total = fluxes(rng.uniform(BRIGHTEST, FAINTEST))
    z = max(host.z, NEAREST_MERGER)
    dusty = _colours(0.55, rng.uniform(0.4, 0.8), 15.0, z, rng)
    young = _colours(rng.uniform(0.1, 0.3), 0.05, rng.uniform(60.0, 150.0), z, rng)
    body = np.array([1.0, ratio, share * (1.0 + ratio)])
    flux = total * (body / body.sum())[:, None] * np.stack([dusty, young, young])
    size, turn = rng.uniform(0.15, 0.35, 2), rng.uniform(0.0, 2.0 * np.pi)
    apart = rng.uniform(0.8, 1.5) * size.mean() * 2.0
    dx, dy = apart * np.cos(turn), apart * np.sin(turn)
    first = Profile(0, 1.0, size[0], 1.0, rng.uniform(0.5, 0.9), rng.uniform(0, 180), -dx / 2, -dy / 2)
    second = Profile(1, 1.0, size[1], 1.0, rng.uniform(0.5, 0.9), rng.uniform(0, 180), dx / 2, dy / 2)
    tail = _tail(2, turn, apart, size.mean(), rng)
    return replace(
        host, z=z, flux=flux, profiles=(first, second), blobs=(tail,), anomaly="merger", strength=float(ratio)
    )


def _tail(sed: int, turn: float, apart: float, size: float, rng: np.random.Generator) -> Blobs:
    """Draw a tail that leaves one galaxy and bends around the pair: a spiral of blobs that fade outwards."""
    along = np.linspace(0.0, 1.0, 16)
    angle = turn + rng.choice([-1.0, 1.0]) * (0.4 + 1.8 * along)
    radius = apart / 2 + size * (0.8 + 2.2 * along)
    weight = np.exp(-1.2 * along)
    return Blobs(sed, 0.35 * size, weight / weight.sum(), radius * np.cos(angle), radius * np.sin(angle))


def _swap(host: Source, rng: np.random.Generator) -> Source:  # noqa: ARG001 - makers share a signature
    """LW fluxes permuted: of the permutations that which changes a band most, the same for all parts."""
    light = host.total_flux[LW]
    orders = list(permutations(range(3)))[1:]
    changes = [np.abs(2.5 * np.log10(light[list(order)] / light)).max() for order in orders]
    best = int(np.argmax(changes))
    flux = host.flux.copy()
    flux[:, LW] = flux[:, LW][:, list(orders[best])]
    return replace(host, flux=flux, anomaly="band_swap", strength=float(changes[best]))


def _ero(host: Source, rng: np.random.Generator) -> Source:
    """Extremely red object: point, flat at short and steep at long wavelengths (Barro et al. 2023)."""
    red = rng.uniform(1.55, 2.4)
    lw = rng.uniform(24.0, 26.5) + red * np.log(PIVOT_MICRON[5] / PIVOT_MICRON[LW]) / np.log(
        PIVOT_MICRON[5] / PIVOT_MICRON[3]
    )
    sw = lw[0] + rng.uniform(0.2, 0.6) + rng.normal(0.0, 0.03, 3)
    flux = fluxes(np.concatenate([sw, lw]))[None]
    z = float(rng.uniform(5.0, 7.0))
    return replace(
        host, kind="ero", z=z, flux=flux, profiles=(), blobs=(POINT,), anomaly="ero", strength=float(red)
    )


def _dropout(host: Source, rng: np.random.Generator) -> Source:
    """Make a compact galaxy without any light at short wavelengths."""
    mag = rng.uniform(BRIGHTEST + 1.0, FAINTEST + 0.5)
    slope = rng.uniform(0.0, 0.8)
    lw = mag + slope * np.log(PIVOT_MICRON[5] / PIVOT_MICRON[LW]) / np.log(PIVOT_MICRON[5] / PIVOT_MICRON[3])
    flux = np.concatenate([np.zeros(3), fluxes(lw)])[None]
    disk = Profile(0, 1.0, rng.uniform(0.05, 0.2), 1.0, rng.uniform(0.5, 1.0), rng.uniform(0, 180))
    z = float(rng.uniform(16.0, 19.0))
    return replace(
        host,
        kind="dropout",
        z=z,
        flux=flux,
        profiles=(disk,),
        blobs=(),
        anomaly="dropout",
        strength=float(mag),
    )


def _lens(host: Source, rng: np.random.Generator) -> Source:
    """Make an early-type galaxy with the arc and counter-image of a blue one behind it, on its Einstein ring."""
    radius = rng.uniform(0.5, 1.0)
    z = float(rng.uniform(0.4, 1.2))
    total = fluxes(rng.uniform(BRIGHTEST - 0.5, FAINTEST - 1.0))
    share = rng.uniform(0.2, 0.5)
    behind = _colours(0.08, 0.02, 60.0, z + float(rng.uniform(1.0, 2.5)), rng)
    flux = total * np.stack([_colours(0.93, 0.02, 0.1, z, rng), share * behind])
    galaxy = Profile(0, 1.0, 0.6 * radius, 4.0, rng.uniform(0.6, 0.95), rng.uniform(0, 180))
    middle, width = rng.uniform(0.0, 2.0 * np.pi), np.radians(rng.uniform(60.0, 140.0))
    angle = np.concatenate(
        [middle + width * np.linspace(-0.5, 0.5, 20), middle + np.pi + 0.15 * np.arange(-1, 2)]
    )
    reach = np.concatenate([np.full(20, 1.1), np.full(3, 0.8)]) * radius
    weight = np.concatenate([np.cos(np.linspace(-1.2, 1.2, 20)) / 20, np.full(3, 0.04)])
    arc = Blobs(1, 0.05, weight / weight.sum(), reach * np.cos(angle), reach * np.sin(angle))
    return replace(
        host, z=z, flux=flux, profiles=(galaxy,), blobs=(arc,), anomaly="lens", strength=float(radius)
    )


def _spoil(host: Source, kind: str, rng: np.random.Generator) -> Source:
    """Put an artefact of the detector near a normal galaxy: within its cutout, in one band."""
    band = int(rng.integers(len(BANDS)))
    low, high, size = {
        "snowball": (20.0, 80.0, 0.25),
        "wisp": (3.0, 10.0, 1.2),
        "bad_column": (4.0, 15.0, 2.5),
    }[kind]
    strength = float(rng.uniform(low, high))
    offset, turn = rng.uniform(0.1, 0.5), rng.uniform(0.0, 2.0 * np.pi)
    artefact = Artefact(
        kind, band, strength * float(background_rms_njy(RMS_PIXEL_ARCSEC)[band]),
        float(size * rng.uniform(0.7, 1.3)), float(rng.uniform(0.0, 180.0)),
        float(offset * np.cos(turn)), float(offset * np.sin(turn)),
    )  # fmt: skip
    return replace(host, anomaly=kind, strength=strength, artefact=artefact)
