"""What every source of single galaxies' images gives: the same rows, and the same reasons to reject one."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.column import Column
from engine.config import Config
from engine.errors import SourceError
from engine.images.galaxies import FACTS, GalaxyPrep, galaxy_columns
from engine.schema import column_array, conform, empty_table
from engine.sources.base import Source
from engine.stage import PrepareConfig, Rejection, UnitTable, rejected_table
from engine.units import FileRef, content_hash

FACT_NAMES: tuple[str, ...] = tuple(column.name for column in FACTS)


class GalaxyConfig(Config):
    """Settings that all sources of galaxies have."""

    size: int = Field(default=256, ge=8, le=4096)
    """Side of the images [pixel]."""
    field: str = ""
    """Name of the data set; empty: that of the folder."""


class Galaxy(NamedTuple):
    """One object: pixels [C, S, S], and what is known of it by the names of `FACTS`, NaN where it is not."""

    object_id: int
    uri: str
    row: int
    image: np.ndarray
    pixel_scale: float = math.nan
    facts: Mapping[str, float] = {}


@dataclass(frozen=True)
class GalaxySource(Source):
    """Images of galaxies, one row each; positions and parameters are null where nothing is known."""

    config: GalaxyConfig = field(default_factory=GalaxyConfig)
    config_class: ClassVar[type[Config]] = GalaxyConfig
    prepare_class: ClassVar[type[PrepareConfig]] = GalaxyPrep
    split_by: ClassVar[str] = "object_id"

    @property
    def staged(self) -> tuple[str, ...]:
        """Who it is, and what is known of it."""
        return ("object_id", "field", "source_uri", "source_row", "pixel_scale", *FACT_NAMES, "flags")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 1

    @property
    def columns(self) -> tuple[Column, ...]:
        """`galaxy_columns` of the size and channels that are set."""
        return galaxy_columns(self.config.size, self.channels)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.config.field or self.uri.rstrip("/").rpartition("/")[2]

    def rejection(
        self, error: SourceError, uri: str, row: int | None = None, object_id: int | None = None
    ) -> Rejection:
        """Make the row of `rejected` for a fault; without `row` it is that of a whole file."""
        return Rejection(uri, error.reason, str(error), row, field=self.dataset, object_id=object_id)

    def checked(self, galaxies: Iterable[Galaxy]) -> tuple[list[Galaxy], list[Rejection]]:
        """Divide objects into those that have an image and those that have none, with the reason."""
        good: list[Galaxy] = []
        bad: list[Rejection] = []
        shape = (self.channels, self.config.size, self.config.size)
        for galaxy in galaxies:
            try:
                check_image(galaxy.image, shape, f"{galaxy.uri}, row {galaxy.row}")
                good.append(galaxy)
            except SourceError as error:
                bad.append(self.rejection(error, galaxy.uri, galaxy.row, galaxy.object_id))
        return good, bad

    def unit_table(self, galaxies: Iterable[Galaxy], rejections: Sequence[Rejection] = ()) -> UnitTable:
        """Make the rows of a unit from objects whose images were not looked at yet."""
        good, bad = self.checked(galaxies)
        bad = [*rejections, *bad]
        num_objects = len(good) + sum(one.row is not None for one in bad)
        return UnitTable(self._rows(good), rejected_table(bad), num_objects)

    def _rows(self, galaxies: list[Galaxy]) -> pa.Table:
        if not galaxies:
            return empty_table(self.columns)
        values: dict[str, np.ndarray] = {
            "object_id": np.array([one.object_id for one in galaxies], np.int64),
            "field": np.array([self.dataset] * len(galaxies), object),
            "source_uri": np.array([one.uri for one in galaxies], object),
            "source_row": np.array([one.row for one in galaxies], np.int32),
            "flags": np.zeros(len(galaxies), np.int32),
            "image": np.stack([one.image.reshape(-1) for one in galaxies]),
        }
        arrays = {c.name: column_array(c, values[c.name]) for c in self.columns if c.name in values}
        arrays["pixel_scale"] = _nullable([one.pixel_scale for one in galaxies], pa.float32())
        for name in FACT_NAMES:
            arrays[name] = _nullable([one.facts.get(name, math.nan) for one in galaxies], pa.float64())
        return conform(pa.table(arrays), self.columns, "galaxies")


def _nullable(values: Sequence[float], kind: pa.DataType) -> pa.Array:
    """Values of which NaN is unknown."""
    array = np.array(values, np.float64)
    return pa.array(array, mask=~np.isfinite(array)).cast(kind, safe=False)


def check_image(image: np.ndarray, shape: tuple[int, int, int], where: str) -> None:
    """Make sure that an image can be learned from.

    Parameters
    ----------
    image
        Pixels.
    shape
        That it must have, [C, S, S].
    where
        File and row, for the message.

    Raises
    ------
    SourceError
        With reason `wrong_size`, `not_finite` or `constant_image`. A constant channel beside others that vary, as a
        size that is stored as one, is no fault.
    """
    if image.shape != shape:
        expected = f"{shape}: channels, rows, columns of all images of the set"
        hint = "Set release.settings.size."
        raise SourceError(
            "image has another size", where, str(image.shape), expected, hint, reason="wrong_size"
        )
    num_bad = image.size - int(np.isfinite(image).sum())
    if num_bad:
        raise SourceError(
            "image has pixels that are NaN or infinite", where, f"{num_bad} of {image.size}", "none",
            reason="not_finite",
        )  # fmt: skip
    if image.min(axis=(1, 2)).tolist() == image.max(axis=(1, 2)).tolist():
        raise SourceError("all pixels are equal", where, str(image.flat[0]), reason="constant_image")


def centre_crop(image: np.ndarray, size: int, where: str) -> np.ndarray:
    """Middle `size` x `size` pixels of an image [..., H, W]; of an even number too many, the last ones go.

    Raises
    ------
    SourceError
        With reason `too_small`, a cut.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise SourceError(
            "image is smaller than asked for", where, f"{height} x {width}", f"{size} x {size} at least",
            reason="too_small",
        )  # fmt: skip
    y0, x0 = height // 2 - size // 2, width // 2 - size // 2
    return image[..., y0 : y0 + size, x0 : x0 + size]


def id_of(name: str) -> int:
    """Return the identifier of an object that has but a file name: the last number in it, else a hash of it."""
    numbers = re.findall(r"\d{1,18}", name)
    return int(numbers[-1]) if numbers else int(content_hash(name, 7), 16)


def roles(files: Iterable[FileRef]) -> dict[str, FileRef]:
    """Files of a unit by role."""
    return {ref.role: ref for ref in files}
