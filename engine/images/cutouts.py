"""Windows around all sources of an image at once."""

from dataclasses import dataclass

import numpy as np

from engine.images.planes import Plane, window


@dataclass(frozen=True)
class Centres:
    """Which windows sources have.

    Attributes
    ----------
    x0, y0
        int64 [B]: pixel of the reference grid in the window's corner; may lie outside the image.
    dx, dy
        float32 [B], -0.5 to 0.5: where the source is, less the centre of pixel size // 2 of the window.
    """

    x0: np.ndarray
    y0: np.ndarray
    dx: np.ndarray
    dy: np.ndarray


def nearest_pixel(position: np.ndarray) -> np.ndarray:
    """Pixel that holds a position; halves go up, so that every position is in exactly one pixel."""
    return np.floor(np.asarray(position, np.float64) + 0.5).astype(np.int64)


def centres(x: np.ndarray, y: np.ndarray, size: int) -> Centres:
    """Put windows of `size` pixels a side so that the source is in pixel size // 2 of both axes.

    Parameters
    ----------
    x, y
        Positions on the reference grid [pixel, from 0], shape [B], finite.
    """
    column, row = nearest_pixel(x), nearest_pixel(y)
    dx, dy = (np.asarray(x) - column).astype(np.float32), (np.asarray(y) - row).astype(np.float32)
    return Centres(column - size // 2, row - size // 2, dx, dy)


def cut(
    plane: Plane, x0: np.ndarray, y0: np.ndarray, science: np.ndarray, error: np.ndarray, mask: np.ndarray
) -> None:
    """Copy the windows of all sources out of a plane.

    Parameters
    ----------
    plane
        On the reference grid; what of a window lies outside of it is masked.
    x0, y0
        Corners of the windows on the reference grid, [B].
    science, error, mask
        [B, S, S], written to; may be views of larger arrays.
    """
    size = science.shape[-1]
    row, column = y0 - plane.y0, x0 - plane.x0
    whole = (row >= 0) & (row + size <= plane.shape[0]) & (column >= 0) & (column + size <= plane.shape[1])
    corners = [values[whole].tolist() for values in (np.arange(len(whole)), row, column)]
    for image, out in ((plane.science, science), (plane.error, error), (plane.mask, mask)):
        for k, i, j in zip(*corners, strict=True):  # one index array for all is slower
            out[k] = image[i : i + size, j : j + size]
    for k in np.flatnonzero(~whole).tolist():
        part = window(plane, int(y0[k]), int(x0[k]), (size, size))
        science[k], error[k], mask[k] = part.science, part.error, part.mask


def coverage(mask: np.ndarray) -> np.ndarray:
    """Fraction of the pixels that are usable, float32 [...], from masks [..., S, S]."""
    return (1 - mask.mean(axis=(-2, -1), dtype=np.float32)).astype(np.float32)
