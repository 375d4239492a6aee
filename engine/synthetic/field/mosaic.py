"""Observe a field strip by strip: light of the objects, noise, artefacts, coverage. Nothing depends on the strips."""

# G = bands of one channel, R = rows of the strip, W = columns of the mosaic

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import galsim
import numpy as np

from engine.synthetic.field.artefacts import draw_artefact
from engine.synthetic.field.bands import (
    BANDS,
    GROUPS,
    FloatArray,
    background_rms_njy,
    electrons_per_njy,
)
from engine.synthetic.field.config import PIXEL_ARCSEC, FieldConfig
from engine.synthetic.field.cosmos import Stamps
from engine.synthetic.field.noise import unit_noise
from engine.synthetic.field.population import TILE_ARCSEC, row_sources, rows_of_tiles
from engine.synthetic.field.render import STAMP_SIZES, Renderer
from engine.synthetic.field.sources import Source

FOOTPRINT_TILT_DEG = 2.0
"""Angle between the covered part and the mosaic's axes."""
_NOISE = 1 << 20  # what a stream of random numbers is for: above every row of tiles


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of the mosaics of one channel: 0 short, 1 long wavelengths."""

    channel: int
    pixel_arcsec: float
    width: int
    height: int

    @property
    def bands(self) -> tuple[int, ...]:
        """Positions in `BANDS`."""
        return tuple(BANDS.index(name) for name in GROUPS[self.channel])


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of one band, float32 [R, W].

    `noiseless`, `science` and `error` nJy/pixel, `covered` bool. Pixels without coverage have 0.
    """

    noiseless: FloatArray
    science: FloatArray
    error: FloatArray
    covered: np.ndarray


def channel_grid(config: FieldConfig, channel: int) -> Grid:
    """Grid of the short (0) or long (1) wavelengths; the long one of `dja` has half the columns and rows."""
    scales = PIXEL_ARCSEC[config.layout]
    factor = round(scales[channel] / scales[0])
    return Grid(channel, scales[channel], config.width_px // factor, config.height_px // factor)


def field_strips(
    config: FieldConfig,
    index: int,
    channel: int,
    psfs: Sequence[galsim.GSObject],
    stamps: Stamps | None = None,
) -> Iterator[tuple[int, int, Strip]]:
    """Yield (first row, band, strip) from the lowest row up, bands of a channel in turn.

    Parameters
    ----------
    index
        Of the field, from 0.
    channel
        0 short, 1 long wavelengths.
    psfs
        Of the six bands, see `psf.load_psfs`.
    stamps
        COSMOS galaxies, if the field has some.
    """
    grid = channel_grid(config, channel)
    renderer = Renderer([psfs[band] for band in grid.bands], grid.bands, grid.pixel_arcsec, stamps)
    step = config.rows_at_once * grid.height // config.height_px
    for start in range(0, grid.height, step):
        rows = (start, min(start + step, grid.height))
        sources = list(_near(config, index, grid, rows, len(stamps) if stamps else 0))
        light = draw_light(sources, renderer, rows, grid.width)
        for place, band in enumerate(grid.bands):
            yield start, band, _observe(config, index, grid, band, rows, light[place], sources)


def _near(
    config: FieldConfig, index: int, grid: Grid, rows: tuple[int, int], stamps: int
) -> Iterator[Source]:
    """Yield sources whose stamps may touch the rows, always in the same order."""
    reach = (STAMP_SIZES[-1] // 2 + 1) * grid.pixel_arcsec
    low, high = rows[0] * grid.pixel_arcsec - reach, rows[1] * grid.pixel_arcsec + reach
    last = min(int(high // TILE_ARCSEC), rows_of_tiles(config) - 1)
    for row in range(max(int(low // TILE_ARCSEC), 0), last + 1):
        yield from (s for s in row_sources(config, index, row, stamps) if low <= s.v <= high)


def draw_light(
    sources: Sequence[Source], renderer: Renderer, rows: tuple[int, int], width: int
) -> FloatArray:
    """Noiseless light [G, R, W] nJy/pixel float32 of sources in rows of a mosaic."""
    light = np.zeros((len(renderer.bands), rows[1] - rows[0], width), np.float32)
    for source in sources:
        if renderer.touches(source, rows):
            stamp = renderer.draw(source)
            add_patch(light, stamp.light, stamp.x, stamp.y - rows[0])
    return light


def add_patch(image: FloatArray, patch: FloatArray, x: int, y: int) -> None:
    """Add a patch [..., h, w] whose first pixel is (`y`, `x`) to an image in place, where they overlap."""
    height, width = image.shape[-2:]
    top, right = y + patch.shape[-2], x + patch.shape[-1]
    if top <= 0 or right <= 0 or y >= height or x >= width:
        return
    rows, columns = slice(max(y, 0), min(top, height)), slice(max(x, 0), min(right, width))
    image[..., rows, columns] += patch[
        ..., rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
    ]


def _observe(
    config: FieldConfig, index: int, grid: Grid, band: int, rows: tuple[int, int], noiseless: FloatArray,
    sources: Sequence[Source],
) -> Strip:  # fmt: skip
    error = pixel_error(noiseless, band, grid.pixel_arcsec)
    science = noiseless.copy()
    if config.noise:
        science += error * unit_noise((config.seed, index, _NOISE), rows, grid.width, band, grid.pixel_arcsec)
    for source in sources:
        if source.artefact is not None and source.artefact.band == band:
            x, y, patch = draw_artefact(source, grid.pixel_arcsec)
            add_patch(science, patch, x, y - rows[0])
    is_covered = covered(config, grid, rows)
    science[~is_covered], error[~is_covered] = 0.0, 0.0
    return Strip(noiseless, science, error, is_covered)


def pixel_error(noiseless: FloatArray, band: int, pixel_arcsec: float) -> FloatArray:
    """One sigma [nJy] of pixels with noiseless light [nJy]: background and photons of the source (as Gaussian)."""
    rms, electrons = background_rms_njy(pixel_arcsec)[band], electrons_per_njy()[band]
    variance = np.maximum(noiseless, 0.0) * np.float32(1.0 / electrons) + np.float32(rms**2)
    return np.sqrt(variance)


def covered(config: FieldConfig, grid: Grid, rows: tuple[int, int]) -> np.ndarray:
    """Pixels [R, W] with data: all, or a slightly turned rectangle within a frame of `uncovered_px`."""
    shape = (rows[1] - rows[0], grid.width)
    if not config.uncovered_px:
        return np.ones(shape, bool)
    frame = config.uncovered_px * PIXEL_ARCSEC[config.layout][0] / (1 + grid.channel)
    u = (np.arange(grid.width) + 0.5 - grid.width / 2) * grid.pixel_arcsec
    v = ((np.arange(*rows) + 0.5 - grid.height / 2) * grid.pixel_arcsec)[:, None]
    cosine, sine = np.cos(np.radians(FOOTPRINT_TILT_DEG)), np.sin(np.radians(FOOTPRINT_TILT_DEG))
    half_u, half_v = (n * grid.pixel_arcsec / 2 - frame for n in (grid.width, grid.height))
    return (np.abs(u * cosine + v * sine) <= half_u) & (np.abs(v * cosine - u * sine) <= half_v)
