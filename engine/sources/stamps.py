"""Ready-made cutouts: one FITS file an object and band, and an index with positions.

A unit is some rows of the index. The common grid of an object is that of its own reference band. Stamps are cropped
or padded so that the source is in the middle pixel; what they do not cover is masked, and so is what they mark as
empty: NaN, no weight, or without an error map exactly 0 (cutouts at the edge of a mosaic are filled so).

A fault of one of an object's files rejects the object; a band without file is a flag, or a rejection if
`require_all_bands`.
"""

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from engine.config import Config
from engine.errors import ConfigError, SourceError
from engine.fits import read_hdus
from engine.images.bands import BANDS
from engine.images.cutouts import centres, nearest_pixel
from engine.images.planes import Plane, onto
from engine.images.wcs import Grid, Relation, relate
from engine.locations import FileInfo, NotFoundError
from engine.sources.images import ImageSource
from engine.sources.nircam_band import IMAGES, BandImage, describe, plane_of
from engine.sources.nircam_catalogue import is_valid, load_catalogue
from engine.sources.nircam_config import CatalogueConfig, ImageConfig, LabelConfig, Quantities
from engine.sources.nircam_plan import reference_band
from engine.sources.nircam_rows import NO_OBJECTS, Cutouts, Objects, build_table, with_rejections
from engine.stage import Rejection, UnitTable
from engine.storage import Storage
from engine.units import FileRef, Unit

INDEX = "index"
"""Role of the index; that of a stamp is its band and the object's name."""


class StampsConfig(ImageConfig):
    """Layout of a folder of stamps."""

    index: str = "index.csv"
    """Table of objects below the folder: CSV, ECSV, FITS or Parquet."""
    id: str = "id"
    """Column of the index that names objects in file names; `object_id` too if integers."""
    ra: str = "ra"
    """Column with right ascension, ICRS [deg]."""
    dec: str = "dec"
    """Column with declination, ICRS [deg]."""
    z: str = ""
    """Column with redshifts; empty: none."""
    label: LabelConfig | None = None
    """Classes, where the index has some."""
    quantities: Quantities = Field(default={}, exclude_if=operator.not_)
    """Numbers of the index to stage, for example `disk_votes = "dsk_frac"`."""
    pattern: str = "{band}/*_{id}.fits"
    """Path of a stamp below the folder; `*` is anything but a slash."""
    field: str = ""
    """Name of the field; empty: that of the folder."""
    unit_rows: int = Field(default=200, ge=1)
    """Rows of the index in a unit."""

    @field_validator("pattern")
    @classmethod
    def _names_a_stamp(cls, value: str) -> str:
        if value.count("{band}") != 1 or value.count("{id}") != 1:
            raise ValueError("must hold {band} and {id} once each")
        return value

    @property
    def asked_quantities(self) -> dict[str, str]:
        """`Quantities` of the index."""
        return self.quantities

    @property
    def expression(self) -> re.Pattern[str]:
        """`pattern` with groups `band` and `id`."""
        text = re.escape(self.pattern).replace(r"\*", "[^/]*")
        text = text.replace(r"\{band\}", f"(?P<band>{'|'.join(self.bands)})")
        return re.compile(text.replace(r"\{id\}", "(?P<id>[^/]+?)"))


class _Stamp(NamedTuple):
    image: BandImage
    plane: Plane
    has_error: bool


class _Object(NamedTuple):
    """An object with its stamps and how they lie on the common grid."""

    grid: Grid
    uri: str
    stamps: dict[str, _Stamp]
    relations: dict[str, Relation]


@dataclass(frozen=True)
class StampsSource(ImageSource):
    """A folder of ready-made cutouts, some rows of its index a unit."""

    config: StampsConfig = field(default_factory=StampsConfig)
    config_class: ClassVar[type[Config]] = StampsConfig

    def plan(self) -> Iterator[Unit]:
        """Read the index, list the stamps, and yield units in the order of the index."""
        index = self._find_index()
        if index is None:
            return
        objects, names = self._index(index)
        stamps = self._list()
        for start in range(0, len(objects), self.config.unit_rows):
            stop = min(start + self.config.unit_rows, len(objects))
            refs = [ref for name in dict.fromkeys(names[start:stop]) for ref in stamps.get(name, ())]
            yield Unit(f"{self._field}-r{start:07d}-{stop:07d}", (index, *refs))

    def _find_index(self) -> FileRef | None:
        uri = Storage.join(self.uri, self.config.index)
        try:
            info = self._storage.info(uri)
        except NotFoundError:
            if next(self._storage.list(self.uri), None) is None:
                return None
            hint = "Set release.settings.index to the table of objects."
            raise ConfigError("folder of stamps has no index", uri, hint=hint) from None
        return FileRef(info.uri, info.size, info.fingerprint, INDEX)

    @property
    def _field(self) -> str:
        return self.config.field or self.uri.rstrip("/").rpartition("/")[2]

    def _index(self, ref: FileRef) -> tuple[Objects, list[str]]:
        """Objects, and their names in file names."""
        c = self.config
        columns = CatalogueConfig(
            uri=ref.uri,
            ra=c.ra,
            dec=c.dec,
            id=c.id,
            z=c.z,
            field=c.id,
            label=c.label,
            quantities=c.quantities,
        )
        objects, names = load_catalogue(self._storage, ref, columns)
        assert names is not None
        return objects, names.tolist()

    def _list(self) -> dict[str, list[FileRef]]:
        """Stamps by name of the object, in order of bands."""
        expression, found = self.config.expression, dict[str, dict[str, FileInfo]]()
        for file in self._storage.list(self.uri):
            parts = file.uri.split("/")[-1 - self.config.pattern.count("/") :]
            if match := expression.fullmatch("/".join(parts)):
                found.setdefault(match["id"], {}).setdefault(match["band"], file)
        return {
            name: [
                FileRef(files[band].uri, files[band].size, files[band].fingerprint, f"{band} {name}")
                for band in self.config.bands
                if band in files
            ]
            for name, files in found.items()
        }

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read the stamps of some objects."""
        index = unit.file(INDEX)
        if index is None:
            return self._table(NO_OBJECTS, []), 0
        objects, names = self._index(index)
        start, stop = (int(number) for number in unit.key.rpartition("-r")[2].split("-"))
        refs = {ref.role: ref for ref in unit.files}
        valid, used = is_valid(objects), 0
        found: dict[int, _Object] = {}
        rejected: list[Rejection] = []
        for row in range(start, stop):
            mine = {b: refs[f"{b} {names[row]}"] for b in BANDS if f"{b} {names[row]}" in refs}
            one = objects.take(np.array([row]))
            at = _Where(index.uri)
            try:
                found[row] = self._read_object(one, bool(valid[row]), mine, at)
                used += sum(ref.size for ref in mine.values())
            except SourceError as error:
                rejected += one.rejections(at.uri, error.reason, str(error), self._field)
        table = self._table(objects.take(np.array(list(found), int)), list(found.values()))
        return with_rejections(table, rejected), used

    def _read_object(self, one: Objects, is_valid: bool, refs: dict[str, FileRef], at: "_Where") -> _Object:
        """Read an object's stamps; `at` follows which file is being read."""
        name = str(one.object_id[0])
        if not is_valid:
            got = f"{one.ra[0]}, {one.dec[0]}"
            raise SourceError(
                "right ascension or declination is no position", name, got, reason="bad_position"
            )
        if not refs:
            what, expected = "has no stamp in any band", self.config.pattern
            raise SourceError(what, name, expected=expected, reason="not_found")
        lacking = [band for band in self.config.bands if band not in refs]
        if lacking and self.config.require_all_bands:
            raise SourceError(f"has no stamp of {', '.join(lacking)}", name, reason="missing_band")
        stamps: dict[str, _Stamp] = {}
        for band, ref in refs.items():
            at.uri = ref.uri
            stamps[band] = self._read_stamp(ref)
        reference = reference_band(refs, self.config)
        grid, uri = stamps[reference].image.grid, refs[reference].uri
        relations: dict[str, Relation] = {}
        for band, stamp in stamps.items():
            at.uri = refs[band].uri
            relations[band] = relate(grid, stamp.image.grid, at.uri)
        at.uri = uri
        _check_inside(one, grid, uri)
        return _Object(grid, uri, stamps, relations)

    def _read_stamp(self, ref: FileRef) -> _Stamp:
        contents = read_hdus(self._storage, ref.uri, ref.size, IMAGES, {})
        image = describe(contents, ref, None, self.config.unit)
        plane, has_error = plane_of(contents.images, image, 0)
        return _Stamp(image, plane, has_error)

    def _table(self, objects: Objects, found: list[_Object]) -> UnitTable:
        size, num = self.config.size, len(objects)
        xy = [one.grid.to_pixel(objects.ra[i : i + 1], objects.dec[i : i + 1]) for i, one in enumerate(found)]
        x, y = np.array(xy, np.float64).reshape(num, 2).T
        where = centres(x, y, size)
        cutouts = Cutouts(num, size)
        for i, one in enumerate(found):
            y0, x0 = int(where.y0[i]), int(where.x0[i])
            for band, (image, plane, has_error) in one.stamps.items():
                relation = one.relations[band]
                cut = onto(plane, relation, one.grid, image.grid, y0, x0, (size, size))
                for out, values in zip(cutouts.band(band), (cut.science, cut.error, cut.mask), strict=True):
                    out[i] = values
                cutouts.describe(i, band, image.factor, relation.resampling, has_error)
        grids, uris = [one.grid for one in found], [one.uri for one in found]
        return build_table(objects, cutouts, where, grids, uris, self._field, self.config.columns)


@dataclass
class _Where:
    """File that is being read, for the rejection."""

    uri: str


def _check_inside(one: Objects, grid: Grid, uri: str) -> None:
    x, y = grid.to_pixel(one.ra, one.dec)
    column, row = (int(nearest_pixel(np.nan_to_num(values, nan=-1))[0]) for values in (x, y))
    if not (0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]):
        got, expected = f"pixel {column}, {row}", f"within {grid.shape[1]} x {grid.shape[0]} pixels"
        raise SourceError("source is not on its stamp", uri, got, expected, reason="off_mosaic")
