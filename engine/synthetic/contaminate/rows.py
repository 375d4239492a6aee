"""Contaminated images of staged clean ones, made anew as a training reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
from pydantic import Field

from engine.column import Column
from engine.images.bands import BANDS
from engine.images.columns import pixel_columns
from engine.schema import column_array, matrix, set_column
from engine.storage import Storage, StorageOptions
from engine.synthetic.contaminate.config import ContaminateConfig

CLEAN = "clean"
"""Column of the images before they were contaminated: what a denoiser learns to give."""
NEEDED = ("field", "object_id", "science", "error", "mask", "dx", "dy")


class RealisationsConfig(ContaminateConfig):
    """How staged clean images are contaminated for training."""

    realisations: int = Field(default=10, ge=1)
    """Contaminated images of each clean one in an epoch; 10 as in arXiv:2511.21207."""
    psf_uri: str = ""
    """Folder of PSFs that contaminants are seen through, one a band; empty: computed from the pupil."""


@dataclass(frozen=True)
class Realisations:
    """Rows to learn from, out of staged clean ones; see `engine.train.plan.Realisations`.

    What a row becomes depends on (seed, field, object_id, number of the realisation) alone.
    """

    config: RealisationsConfig
    storage: StorageOptions = field(default_factory=StorageOptions)

    @property
    def count(self) -> int:
        """Realisations in an epoch."""
        return self.config.realisations

    @property
    def provides(self) -> tuple[str, ...]:
        """Columns that need not be staged."""
        return (CLEAN,)

    def reads(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Staged columns that rows with `columns` are made of."""
        return tuple(dict.fromkeys([*(name for name in columns if name != CLEAN), *NEEDED]))

    def __call__(self, table: pa.Table, number: int) -> pa.Table:
        """Contaminate `science`, `error` and `mask`, and add `clean`."""
        if not table.num_rows:
            return table
        length = len(matrix(table, "science")[0])
        size = round((length / len(BANDS)) ** 0.5)
        shape = (-1, len(BANDS), size, size)
        clean, error, mask = (matrix(table, name).reshape(shape) for name in ("science", "error", "mask"))
        names = zip(table["field"].to_pylist(), table["object_id"].to_pylist(), strict=True)
        seen = _contaminator(self)(
            clean, error, [f"{of}/{key}" for of, key in names], number, mask,
            table["dx"].to_numpy(), table["dy"].to_numpy(),
        )  # fmt: skip
        for column in (*pixel_columns(size), Column(CLEAN, "float32", "Before", "nJy", length, packed=True)):
            values = getattr(seen, column.name).reshape(table.num_rows, length)
            table = set_column(table, column, column_array(column, values))
        return table


@lru_cache(maxsize=1)
def _contaminator(rows: Realisations):
    from engine.synthetic.contaminate.optics import nircam_optics
    from engine.synthetic.contaminate.simulate import Contaminator
    from engine.synthetic.field.psf import load_psfs

    psfs = load_psfs(rows.config.psf_uri, Storage(rows.storage)) if rows.config.psf_uri else None
    return Contaminator(rows.config, nircam_optics(psfs=psfs))
