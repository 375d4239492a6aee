"""What is on an image and not on the sky: trails, cosmic-ray hits, and edges of the data."""

# S = pixels a side

from dataclasses import dataclass

import numpy as np

from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.field.bands import FloatArray

FWHM_PER_SIGMA = 2.3548
HIT_LENGTH_PX = 3.0
"""Mean length of the track of a cosmic ray."""
HIT_LOG_SCATTER = 1.0
EDGE_TILT_DEG = 10.0
"""Edges lie along the pixels to within this angle."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Light [S, S] that a mark adds to a channel, pixels [S, S] that it has masked, and where it is."""

    light: FloatArray
    masked: np.ndarray
    x: float
    y: float


def draw_trail(
    config: ContaminateConfig, size: int, keep_off_px: float, sigma: float, rng: np.random.Generator
) -> Mark:
    """Draw a straight trail that passes the middle outside of `keep_off_px`; `sigma` is the channel's error.

    (x, y) is the point of the ridge nearest to the middle.
    """
    width = config.trail_fwhm_px / FWHM_PER_SIGMA
    nearest = keep_off_px + 3 * width
    angle = rng.uniform(0, 2 * np.pi)
    passes = rng.uniform(nearest, max(nearest, 0.6 * size))
    low, high = np.log(config.trail_sigma)
    peak = sigma * np.exp(rng.uniform(low, high))
    middle = size // 2
    distance = _along(size, angle) - passes
    light = (peak * np.exp(-0.5 * np.square(distance / width))).astype(np.float32)
    masked = (np.abs(distance) <= config.trail_fwhm_px) & config.mask_trails
    return Mark(light, masked, middle + passes * np.cos(angle), middle + passes * np.sin(angle))


def draw_hit(
    config: ContaminateConfig, size: int, keep_off_px: float, sigma: float, rng: np.random.Generator
) -> Mark:
    """Draw the track of a cosmic ray: sharp, on the pixels that it crosses outside of `keep_off_px`."""
    start, angle = rng.uniform(0, size - 1, 2), rng.uniform(0, 2 * np.pi)
    steps = np.arange(0, 1 + rng.exponential(HIT_LENGTH_PX), 0.5)
    columns, rows = (
        np.rint(start[i] + steps * turn(angle)).astype(int) for i, turn in enumerate((np.cos, np.sin))
    )
    crossed = np.zeros((size, size), bool)
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    crossed[rows[inside], columns[inside]] = True
    pixels = np.arange(size) - size // 2
    crossed &= np.hypot(pixels, pixels[:, None]) > keep_off_px
    is_masked = rng.uniform() < config.masked_hits
    light = np.zeros((size, size), np.float32)
    light[crossed] = sigma * config.hit_sigma * np.exp(rng.normal(0, HIT_LOG_SCATTER, crossed.sum()))
    return Mark(light, crossed & is_masked, float(start[0]), float(start[1]))


def draw_edge(size: int, keep_off_px: float, rng: np.random.Generator) -> Mark:
    """Draw an edge of the data that passes outside of `keep_off_px`: what lies beyond is masked."""
    angle = np.radians(90.0 * rng.integers(4) + rng.uniform(-EDGE_TILT_DEG, EDGE_TILT_DEG))
    passes = rng.uniform(keep_off_px + 1, max(keep_off_px + 1, 0.5 * size))
    masked = _along(size, angle) > passes
    x, y = (size // 2 + passes * turn(angle) for turn in (np.cos, np.sin))
    return Mark(np.zeros((size, size), np.float32), masked, x, y)


def _along(size: int, angle: float) -> FloatArray:
    """Place of pixels [S, S] along a direction, 0 in the middle pixel."""
    pixels = np.arange(size) - size // 2
    return pixels * np.cos(angle) + pixels[:, None] * np.sin(angle)
