"""A part of a band's image as science, error and mask, and how it comes onto another grid.

All in nJy a pixel, so that resampling conserves flux: what a source has in all its pixels stays the same.
Noise is propagated as if pixels were independent; that of drizzled mosaics is not, and stays correlated.
"""

from dataclasses import dataclass

import numpy as np

from engine.images.wcs import BINNED, NATIVE, REPROJECTED, Grid, Relation, outline

BLOCK_PIXELS = 1 << 18
"""Pixels that are calibrated at a time: what fits into a core's cache is read from memory once."""


@dataclass(frozen=True)
class Plane:
    """Rows and columns of an image.

    Attributes
    ----------
    science, error
        float32 [H, W], nJy a pixel; 0 where `mask`.
    mask
        bool [H, W], True where a pixel must not be used.
    y0, x0
        Where the first pixel lies on the image's own grid; may be negative.
    """

    science: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    y0: int = 0
    x0: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.science.shape[0], self.science.shape[1]


def make_plane(
    science: np.ndarray,
    error: np.ndarray | None,
    weight: np.ndarray | None,
    factor: float,
    y0: int = 0,
) -> Plane:
    """Calibrate an image and find the pixels that hold data.

    Parameters
    ----------
    science
        [H, W] in the file's unit. Not finite: no data. Without `error`, exactly 0 means no data as well:
        that is how cutouts from the edge of a mosaic are filled, and resampled noise is never exactly 0.
    error
        1 sigma [H, W] in the file's unit; not finite or not positive: no data. None: it is left 0.
    weight
        [H, W]; not positive: no data.
    factor
        File's unit to nJy a pixel.
    y0
        Row of the image that comes first.
    """
    out = Plane(
        np.empty(science.shape, np.float32), np.zeros(science.shape, np.float32), np.empty(science.shape, bool), y0
    )  # fmt: skip
    rows = max(1, BLOCK_PIXELS // max(science.shape[1], 1))
    for start in range(0, science.shape[0], rows):
        part = np.s_[start : start + rows]
        noise, known = (None if values is None else values[part] for values in (error, weight))
        bad = ~_holds_data(science[part], noise, known)
        out.mask[part] = bad
        for values, to in ((science, out.science), (error, out.error)):
            if values is not None:
                with np.errstate(over="ignore", invalid="ignore"):  # of what is no data
                    np.multiply(values[part], factor, out=to[part], casting="same_kind")
                if bad.any():
                    to[part][bad] = 0
    return out


def _holds_data(science: np.ndarray, error: np.ndarray | None, weight: np.ndarray | None) -> np.ndarray:
    good: np.ndarray = np.isfinite(science)
    with np.errstate(invalid="ignore"):
        good &= science != 0 if error is None else np.isfinite(error) & (error > 0)
        if weight is not None:
            good &= weight > 0
    return good


def weight_to_error(weight: np.ndarray) -> np.ndarray:
    """1 sigma from inverse variance, float32, NaN where there is no weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, 1 / np.sqrt(weight), np.nan).astype(np.float32)


def masked(y0: int, x0: int, shape: tuple[int, int]) -> Plane:
    """Return a plane without data."""
    zeros = np.zeros((2, *shape), np.float32)
    return Plane(zeros[0], zeros[1], np.ones(shape, bool), y0, x0)


def window(plane: Plane, y0: int, x0: int, shape: tuple[int, int]) -> Plane:
    """Cut out a window given on the plane's own grid; what lies outside the plane is masked.

    A window that is whole on the plane is a view of it.
    """
    row, column = y0 - plane.y0, x0 - plane.x0
    if min(row, column) >= 0 and row + shape[0] <= plane.shape[0] and column + shape[1] <= plane.shape[1]:
        at = np.s_[row : row + shape[0], column : column + shape[1]]
        return Plane(plane.science[at], plane.error[at], plane.mask[at], y0, x0)
    out = masked(y0, x0, shape)
    begin = (max(y0, plane.y0), max(x0, plane.x0))
    end = (
        min(y0 + shape[0], plane.y0 + plane.shape[0]),
        min(x0 + shape[1], plane.x0 + plane.shape[1]),
    )
    if begin[0] < end[0] and begin[1] < end[1]:
        to = np.s_[begin[0] - y0 : end[0] - y0, begin[1] - x0 : end[1] - x0]
        at = np.s_[
            begin[0] - plane.y0 : end[0] - plane.y0,
            begin[1] - plane.x0 : end[1] - plane.x0,
        ]
        out.science[to], out.error[to], out.mask[to] = plane.science[at], plane.error[at], plane.mask[at]
    return out


def onto(
    plane: Plane, relation: Relation, reference: Grid, band: Grid, y0: int, x0: int, shape: tuple[int, int]
) -> Plane:
    """Bring a band onto a window of the reference grid, conserving flux.

    Native pixels are copied. Binned ones are summed 2x2, errors in quadrature; one bad of the four masks
    the sum. Otherwise `reproject_adaptive` resamples, which smooths by about a pixel; variance is carried
    like flux, so that errors summed over an aperture stay right, though not those of single pixels.

    Parameters
    ----------
    plane
        The band on its own grid, or the part of it that the window needs.
    relation
        Of `band` to `reference`.
    y0, x0, shape
        The window on the reference grid.

    References
    ----------
    DeForest (2004), Solar Physics 219, 3: the adaptive resampling that `reproject` implements.
    """
    if relation.resampling == NATIVE:
        same = window(plane, y0 + relation.y0, x0 + relation.x0, shape)
        return Plane(same.science, same.error, same.mask, y0, x0)
    if relation.resampling == BINNED:
        rows, columns = 2 * shape[0], 2 * shape[1]
        fine = window(plane, 2 * y0 + relation.y0, 2 * x0 + relation.x0, (rows, columns))
        return _binned(fine, y0, x0)
    return _reprojected(
        plane, band.window(plane.y0, plane.x0, plane.shape), reference.window(y0, x0, shape), y0, x0
    )


def _binned(fine: Plane, y0: int, x0: int) -> Plane:
    blocks = (fine.shape[0] // 2, 2, fine.shape[1] // 2, 2)
    mask = np.logical_or.reduce(fine.mask.reshape(blocks), axis=(1, 3))
    science = fine.science.reshape(blocks).sum(axis=(1, 3), dtype=np.float32)
    error = np.sqrt(np.square(fine.error).reshape(blocks).sum(axis=(1, 3), dtype=np.float32))
    return Plane(np.where(mask, 0, science), np.where(mask, 0, error), mask, y0, x0)


def _reprojected(plane: Plane, grid: Grid, target: Grid, y0: int, x0: int) -> Plane:
    from reproject import reproject_adaptive  # 2 s of import that only odd grids need

    stack = np.stack([plane.science, np.square(plane.error)]).astype(np.float64)
    stack[:, plane.mask] = np.nan
    values = reproject_adaptive(
        (stack, grid.wcs()), target.wcs(), target.shape,
        conserve_flux=True, center_jacobian=False, return_footprint=False, kernel="gaussian",
    )  # fmt: skip
    mask: np.ndarray = np.isnan(values.sum(axis=0))
    values[:, mask] = 0
    science, variance = values
    return Plane(
        science.astype(np.float32), np.sqrt(np.maximum(variance, 0)).astype(np.float32), mask, y0, x0
    )


def rows_needed(
    relation: Relation, reference: Grid, band: Grid, rows: tuple[int, int], margin: int = 8
) -> tuple[int, int]:
    """Rows of a band, first and behind the last, that reference rows need; within the band, maybe none.

    Parameters
    ----------
    rows
        First reference row and the one behind the last.
    margin
        Rows more on both sides where the band is reprojected.
    """
    if relation.resampling == REPROJECTED:
        x, y = outline((rows[1] - rows[0], reference.shape[1]))
        _, band_y = band.to_pixel(*reference.to_sky(x, y + rows[0]))
        if not np.isfinite(band_y).all():
            return 0, 0
        start, stop = int(np.floor(band_y.min())) - margin, int(np.ceil(band_y.max())) + margin
    else:
        start, stop = (relation.factor * row + relation.y0 for row in rows)
    start, stop = np.clip([start, stop], 0, band.shape[0]).tolist()
    return (start, stop) if start < stop else (0, 0)
