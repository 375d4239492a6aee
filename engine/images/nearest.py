"""How near an image is to the nearest real one: a sign of memorised training images, and of images like none.

Features are the mean brightness in `side` x `side` blocks of each channel, under asinh of brightness / softening.
An image is compared under the 8 symmetries of the square. The distance is the root mean square difference of
features, in units of the real sample's root mean square deviation from its mean: about 1.4 between unrelated images, 0
for a copy.
"""

# N = images, M = real images, C = channels, S = pixels a side, F = features

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from engine.column import Column
from engine.config import Config
from engine.images.galaxies import image_column
from engine.schema import column_array, matrix, set_column
from engine.stage import Resources, UnitTable

NEAREST: tuple[Column, ...] = (
    Column("nearest_distance", "float32", "Distance from the nearest image that the generator learned from, in the space of "
           "engine.images.nearest; `provenance.nearest` of the manifest says among how many"),
    Column("nearest_object_id", "int64", "Identifier of that image in its set"),
)  # fmt: skip


BLOCK_BYTES = 32 << 20
"""Distances that are held at once."""


class NearestConfig(Config):
    """The space in which images are compared."""

    side: int = Field(default=8, ge=1)
    """Blocks a side; must divide the side of the images."""
    softening: float = Field(default=1.0, gt=0)
    """Brightness where asinh turns from linear to logarithmic."""


def features(images: np.ndarray, config: NearestConfig) -> np.ndarray:
    """Features float32 [N, C * side^2] of images [N, C, S, S]; ValueError if blocks do not fit."""
    num, channels, size, _ = images.shape
    if size % config.side:
        raise ValueError(f"images of {size} pixels a side do not divide into {config.side} blocks")
    step = size // config.side
    values = np.arcsinh(np.asarray(images, np.float64) / config.softening)
    blocks = values.reshape(num, channels, config.side, step, config.side, step).mean((3, 5))
    return blocks.reshape(num, channels * config.side**2).astype(np.float32)


def nearest(
    images: np.ndarray, reference: np.ndarray, config: NearestConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Distance [N] from the nearest of the reference, and its row [N].

    Parameters
    ----------
    images
        [N, C, S, S].
    reference
        `features` of real images, [M, F].
    config
        The space.

    Raises
    ------
    ValueError
        If there are fewer than two real images, or all are the same.
    """
    return nearest_of(features(images, config), reference, config.side)


def nearest_of(found: np.ndarray, reference: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Do the same for images of which only `features` [N, F] of `side` blocks are left: blocks turn as images do."""
    spread = float(np.sqrt(np.mean((reference - reference.mean(0)) ** 2))) if len(reference) > 1 else 0.0
    if not spread > 0:
        raise ValueError(f"{len(reference)} real images that do not differ: nothing to measure distances by")
    best, row = np.full(len(found), np.inf), np.zeros(len(found), np.int64)
    turned, step = [*_turned(found, side)], max(1, BLOCK_BYTES // (8 * max(len(found), 1)))
    for start in range(0, len(reference), step):
        for images in turned:
            squares = _squares(images, reference[start : start + step])
            nearest_row = squares.argmin(1)
            value = squares[np.arange(len(squares)), nearest_row]
            row, best = np.where(value < best, start + nearest_row, row), np.minimum(value, best)
    return np.sqrt(np.maximum(best, 0) / reference.shape[1]) / spread, row


def _turned(found: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Features [N, F] under the 8 symmetries of the square."""
    blocks = found.reshape(len(found), -1, side, side)
    for element in range(8):
        turned = np.rot90(blocks, element % 4, (-2, -1))
        yield (turned[..., ::-1] if element >= 4 else turned).reshape(found.shape)


def _squares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances [N, M], in float64: differences of like numbers."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)


@dataclass(frozen=True, eq=False)
class NearestReal:
    """Stage: adds `NEAREST` to rows of images.

    Parameters
    ----------
    size, channels
        Of the images.
    reference
        `features` of real images, [M, F].
    object_ids
        Their identifiers, int64 [M].
    config
        The space.
    """

    size: int
    channels: int
    reference: np.ndarray
    object_ids: np.ndarray
    config: NearestConfig = field(default_factory=NearestConfig)
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "nearest"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Images."""
        return (image_column(self.size, self.channels),)

    @property
    def provides(self) -> tuple[Column, ...]:
        """Columns `NEAREST`."""
        return NEAREST

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        images = matrix(table.rows, "image").reshape(-1, self.channels, self.size, self.size)
        distance, row = nearest(images, self.reference, self.config)
        values = (distance.astype(np.float32), self.object_ids[row])
        rows = table.rows
        for column, array in zip(NEAREST, values, strict=True):
            rows = set_column(rows, column, column_array(column, array))
        return table.with_rows(rows)
