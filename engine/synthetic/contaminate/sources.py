"""Galaxies and stars to put on images: their shapes and colours from the population of synthetic fields."""

# C = channels

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import Optics
from engine.synthetic.contaminate.target import Target
from engine.synthetic.field import galaxies
from engine.synthetic.field.population import star_fluxes
from engine.synthetic.field.sources import POINT, Source

NUM_SHAPES = 512
"""Galaxies, and stars, to choose from: colours of populations take longer to make than an image."""
FAINTEST_SHAPE = 27.0
"""F200W magnitude to which these galaxies go; it sets sizes and redshifts, brightness is scaled."""
TRIES = 64
_LIBRARY = 1 << 22  # what a stream of random numbers is for


@dataclass(frozen=True, slots=True)
class Placed:
    """A galaxy or star at a pixel (`x`, `y`), `mag_offset` fainter than the target in the brightest channels.

    Its place on the sky is that of the pixel, its flux is in the unit of the images.
    """

    source: Source
    x: float
    y: float
    mag_offset: float


class Library:
    """Galaxies and stars whose brightest channel has a flux of 1, the same for one seed."""

    def __init__(self, config: ContaminateConfig, optics: Optics) -> None:
        self._config, self._pixel_arcsec = config, optics.pixel_arcsec
        rng = np.random.default_rng((config.seed, _LIBRARY))
        drawn = galaxies.draw(galaxies.draw_magnitudes(NUM_SHAPES, FAINTEST_SHAPE, rng), rng)
        found = [galaxies.source(drawn, i, 0, (0.0, 0.0), rng) for i in range(NUM_SHAPES)]
        self._galaxies = [_seen(_resized(s, config.size_factor), optics.bands) for s in found]
        starlight = star_fluxes(NUM_SHAPES, rng)
        stars = [Source(0, 0.0, 0.0, "star", 0.0, flux[None], blobs=(POINT,)) for flux in starlight]
        self._stars = [_seen(s, optics.bands) for s in stars]

    def draw(self, target: Target, size: int, rng: np.random.Generator) -> list[Placed]:
        """Draw the objects of one image of `size` pixels a side."""
        config = self._config
        num = int(rng.integers(config.min_sources, config.max_sources + 1))
        return [self._place(target, size, rng) for _ in range(num)]

    def _place(self, target: Target, size: int, rng: np.random.Generator) -> Placed:
        config = self._config
        shapes = self._stars if rng.uniform() < config.star_fraction else self._galaxies
        shape = shapes[int(rng.integers(NUM_SHAPES))]
        offset = float(rng.uniform(config.brightest_mag_offset, config.faintest_mag_offset))
        x, y = _place_outside(target, size, keep_off_px(config, target, size), rng)
        u, v = ((place + 0.5) * self._pixel_arcsec for place in (x, y))
        flux = (shape.flux * (target.flux * 10 ** (-0.4 * offset))).astype(np.float32)
        return Placed(replace(shape, u=u, v=v, flux=flux), x, y, offset)


def keep_off_px(config: ContaminateConfig, target: Target, size: int) -> float:
    """Radius [pixel] around the target within which nothing is centred; at most half of the side."""
    return min(config.min_distance * target.half_light_px, size / 2)


def _place_outside(
    target: Target, size: int, nearest: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Draw a place on the image outside of a circle: the first such of some tries, or the furthest."""
    places = rng.uniform(-0.5, size - 0.5, (TRIES, 2))
    distance = np.hypot(*(places - (target.x, target.y)).T)
    outside = np.flatnonzero(distance >= nearest)
    x, y = places[outside[0] if len(outside) else distance.argmax()]
    return float(x), float(y)


def _seen(source: Source, bands: Sequence[int]) -> Source:
    """Light in the channels, scaled to 1 in the brightest."""
    flux = source.flux[:, list(bands)]
    return replace(source, flux=flux / flux.sum(0).max())


def _resized(source: Source, factor: float) -> Source:
    """Change the angular size of all parts."""
    profiles = tuple(
        replace(p, half_light=p.half_light * factor, dx=p.dx * factor, dy=p.dy * factor)
        for p in source.profiles
    )
    blobs = tuple(
        replace(b, sigma=b.sigma * factor, dx=b.dx * factor, dy=b.dy * factor) for b in source.blobs
    )
    return replace(source, profiles=profiles, blobs=blobs)
