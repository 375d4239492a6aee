"""Who is in a piece of sky: galaxies, stars and anomalies, each tile of sky from its own seed."""

# B = objects

from functools import lru_cache

import numpy as np

from engine.synthetic.field import anomalies, galaxies
from engine.synthetic.field.bands import COUNT_SLOPE, COUNTS_AT_26, FloatArray, fluxes
from engine.synthetic.field.config import PIXEL_ARCSEC, FieldConfig
from engine.synthetic.field.cosmos import BRIGHTEST_REAL
from engine.synthetic.field.seds import blackbody_colours
from engine.synthetic.field.sources import POINT, Source

TILE_ARCSEC = 30.72
"""Side of the square tiles in which objects are drawn: 1024 pixels of 0.03 arcsec."""
MAX_TILE_OBJECTS = 100_000
BRIGHTEST_STAR, FAINTEST_STAR, STAR_COUNT_SLOPE = 18.0, 28.0, 0.1


def galaxy_density(config: FieldConfig, faintest: float) -> float:
    """Galaxies a square arcminute brighter than a magnitude in F200W."""
    rise = COUNT_SLOPE * np.log(10.0)
    faint, bright = 10.0 ** (COUNT_SLOPE * (np.array([faintest, galaxies.BRIGHTEST]) - 26.0))
    return float(config.density_factor * COUNTS_AT_26 / rise * (faint - bright))


def field_arcsec(config: FieldConfig) -> tuple[float, float]:
    """Width and height of a field [arcsec]."""
    scale = PIXEL_ARCSEC[config.layout][0]
    return config.width_px * scale, config.height_px * scale


def rows_of_tiles(config: FieldConfig) -> int:
    """Count the rows of tiles that a field touches."""
    return int(np.ceil(field_arcsec(config)[1] / TILE_ARCSEC))


@lru_cache(maxsize=4)
def row_sources(config: FieldConfig, index: int, row: int, stamps: int = 0) -> tuple[Source, ...]:
    """Objects of one row of tiles of field `index` whose centres lie in the mosaic, in order of their ids.

    Parameters
    ----------
    row
        0 at the lower edge of the mosaic, to `rows_of_tiles(config)` - 1.
    stamps
        Number of COSMOS galaxies to choose from, 0 for none.
    """
    width, height = field_arcsec(config)
    columns = range(int(np.ceil(width / TILE_ARCSEC)))
    found = [s for column in columns for s in tile_sources(config, index, column, row, stamps)]
    inside = [s for s in found if s.u < width and s.v < height]
    return tuple(sorted(inside, key=lambda source: source.object_id))


def tile_sources(config: FieldConfig, index: int, column: int, row: int, stamps: int = 0) -> list[Source]:
    """Objects with their centres in one tile of field `index`, inside the mosaic or not."""
    rng = np.random.default_rng((config.seed, index, row, column))
    first = 1 + pairing(column, row) * MAX_TILE_OBJECTS
    if config.spacing_px:
        places = grid_places(config, column, row, rng)
        return draw_sources(config, places, 0, rng, first, stamps)
    area = (TILE_ARCSEC / 60.0) ** 2
    num_galaxies = int(rng.poisson(galaxy_density(config, config.faintest_mag) * area))
    num_stars = int(rng.poisson(config.star_density * area))
    corner = np.array([column, row]) * TILE_ARCSEC
    places = random_places(num_galaxies + num_stars, corner, TILE_ARCSEC, rng)
    return draw_sources(config, places, num_stars, rng, first, stamps)


def random_places(num: int, corner: FloatArray, side: float, rng: np.random.Generator) -> FloatArray:
    """Places [num, 2] in a square of `side` at `corner` [arcsec]."""
    return corner + side * rng.uniform(size=(num, 2))


def grid_places(config: FieldConfig, column: int, row: int, rng: np.random.Generator) -> FloatArray:
    """Places [num, 2] of the field's grid in a tile [arcsec], each somewhere in its pixel."""
    pixel = PIXEL_ARCSEC[config.layout][0]
    step = config.spacing_px * pixel
    cells = [
        np.arange(*np.ceil((np.array([n, n + 1]) * TILE_ARCSEC - step / 2) / step)) for n in (column, row)
    ]
    u, v = np.meshgrid(*((cell + 0.5) * step for cell in cells))
    middles = np.stack([u.ravel(), v.ravel()], 1)
    return middles + pixel * rng.uniform(-0.5, 0.5, middles.shape)


def pairing(column: int, row: int) -> int:
    """Return the number of a tile, which does not depend on the size of the field (Cantor's pairing)."""
    return (column + row) * (column + row + 1) // 2 + row


def draw_sources(
    config: FieldConfig, places: FloatArray, num_stars: int, rng: np.random.Generator, first_id: int, stamps: int = 0
) -> list[Source]:  # fmt: skip
    """Draw an object for each of the `places` [num, 2] [arcsec], stars last, and make some into anomalies."""
    num = len(places)
    num_galaxies = num - num_stars
    is_real = rng.uniform(size=num_galaxies) < (config.cosmos_fraction if stamps else 0.0)
    drawn = rng.integers(max(stamps, 1), size=num_galaxies)
    mag = galaxies.draw_magnitudes(num_galaxies, config.faintest_mag, rng)
    stamp = np.where(is_real & (mag > BRIGHTEST_REAL), drawn, -1)
    z_range = config.z_min, config.z_max
    normal = galaxies.draw(mag, rng, config.old_fraction, z_range, config.redshifts)
    kinds = anomalies.draw_kinds(config, num, rng)
    starlight = star_fluxes(num_stars, rng)
    found = []
    for i in range(num):
        object_id, place = first_id + i, (float(places[i, 0]), float(places[i, 1]))
        if kinds[i]:
            uniform = z_range if config.redshifts == "uniform" else None
            found.append(anomalies.make(str(kinds[i]), object_id, place, rng, uniform))
        elif i < num_galaxies:
            found.append(galaxies.source(normal, i, object_id, place, rng, int(stamp[i])))
        else:
            flux = starlight[i - num_galaxies, None]
            found.append(Source(object_id, *place, "star", 0.0, flux, blobs=(POINT,)))
    return found


def star_fluxes(num: int, rng: np.random.Generator) -> FloatArray:
    """Fluxes of stars [num, 6] nJy: blackbodies of 2800 to 7000 K, cool ones more often among faint ones."""
    low, high = 10.0 ** (STAR_COUNT_SLOPE * (np.array([BRIGHTEST_STAR, FAINTEST_STAR]) - FAINTEST_STAR))
    mag = FAINTEST_STAR + np.log10(rng.uniform(low, high, num)) / STAR_COUNT_SLOPE
    warmth = rng.beta(1.0 + 2.0 * (FAINTEST_STAR - mag) / 10.0, 2.5)
    return fluxes(mag)[:, None] * blackbody_colours(2800.0 + 4200.0 * warmth)
