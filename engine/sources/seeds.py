"""Seeds of samples that a generator is to make: a release without files, whose units are ranges of seeds.

A unit is `unit_rows` seeds and its key names them, so that its id, a hash of key and salt, is known before anything
is computed: resume, exactly-once and growth by more samples are those of units of files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.column import Column
from engine.config import Config
from engine.errors import SourceError
from engine.images.columns import OBJECT_ID
from engine.images.galaxies import DATASET
from engine.rows import FLAGS, SOURCE_ROW, SOURCE_URI
from engine.schema import conform
from engine.sources.base import Source
from engine.stage import UnitTable, rejected_table
from engine.units import Unit

SEED = Column("seed", "int64", "Seed of the sample: with condition and checkpoint it makes the sample again")
_KEY = re.compile(r"seeds-(\d+)-(\d+)")


class SeedsConfig(Config):
    """Which samples."""

    num_samples: int = Field(default=1000, ge=1)
    """Samples; a later run with more adds to those that there are."""
    first_seed: int = Field(default=0, ge=0, lt=1 << 62)
    """Seed of the first; the others follow."""
    unit_rows: int = Field(default=256, ge=1)
    """Samples of a unit: of a file of the catalogue. Another number computes all anew."""


@dataclass(frozen=True)
class SeedSource(Source):
    """Ranges of seeds; `uri` is that of the checkpoint that samples them.

    Parameters
    ----------
    model
        Name of the generator, the data set of the rows.
    """

    config: SeedsConfig = field(default_factory=SeedsConfig)
    model: str = ""
    config_class: ClassVar[type[Config]] = SeedsConfig
    split_by: ClassVar[str] = SEED.name

    @property
    def staged(self) -> tuple[str, ...]:
        """All that says which sample it is."""
        return (SEED.name, OBJECT_ID.name, DATASET.name, FLAGS.name)

    @property
    def columns(self) -> tuple[Column, ...]:
        """A seed, and what all rows of images have."""
        return (SEED, OBJECT_ID, DATASET, SOURCE_URI, SOURCE_ROW, FLAGS)

    @property
    def salt(self) -> dict[str, Any]:
        """Nothing: a unit's key says which seeds it is."""
        return {}

    def plan(self) -> Iterator[Unit]:
        """Units of `unit_rows` seeds, counted from the first; the last one may be smaller."""
        stop = self.config.first_seed + self.config.num_samples
        for start in range(self.config.first_seed, stop, self.config.unit_rows):
            yield Unit(key_of(start, min(start + self.config.unit_rows, stop)), ())

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Seeds of a unit; nothing is fetched."""
        seeds = np.arange(*range_of(unit), dtype=np.int64)
        columns = {
            "seed": seeds,
            "object_id": seeds,
            "field": np.full(len(seeds), self.model, object),
            "source_uri": np.full(len(seeds), self.uri, object),
            "source_row": np.arange(len(seeds), dtype=np.int32),
            "flags": np.zeros(len(seeds), np.int32),
        }
        rows = conform(pa.table(columns), self.columns, unit.key)
        return UnitTable(rows, rejected_table([]), len(seeds)), 0


def key_of(start: int, stop: int) -> str:
    """Key of the unit of seeds from `start` to before `stop`."""
    return f"seeds-{start:012d}-{stop:012d}"


def range_of(unit: Unit) -> tuple[int, int]:
    """Return first seed and end of a unit: the inverse of `key_of`.

    Raises
    ------
    SourceError
        If it is not a unit of seeds.
    """
    match = _KEY.fullmatch(unit.key)
    if match is None:
        raise SourceError("unit is not one of seeds", unit.key, expected="seeds-<first>-<end>")
    return int(match[1]), int(match[2])
