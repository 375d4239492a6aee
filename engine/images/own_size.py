"""Images of five channels, g, r, i, z and size: the last says how large they were before they were resized to be learned from.

What is measured in pixels means something at their own size only: a PSF, noise, a cut in radius, a wavenumber.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, and its released code (`data_iterator.py`): sizes, and how resizing is undone.
"""

# B = images, S = pixels a side

import math
from collections.abc import Iterator

import numpy as np

SKIRT_G, SKIRT_R, SKIRT_I = 0, 1, 2
"""Channels of the bands by which colours and power are measured."""
SIZE_CHANNEL = 4
"""After g, r, i and z."""
LEAST_SIZE, MOST_SIZE = 2.0, 2516.0
"""Sides [pixel] that the size channel maps to 0 and 1, logarithmically."""


def has_size(num_channels: int) -> bool:
    """Whether images of so many channels say their own size: only those of simulated galaxies have five."""
    return num_channels == SIZE_CHANNEL + 1


def size_channel(side: float) -> float:
    """Value of the fifth channel for an image of `side` pixels, 0 at 2 and 1 at 2516."""
    return math.log(side / LEAST_SIZE) / math.log(MOST_SIZE / LEAST_SIZE)


def skirt_pixels(channel: np.ndarray) -> np.ndarray:
    """Sides of the cropped images by their fifth channel [pixel], int64, 2 to 2516: as the published code undoes it.

    Parameters
    ----------
    channel
        Mean of the fifth channel, any shape.
    """
    side = LEAST_SIZE * np.exp(np.asarray(channel, np.float64) * math.log(MOST_SIZE / LEAST_SIZE))
    return np.clip(side / 2, LEAST_SIZE, MOST_SIZE).astype(np.int64)


def at_own_size(images: np.ndarray, channel: int) -> Iterator[np.ndarray]:
    """Yield a channel of images [B, C, S, S], [own, own] each where a fifth channel says that size.

    Resized linearly and without aliasing, as `engine.sources.galaxy_files` does; brightness keeps its value. Images
    without a size channel come as they are. One at a time: a size channel may ask for 50 MB an image.
    """
    planes = images[:, channel]
    if not has_size(images.shape[1]):
        yield from planes
        return
    from skimage.transform import resize  # a second that other sets need not pay

    sides = skirt_pixels(images[:, SIZE_CHANNEL].mean((1, 2)))
    for plane, side in zip(planes, sides.tolist(), strict=True):
        yield np.asarray(resize(plane.astype(np.float64), (side, side), order=1, anti_aliasing=True))
