"""What every source is, whatever its files look like and whatever they hold."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa

from engine.column import Column
from engine.config import Config
from engine.stage import PrepareConfig, Rejection, UnitTable, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import Unit


class NoSettings(Config):
    """Settings of a source that has none."""


@dataclass(frozen=True)
class Source(ABC):
    """A kind of release. Picklable; faults of files and objects become rejections, never errors.

    Parameters
    ----------
    uri
        Where the release is.
    storage
        How to reach it.
    config
        Selection and cuts, an instance of `config_class`.
    """

    uri: str
    storage: StorageOptions = field(default_factory=StorageOptions)
    config: Config = field(default_factory=NoSettings)
    _storage: Storage = field(init=False, repr=False, compare=False)

    config_class: ClassVar[type[Config]] = NoSettings
    """What `[release.settings]` of this source may say."""
    prepare_class: ClassVar[type[PrepareConfig]]
    """What `[prepare]` may say: its `stage` makes the rows ready for a model."""
    split_by: ClassVar[str]
    """Integer column whose hash divides rows into those to train on and those held out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_storage", Storage(self.storage))

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """Columns of the rows that `read` returns."""

    @property
    @abstractmethod
    def staged(self) -> tuple[str, ...]:
        """Columns that training or its diagnosis needs beside what `[prepare]` makes."""

    @property
    def salt(self) -> dict[str, Any]:
        """What of the settings changes rows: units of other settings are computed anew."""
        return self.config.model_dump(mode="json")

    @abstractmethod
    def plan(self) -> Iterator[Unit]:
        """List the release lazily and yield its units in a fixed order, without ids."""

    def read(self, unit: Unit) -> UnitTable:
        """Read one unit: each object becomes a row or a rejection; `stats` tells bytes fetched and used."""
        before = self._storage.bytes_fetched
        table, used = self._read(unit)
        fetched = self._storage.bytes_fetched - before
        missing = [Rejection(uri, "not_found", "expected, but it is not there") for uri in unit.missing]
        rejected = pa.concat_tables([rejected_table(missing), table.rejected])
        stats = {"bytes_fetched": float(fetched), "bytes_used": float(used)}
        return replace(table, rejected=rejected, stats=stats)

    @abstractmethod
    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read the files that are there; also return how many of their bytes were needed."""
