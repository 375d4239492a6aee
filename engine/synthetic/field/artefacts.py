"""What detectors leave in one band of a mosaic without telling the error map."""

import numpy as np

from engine.synthetic.field.bands import RMS_PIXEL_ARCSEC, FloatArray
from engine.synthetic.field.sources import Artefact, Source


def draw_artefact(source: Source, scale: float) -> tuple[int, int, FloatArray]:
    """Column and row of the first pixel, and light [n, n] nJy/pixel, of a source's artefact on a grid [arcsec]."""
    artefact = source.artefact
    assert artefact is not None
    half = int(np.ceil(2.0 * artefact.size / scale)) + 1
    x = (source.u + artefact.dx) / scale - 0.5
    y = (source.v + artefact.dy) / scale - 0.5
    left, low = round(x) - half, round(y) - half
    pixels = np.arange(2 * half + 1)
    across, up = (left + pixels - x) * scale, (low + pixels - y)[:, None] * scale
    shape = {"snowball": _snowball, "wisp": _wisp, "bad_column": _bad_column}[artefact.kind]
    peak = artefact.peak * (scale / RMS_PIXEL_ARCSEC) ** 2
    return left, low, (peak * shape(artefact, across, up)).astype(np.float32)


def _snowball(artefact: Artefact, x: FloatArray, y: FloatArray) -> FloatArray:
    """Remnant of a large cosmic ray: a ring with sharp edges around a core that jump detection took out."""
    radius = np.hypot(x, y)
    ring = (radius <= artefact.size) & (radius > 0.5 * artefact.size)
    return ring + 0.15 * np.exp(-radius / artefact.size) * (radius <= 2.0 * artefact.size)


def _wisp(artefact: Artefact, x: FloatArray, y: FloatArray) -> FloatArray:
    """Stray light (wisp or claw): a bent ridge, soft along and across."""
    turn = np.radians(artefact.angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bent = across - 0.25 * along**2 / artefact.size
    size = 0.5 * artefact.size
    fall = np.exp(-0.5 * np.square(along / size) - 0.5 * np.square(bent / (0.35 * size)))
    return fall * (np.hypot(x, y) <= 2.0 * artefact.size)


def _bad_column(artefact: Artefact, x: FloatArray, y: FloatArray) -> FloatArray:
    """Draw a column, two pixels of 0.03 arcsec wide, that is too bright."""
    return ((np.abs(x) <= RMS_PIXEL_ARCSEC) & (np.abs(y) <= artefact.size)).astype(float)
