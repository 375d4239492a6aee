"""Find sources on an image, with the settings of the paper, so that the same sky gives the same sources.

Neighbouring strips of a mosaic are searched apart. That a source near their border is found alike in both
needs everything to be local: the background is a mesh on the mosaic's own grid with straight lines between
(SExtractor's splines are not local), and the threshold is that of the error map. A source belongs where its
brightest pixel is, a whole number that small differences do not move.

References
----------
Pearce-Casey et al. (2023), arXiv:2310.09073, and its notebooks: `sep.extract` on F150W matched to F444W, 2
sigma of the error map, 5 pixels, 32 deblending levels, contrast 0.005.
Bertin & Arnouts (1996), A&AS 117, 393; Barbary (2016), JOSS 1(6), 58: SExtractor, sep.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sep
from astropy.stats import mad_std, sigma_clipped_stats
from pydantic import Field

from engine.config import Config
from engine.images.planes import Plane

MESH = 64
"""Side of a cell of the background mesh [pixel]."""

REACH = 3 * MESH
"""Rows beyond a strip within which a search looks the same to both sides: sources up to 2 meshes high."""

PIXSTACK = 10_000_000


class DetectConfig(Config):
    """Settings of detection; the defaults are the paper's."""

    thresh: float = Field(default=2.0, gt=0)
    """Threshold in units of the error map."""
    minarea: int = Field(default=5, ge=1)
    """Fewest pixels above it."""
    deblend_nthresh: int = Field(default=32, ge=1)
    """Levels of deblending."""
    deblend_cont: float = Field(default=0.005, ge=0, le=1)
    """Contrast, as a share of the flux, from which a branch is a source of its own."""
    subtract_background: bool = True
    """Take off the mesh of clipped medians (64 pixels) before the search. Cutouts keep their background."""


class Detections(NamedTuple):
    """Sources by their brightest pixel, in order of rows, then columns.

    `x`, `y` are barycentres and `x_peak`, `y_peak` brightest pixels on the image's grid (pixels from 0).
    """

    x: np.ndarray
    y: np.ndarray
    x_peak: np.ndarray
    y_peak: np.ndarray


def detect(plane: Plane, config: DetectConfig) -> Detections:
    """Find the sources of a plane.

    Parameters
    ----------
    plane
        nJy a pixel. Its first row and column should lie on a multiple of `MESH`, so that the mesh is the same
        for all strips. Where there is no error map (error 0 on usable pixels) the spread of the background
        of the cell is taken.
    config
        Settings.
    """
    if plane.mask.all():
        return Detections(*(np.empty(0, dtype) for dtype in ("f8", "f8", "i8", "i8")))
    level, spread = background(plane.science, plane.mask)
    science = plane.science - level if config.subtract_background else plane.science
    error = np.where(plane.error > 0, plane.error, spread).astype(np.float32)
    before = sep.get_extract_pixstack()
    sep.set_extract_pixstack(max(before, min(PIXSTACK, plane.science.size)))
    try:
        found = sep.extract(
            np.ascontiguousarray(science, np.float32), config.thresh, err=error, mask=plane.mask,
            minarea=config.minarea, deblend_nthresh=config.deblend_nthresh, deblend_cont=config.deblend_cont,
        )  # fmt: skip
    finally:
        sep.set_extract_pixstack(before)
    x, y = found["x"] + plane.x0, found["y"] + plane.y0
    x_peak, y_peak = found["xpeak"] + plane.x0, found["ypeak"] + plane.y0
    order = np.lexsort((x_peak, y_peak))
    return Detections(x[order], y[order], x_peak[order].astype(np.int64), y_peak[order].astype(np.int64))


def stack(planes: Sequence[Plane]) -> Plane:
    """Mean of planes of one shape, weighted by inverse variance; a pixel is masked where all are.

    A plane without error map has the clipped spread of its pixels for error.
    """
    if len(planes) == 1:
        return planes[0]
    weights = [_inverse_variance(plane) for plane in planes]
    total = np.sum(weights, axis=0)
    mask = ~(total > 0)
    total[mask] = 1
    science = np.sum([plane.science * weight for plane, weight in zip(planes, weights, strict=True)], axis=0)
    error = np.where(mask, 0, 1 / np.sqrt(total)).astype(np.float32)
    return Plane(
        np.where(mask, 0, science / total).astype(np.float32), error, mask, planes[0].y0, planes[0].x0
    )


def _inverse_variance(plane: Plane) -> np.ndarray:
    error = plane.error
    if not error.any() and not plane.mask.all():
        error = np.full(error.shape, sigma_clipped_stats(plane.science[~plane.mask], stdfunc=mad_std)[2])
    usable = ~plane.mask & (error > 0)
    return np.divide(1, np.square(error), out=np.zeros(error.shape), where=usable)


def background(science: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clipped median and spread of cells of `MESH` pixels, with straight lines between their centres.

    Parameters
    ----------
    science, mask
        [H, W]; True in `mask` is bad.

    Returns
    -------
    level, spread
        float32 [H, W]. Cells without a usable pixel take no part.
    """
    rows, columns = (-(-side // MESH) for side in science.shape)
    padding = [(0, cells * MESH - side) for cells, side in zip((rows, columns), science.shape, strict=True)]
    bad = np.pad(mask, padding, constant_values=True)
    values = np.where(bad, np.nan, np.pad(science, padding))
    cells = values.reshape(rows, MESH, columns, MESH).swapaxes(1, 2).reshape(rows * columns, MESH * MESH)
    known = ~np.isnan(cells).all(axis=1)
    statistics = np.zeros((2, rows * columns))
    _, statistics[0, known], statistics[1, known] = sigma_clipped_stats(
        cells[known], mask=np.isnan(cells[known]), sigma=3.0, maxiters=None, stdfunc=mad_std, axis=1
    )
    weight = _interpolate(known.reshape(rows, columns).astype(float), science.shape)
    return tuple(  # pyright: ignore[reportReturnType] - two of them
        (_interpolate(s.reshape(rows, columns), science.shape) / np.where(weight > 0, weight, 1)).astype(
            np.float32
        )
        for s in statistics
    )


def _interpolate(mesh: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Straight lines between the centres of cells, constant beyond the outer ones."""
    for axis, side in enumerate(shape):
        at = np.clip((np.arange(side) + 0.5) / MESH - 0.5, 0, mesh.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(mesh.shape[axis] - 2, 0))
        high = np.minimum(low + 1, mesh.shape[axis] - 1)
        share = np.expand_dims(at - low, 1 - axis)
        mesh = np.take(mesh, low, axis) * (1 - share) + np.take(mesh, high, axis) * share
    return mesh
