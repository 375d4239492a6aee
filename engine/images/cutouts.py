"""Windows around all sources of an image at once."""

from dataclasses import dataclass

import numpy as np

from engine.images.planes import Plane


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
        On the reference grid; it must hold all windows whole (`planes.onto` pads with masked pixels).
    x0, y0
        Corners of the windows on the reference grid, [B].
    science, error, mask
        [B, S, S], written to; may be views of larger arrays.

    Raises
    ------
    ValueError
        If a window is not whole on the plane.
    """
    if not len(x0):
        return
    size = science.shape[-1]
    row, column = y0 - plane.y0, x0 - plane.x0
    inside = row.max() + size <= plane.shape[0] and column.max() + size <= plane.shape[1]
    if min(row.min(), column.min()) < 0 or not inside:
        raise ValueError(f"windows of {size} pixels are not whole on a plane of {plane.shape}")
    corners = list(zip(row.tolist(), column.tolist(), strict=True))
    for image, out in ((plane.science, science), (plane.error, error), (plane.mask, mask)):
        for window, (i, j) in zip(out, corners, strict=True):  # one index array for all is slower
            window[:] = image[i : i + size, j : j + size]


def coverage(mask: np.ndarray) -> np.ndarray:
    """Fraction of the pixels that are usable, float32 [...], from masks [..., S, S]."""
    return (1 - mask.mean(axis=(-2, -1), dtype=np.float32)).astype(np.float32)
