"""Prepare cutouts for a model: check what can be used of them. One stage, the same in training and inference."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.column import Column
from engine.flags import LOW_COVERAGE
from engine.images.bands import BANDS
from engine.images.columns import pixel_columns
from engine.rows import FLAGS
from engine.schema import matrix, set_column
from engine.stage import PrepareConfig, Resources, UnitTable

MIN_COVERAGE = 0.5
"""Below this fraction of usable pixels, all bands together, a cutout is flagged LOW_COVERAGE."""


class CutoutPrep(PrepareConfig):
    """How cutouts are prepared: as the source gives them, of one size and resolution."""

    size: int = Field(default=96, ge=8)
    """Side of the cutouts [pixel]; `release.settings.size` must be the same."""

    @property
    def stage(self) -> "PrepareCutouts":
        """The stage that prepares so."""
        return PrepareCutouts(self)


@dataclass(frozen=True)
class PrepareCutouts:
    """Stage: cutouts without any usable pixel are rejected, those with few are flagged."""

    config: CutoutPrep = field(default_factory=CutoutPrep)
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "prepare"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Cutouts of the size that is set."""
        return (*pixel_columns(self.config.size), FLAGS)

    @property
    def provides(self) -> tuple[Column, ...]:
        """The same cutouts, and flags."""
        return self.requires

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        if not table.rows.num_rows:
            return table
        usable = 1.0 - matrix(table.rows, "mask").mean(axis=1)
        bits = np.where(usable < MIN_COVERAGE, LOW_COVERAGE.value, 0).astype(np.int32)
        flags = pa.array(table.rows["flags"].to_numpy() | bits)
        done = table.with_rows(set_column(table.rows, FLAGS, flags))
        return done.reject(usable == 0, "no_usable_pixel", f"no usable pixel in any of {len(BANDS)} bands")
