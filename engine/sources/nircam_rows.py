"""Cutouts of many objects on their way to rows: filled band by band, measured, flagged, made a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.flags import ERROR_ESTIMATED, MISSING_BAND, PARTIAL_BAND
from engine.images.bands import BANDS
from engine.images.cutouts import Centres, coverage
from engine.images.noise import background_rms
from engine.images.wcs import ABSENT, Grid
from engine.schema import conform, list_array, packed_array
from engine.stage import Rejection, UnitTable, rejected_table

NUM_BANDS = len(BANDS)

NO_ID = -(1 << 63)
"""`object_id` of an object that has no identifier, because it has no position either."""


@dataclass(frozen=True)
class Objects:
    """Objects to cut out, [B] each.

    `object_id` int64, `ra` and `dec` ICRS [deg], `z` NaN where there is none, `row` in the catalogue, index or
    order of detection, `label` int8 as in the column; `quantities` by the name of their column, NaN where unknown.
    """

    object_id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    z: np.ndarray
    row: np.ndarray
    label: np.ndarray
    quantities: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.object_id)

    def take(self, which: np.ndarray) -> "Objects":
        """Return those where `which`, bool [B] or indices, says."""
        return Objects(
            self.object_id[which],
            self.ra[which],
            self.dec[which],
            self.z[which],
            self.row[which],
            self.label[which],
            {name: values[which] for name, values in self.quantities.items()},
        )

    def rejections(self, uri: str, reason: str, detail: str, field: str) -> list[Rejection]:
        """Reject them all."""
        pairs = zip(self.object_id.tolist(), self.row.tolist(), strict=True)
        return [
            Rejection(uri, reason, detail, row, field=field, object_id=None if key == NO_ID else key)
            for key, row in pairs
        ]


_NOTHING = np.empty(0)
NO_OBJECTS = Objects(
    np.empty(0, np.int64), _NOTHING, _NOTHING, _NOTHING, np.empty(0, np.int64), np.empty(0, np.int8)
)


class Cutouts:
    """Pixels of `num` objects in all bands; a band that is never filled and described counts as absent.

    Attributes
    ----------
    science, error, mask
        [B, 6, S, S], nJy a pixel.
    has_error
        bool [B, 6]: whether `error` is from an error map.
    unit_factor, resampling
        [B, 6], as in the columns.
    """

    def __init__(self, num: int, size: int) -> None:
        shape = (num, NUM_BANDS, size, size)
        self.science, self.error = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.mask = np.empty(shape, bool)
        self.has_error = np.zeros((num, NUM_BANDS), bool)
        self.unit_factor = np.full((num, NUM_BANDS), np.nan)
        self.resampling = np.full((num, NUM_BANDS), ABSENT, np.int16)

    def describe(
        self, which: slice | int, band: str, factor: float, resampling: int, has_error: bool
    ) -> None:
        """Say where the pixels of a band come from."""
        at = which, BANDS.index(band)
        self.unit_factor[at], self.resampling[at], self.has_error[at] = factor, resampling, has_error

    def band(self, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Science, error and mask of a band, [B, S, S], to be written to as a whole."""
        at = BANDS.index(band)
        return self.science[:, at], self.error[:, at], self.mask[:, at]

    def mask_absent(self) -> None:
        """Mask the bands that were never described."""
        absent = self.resampling == ABSENT
        self.science[absent], self.error[absent], self.mask[absent] = 0, 0, True

    def estimate_errors(self) -> np.ndarray:
        """Fill in noise where there is no error map; bool [B]: for which objects that was done."""
        wanted = ~self.has_error & ~self.mask.all(axis=(-2, -1))
        rms = background_rms(self.science[wanted], self.mask[wanted])
        usable = ~self.mask[wanted] & (rms > 0)[:, None, None]
        self.error[wanted] = np.where(usable, rms[:, None, None], 0)
        self.science[wanted] = np.where(usable, self.science[wanted], 0)
        self.mask[wanted] = ~usable
        return np.logical_or.reduce(wanted, axis=1)


def build_table(
    objects: Objects,
    cutouts: Cutouts,
    where: Centres,
    grids: Sequence[Grid],
    uris: Sequence[str],
    field: str,
    columns: tuple[Column, ...],
) -> UnitTable:
    """Make rows, and reject those without a usable pixel.

    Parameters
    ----------
    where
        Windows on the grids of `grids`.
    grids, uris
        Common grid and file of each object, [B].
    columns
        Of the rows.
    """
    num, size = len(objects), cutouts.science.shape[-1]
    cutouts.mask_absent()
    estimated = cutouts.estimate_errors()
    share = coverage(cutouts.mask)
    flags = np.where((share == 0).any(axis=1), MISSING_BAND.value, 0)
    flags |= np.where(((share > 0) & (share < 1)).any(axis=1), PARTIAL_BAND.value, 0)
    flags |= np.where(estimated, ERROR_ESTIMATED.value, 0)
    wcs = {
        "wcs_crpix": np.array([g.crpix for g in grids]).reshape(num, 2) - np.stack([where.x0, where.y0], 1),
        "wcs_crval": np.array([g.crval for g in grids]).reshape(num, 2),
        "wcs_cd": np.array([g.cd for g in grids]).reshape(num, 4),
    }
    length = NUM_BANDS * size * size
    pixels = {name: getattr(cutouts, name).reshape(num, length) for name in ("science", "error", "mask")}
    facts = {"unit_factor": cutouts.unit_factor, "resampling": cutouts.resampling, "coverage": share}
    values = {
        "object_id": pa.array(objects.object_id),
        "field": pa.array([field] * num, pa.string()),
        "ra": pa.array(objects.ra % 360.0),
        "dec": pa.array(objects.dec),
        "z": _known(objects.z),
        "label": pa.array(objects.label),
        "source_uri": pa.array(list(uris), pa.string()),
        "source_row": pa.array(objects.row.astype(np.int32)),
        "dx": pa.array(where.dx),
        "dy": pa.array(where.dy),
        "pixel_scale": pa.array(np.array([g.pixel_scale for g in grids], np.float32)),
        "flags": pa.array(flags.astype(np.int32)),
    }
    values |= {name: list_array(given) for name, given in (wcs | facts).items()}
    values |= {name: packed_array(given) for name, given in pixels.items()}
    values |= {name: _known(given) for name, given in objects.quantities.items()}
    rows = conform(pa.table(values), columns)
    table = UnitTable(rows, rejected_table([]), num)
    return table.reject((share == 0).all(axis=1), "no_usable_pixel", "no data in any band")


def _known(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def with_rejections(table: UnitTable, rejections: Sequence[Rejection]) -> UnitTable:
    """Add rejected objects, that were not rows before."""
    rejected = pa.concat_tables([rejected_table(rejections), table.rejected])
    return UnitTable(table.rows, rejected, table.rows_in + len(rejections))
