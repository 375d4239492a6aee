"""Read one strip of sky: find its sources, and cut them out of one band after the other.

Of each band only the rows that the windows of the strip's sources touch are read, once; what detection has read
is used again.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.errors import SourceError
from engine.images.columns import UNKNOWN_LABEL
from engine.images.cutouts import Centres, centres, cut, nearest_pixel
from engine.images.detect import MESH, REACH, detect, stack
from engine.images.planes import Plane, masked, onto, rows_needed, window
from engine.images.psf import convolve
from engine.images.wcs import Grid, Relation, relate
from engine.partition import healpix_29, valid_position
from engine.schema import empty_table
from engine.sources.nircam_band import BandImage, open_band, read_plane
from engine.sources.nircam_catalogue import is_valid, read_catalogue
from engine.sources.nircam_config import NircamConfig
from engine.sources.nircam_files import WEIGHT
from engine.sources.nircam_plan import CATALOGUE, parse_key, reference_band
from engine.sources.nircam_psf import load_kernels
from engine.sources.nircam_rows import NO_ID, Cutouts, Objects, build_table, with_rejections
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import Storage
from engine.units import FileRef, Unit


class _Band(NamedTuple):
    image: BandImage
    relation: Relation
    kernel: np.ndarray | None


class _Box(NamedTuple):
    """A window of the common grid."""

    y0: int
    x0: int
    shape: tuple[int, int]

    def wider(self, by: int) -> "_Box":
        return _Box(self.y0 - by, self.x0 - by, (self.shape[0] + 2 * by, self.shape[1] + 2 * by))


def _around(where: Centres, size: int, grid: Grid) -> _Box:
    """Find the part of a grid that holds all windows, as far as they are on it."""
    y0, x0 = max(int(where.y0.min()), 0), max(int(where.x0.min()), 0)
    stop = (min(int(a.max()) + size, side) for a, side in zip((where.y0, where.x0), grid.shape, strict=True))
    rows, columns = stop
    return _Box(y0, x0, (rows - y0, columns - x0))


class Strip:
    """A unit while it is read.

    Attributes
    ----------
    used
        Bytes of the files that were needed so far.
    """

    def __init__(self, unit: Unit, config: NircamConfig, storage: Storage) -> None:
        self.config, self._storage, self.used = config, storage, 0
        self._field, self._core = parse_key(unit.key)
        self._catalogue = unit.file(CATALOGUE)
        images = [ref for ref in unit.files if ref.role != CATALOGUE]
        self._files = {ref.role: ref for ref in images if not ref.role.endswith(WEIGHT)}
        self._weights = {ref.role.removesuffix(WEIGHT): ref for ref in images if ref.role.endswith(WEIGHT)}
        self._reference = self._files[reference_band(self._files, config)]
        self._at = self._reference
        self._objects: Objects | None = None
        self._rejected: list[Rejection] = []
        self._planes: dict[str, tuple[Plane, bool]] = {}

    def read(self) -> UnitTable:
        """Find the sources, cut them out of every band, and make rows.

        Raises
        ------
        SourceError
            If a file cannot be used; `reject` says what becomes of the sources.
        ConfigError
            If the catalogue or a PSF cannot be used.
        """
        grid = self._open(self._reference).grid
        if self._catalogue is not None:
            self._find_in_catalogue(grid, self._catalogue)
        self._check_bands()
        if self._objects is not None and not len(self._objects):
            return with_rejections(self._nothing, self._rejected)
        bands = self._relate(grid)
        if self._objects is None:
            self._detect(grid, bands)
        return with_rejections(self._cut(grid, bands), self._rejected)

    def reject(self, error: SourceError) -> UnitTable:
        """Reject what is known to be in the strip, else the file that cannot be used."""
        uri, detail = self._at.uri, str(error)
        if self._objects is None and self._catalogue is not None and self._first:
            self._objects = self._read_catalogue(self._catalogue)
        if self._objects is not None:
            self._rejected += self._objects.rejections(uri, error.reason, detail, self._field)
        elif self._catalogue is None:
            file = rejected_table([Rejection(uri, error.reason, detail, field=self._field)])
            return replace(self._nothing, rejected=file)
        return with_rejections(self._nothing, self._rejected)

    @property
    def _nothing(self) -> UnitTable:
        return UnitTable(empty_table(self.config.columns), rejected_table([]), 0)

    @property
    def _first(self) -> bool:
        """Whether this is the strip that answers for a field whose grid cannot be read."""
        return self._core is None or self._core[0] == 0

    def _open(self, ref: FileRef) -> BandImage:
        self._at = ref
        image, used = open_band(self._storage, ref, self._weights.get(ref.role), self.config.unit)
        self.used += used
        return image

    def _read_catalogue(self, ref: FileRef) -> Objects:
        assert self.config.catalogue is not None
        return read_catalogue(self._storage, ref, self.config.catalogue, self._field)

    def _find_in_catalogue(self, grid: Grid, ref: FileRef) -> None:
        """Keep the sources whose pixel is in the core; those off the mosaic belong to the nearest strip."""
        objects = self._read_catalogue(ref)
        x, y = grid.to_pixel(objects.ra, objects.dec)
        column, row = (nearest_pixel(np.nan_to_num(values, nan=-1)) for values in (x, y))
        rows, columns = grid.shape
        start, stop = self._core or (0, rows)
        owner = np.clip(row, 0, rows - 1)
        mine, valid = (owner >= start) & (owner < stop), is_valid(objects)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        self._drop(
            objects.take(mine & ~valid), "bad_position", "right ascension or declination is no position"
        )
        text = f"outside the {columns} x {rows} pixels of the mosaic"
        self._drop(objects.take(mine & valid & ~inside), "off_mosaic", text)
        self._objects = objects.take(mine & valid & inside)

    def _drop(self, objects: Objects, reason: str, detail: str) -> None:
        self._rejected += objects.rejections(self._reference.uri, reason, detail, self._field)

    def _check_bands(self) -> None:
        needed = self.config.bands if self.config.require_all_bands else ()
        needed += self.config.detection_bands if self._catalogue is None else ()
        lacking = sorted({band for band in needed if band not in self._files})
        if lacking:
            what = f"field has no file of {', '.join(lacking)}"
            there = ", ".join(self._files)
            raise SourceError(what, self._field, there, ", ".join(needed), reason="missing_band")

    def _relate(self, grid: Grid) -> dict[str, _Band]:
        """Open all bands; make the kernels, once it is known that their files are sound."""
        images = {band: self._open(ref) for band, ref in self._files.items()}
        relations = {}
        for band, image in images.items():
            self._at = image.ref
            relations[band] = relate(grid, image.grid, image.ref.uri)
        psf, kernels = self.config.psf, {}
        if psf is not None:
            kernels = load_kernels(self._storage, psf, tuple(images), grid.pixel_scale)
        return {band: _Band(image, relations[band], kernels.get(band)) for band, image in images.items()}

    def _detect(self, grid: Grid, bands: dict[str, _Band]) -> None:
        """Search the core and what is around it; keep the sources whose brightest pixel is in the core."""
        rows, columns = grid.shape
        start, stop = self._core or (0, rows)
        first = max(start - REACH, 0) // MESH * MESH
        last = min(-(-(stop + REACH) // MESH) * MESH, rows)
        box = _Box(first, 0, (last - first, columns))
        for band in self.config.detection_bands:
            self._planes[band] = self._read_box(grid, bands[band], box)
        found = detect(
            stack([self._planes[band][0] for band in self.config.detection_bands]), self.config.detect
        )
        mine = (found.y_peak >= start) & (found.y_peak < stop)
        ra, dec = grid.to_sky(found.x[mine], found.y[mine])
        valid, ids = valid_position(ra, dec), np.full(ra.shape, NO_ID, np.int64)
        ids[valid] = healpix_29(ra[valid], dec[valid])
        nothing, no_label = np.full(ra.shape, np.nan), np.full(ra.shape, UNKNOWN_LABEL, np.int8)
        objects = Objects(ids, ra, dec, nothing, np.arange(ra.size), no_label)
        what = "its centre is no position: pixels are nonsense"
        self._rejected += objects.take(~valid).rejections(
            self._reference.uri, "bad_position", what, self._field
        )
        self._objects = objects.take(valid)

    def _cut(self, grid: Grid, bands: dict[str, _Band]) -> UnitTable:
        assert self._objects is not None
        num, size = len(self._objects), self.config.size
        where = centres(*grid.to_pixel(self._objects.ra, self._objects.dec), size)
        cutouts = Cutouts(num, size)
        for name, band in bands.items() if num else ():
            plane, has_error = self._box(grid, name, band, _around(where, size, grid))
            cut(plane, where.x0, where.y0, *cutouts.band(name))
            cutouts.describe(slice(None), name, band.image.factor, band.relation.resampling, has_error)
        uris = [self._reference.uri] * num
        return build_table(
            self._objects, cutouts, where, [grid] * num, uris, self._field, self.config.columns
        )

    def _box(self, grid: Grid, name: str, band: _Band, box: _Box) -> tuple[Plane, bool]:
        """Take a window from what detection has read, if that is all there is of it, or read it."""
        plane, has_error = self._planes.pop(name, (None, False))
        if plane is None or box.y0 < plane.y0 or box.y0 + box.shape[0] > plane.y0 + plane.shape[0]:
            return self._read_box(grid, band, box)
        return window(plane, *box), has_error

    def _read_box(self, grid: Grid, band: _Band, box: _Box) -> tuple[Plane, bool]:
        """Read a window of the common grid from a band, matched to the PSF if that is wanted."""
        self._at = band.image.ref
        wide = box if band.kernel is None else box.wider(band.kernel.shape[0] // 2)
        span = (wide.y0, wide.y0 + wide.shape[0])
        rows = rows_needed(band.relation, grid, band.image.grid, span)
        if rows[0] >= rows[1]:
            return masked(*box), True
        plane, has_error, used = read_plane(self._storage, band.image, rows)
        self.used += used
        plane = onto(plane, band.relation, grid, band.image.grid, *wide)
        return (plane if band.kernel is None else window(convolve(plane, band.kernel), *box)), has_error
