"""DESI coadds with their redrock files: one unit a coadd, one row a target.

Survey and program are taken, in this order, from the folders of a released layout, the primary header
(SURVEY, PROGRAM), the file name, and for the survey the SV or CMX targeting column of FIBERMAP; where
none of them says, they are "unknown".

Every object of a coadd ends as a row or as a rejection. Files of exposures (`spectra-*.fits`) are not
read: their rows are exposures, not targets, and would break the key; each of their rows is rejected as
`unsupported_layout`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.config import Config
from engine.errors import SourceError
from engine.fits import FitsContents, read_hdus
from engine.fitsdata import decoding
from engine.flags import LOW_COVERAGE, MISSING_B, MISSING_R, MISSING_Z
from engine.partition import valid_position
from engine.schema import conform, empty_table, list_array
from engine.sources.desi_config import DesiConfig, DesiCuts
from engine.sources.desi_layout import identify, is_coadd
from engine.sources.desi_plan import plan_release
from engine.sources.desi_rows import (
    EXPOSURE_COLUMNS,
    FIBERMAP_COLUMNS,
    REDSHIFT_COLUMNS,
    SCORES_COLUMNS,
    build_rows,
    check_columns,
    survey_from_targets,
)
from engine.sources.spectra import SpectrumSource
from engine.spectra.coadd import check_grid, merge_arms, usable_cameras
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS
from engine.spectra.normalise import signal_to_noise
from engine.stage import Rejection, UnitTable, rejected_table
from engine.units import FileRef, Unit

__all__ = ["DesiConfig", "DesiCuts", "DesiSource"]

UNKNOWN = "unknown"
QUANTITIES = ("WAVELENGTH", "FLUX", "IVAR", "MASK")
IMAGES = tuple(f"{camera.upper()}_{quantity}" for camera in CAMERA_SLICES for quantity in QUANTITIES)
COADD_TABLES = {
    "FIBERMAP": (*FIBERMAP_COLUMNS, "FIBERSTATUS"),
    "EXP_FIBERMAP": EXPOSURE_COLUMNS,
    "SCORES": SCORES_COLUMNS,
}
MIN_PIXELS = 100
"""An image FLUX with rows shorter than this holds no spectra."""
MISSING_CAMERA = {"b": MISSING_B, "r": MISSING_R, "z": MISSING_Z}


@dataclass(frozen=True)
class DesiSource(SpectrumSource):
    """A DESI release (`.../spectro/redux/iron`), or any folder of coadds: one unit a coadd."""

    config: DesiConfig = field(default_factory=DesiConfig)
    config_class: ClassVar[type[Config]] = DesiConfig

    @property
    def salt(self) -> dict[str, Any]:
        """The cuts: layout and selection only decide which units there are."""
        return {"cuts": self.config.cuts.model_dump(mode="json")}

    def plan(self) -> Iterator[Unit]:
        """List the release lazily, in order of URIs; expected but missing coadds last."""
        return plan_release(self.uri, self.config, self._storage)

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read a coadd and its redshifts, cut, and merge the arms."""
        coadd = unit.file("coadd")
        if coadd is None:
            return UnitTable(empty_table(SPECTRUM_COLUMNS), rejected_table([]), 0), 0
        return self._read_coadd(coadd, unit.file("redrock"))

    def _read_coadd(self, ref: FileRef, redrock: FileRef | None) -> tuple[UnitTable, int]:
        contents = None
        try:
            contents = read_hdus(self._storage, ref.uri, ref.size, IMAGES, COADD_TABLES)
            redshifts, faults, used = self._read_redshifts(redrock)
            with decoding(ref.uri):
                arms = _check_layout(contents, ref.uri)
                table = _rows(contents, redshifts, ref.uri)
                table = UnitTable(table.rows, rejected_table(faults), table.rows_in)
                table = _add_spectra(_cut(table, contents, self.config.cuts), arms)
        except SourceError as error:
            return self._reject_file(ref, redrock, error, contents)
        return table, contents.bytes_used + used

    def _read_redshifts(self, ref: FileRef | None) -> tuple[dict[str, np.ndarray], list[Rejection], int]:
        """Redshift table; an empty one, and why, if the file cannot be used."""
        if ref is None:
            return {}, [], 0
        # The file is either of two kinds; asking for the other one would walk it to its end.
        name = "ZBEST" if "/zbest-" in ref.uri else "REDSHIFTS"
        try:
            contents = read_hdus(self._storage, ref.uri, ref.size, (), {name: REDSHIFT_COLUMNS})
            table = contents.tables.get(name, {})
            missing = [column for column in REDSHIFT_COLUMNS if column not in table]
            if missing:
                raise _unsupported(f"{name} lacks {', '.join(missing)}", ref.uri, contents)
            check_columns(table, name, ref.uri)
        except SourceError as error:
            return {}, [Rejection(ref.uri, error.reason, str(error))], 0
        return table, [], contents.bytes_used

    def _reject_file(
        self, ref: FileRef, redrock: FileRef | None, error: SourceError, contents: FitsContents | None
    ) -> tuple[UnitTable, int]:
        """Reject each object if it can be told how many there are, else the file."""
        try:
            first = {"FIBERMAP": COADD_TABLES["FIBERMAP"]}  # it comes before what is often cut off
            contents = contents or read_hdus(self._storage, ref.uri, ref.size, (), first)
        except SourceError:
            contents = FitsContents()
        survey, program = _survey_and_program(contents, ref.uri)
        rejected = [
            Rejection(ref.uri, error.reason, str(error), row, targetid, survey, program)
            for row, targetid in enumerate(self._objects(contents, redrock, ref.uri))
        ]
        num = len(rejected)
        rejected = rejected or [Rejection(ref.uri, error.reason, str(error))]
        return UnitTable(empty_table(SPECTRUM_COLUMNS), rejected_table(rejected), num), contents.bytes_used

    def _objects(self, contents: FitsContents, redrock: FileRef | None, uri: str) -> list[int | None]:
        """TARGETIDs of a file that cannot be used: its own, those of its redshifts, or only how many."""
        spectra = contents.cards("FLUX")
        targetid = contents.tables.get("FIBERMAP", {}).get("TARGETID")
        if targetid is None and is_coadd(uri):
            targetid = self._read_redshifts(redrock)[0].get("TARGETID")
        if targetid is not None and (targetid.ndim != 1 or targetid.dtype.kind not in "iu"):
            targetid = None
        if targetid is not None and (is_coadd(uri) or any(image in contents.names for image in IMAGES)):
            return targetid.tolist()
        sizes = [spectra.get(axis, 0) for axis in ("NAXIS1", "NAXIS2")]
        length, num = (size if isinstance(size, int) else 0 for size in sizes)
        return [None] * (num if length >= MIN_PIXELS else 0)


class _Arms(NamedTuple):
    """Camera to array [N, n]."""

    flux: dict[str, np.ndarray]
    ivar: dict[str, np.ndarray]
    mask: dict[str, np.ndarray]


def _check_layout(contents: FitsContents, uri: str) -> _Arms:
    """Return the arms; raise `SourceError` unless the file is a coadd on the common grid."""
    fibermap = contents.tables.get("FIBERMAP", {})
    if "TARGETID" not in fibermap:
        raise _unsupported("no FIBERMAP with TARGETID", uri, contents)
    for name, table in contents.tables.items():
        check_columns(table, name, uri)
    if "FIBERSTATUS" in fibermap and "COADD_FIBERSTATUS" not in fibermap:
        what = "file of exposures: its rows are not targets (FIBERSTATUS, no COADD_FIBERSTATUS)"
        raise _unsupported(what, uri, contents, "Give the coadd-*.fits made from it.")
    cameras = [camera for camera in CAMERA_SLICES if f"{camera.upper()}_FLUX" in contents.images]
    if not cameras:
        raise SourceError("holds no camera", uri, ", ".join(contents.names), "B_FLUX", reason="no_camera")
    parts = {q: _images(contents, cameras, q) for q in QUANTITIES}
    for quantity in ("WAVELENGTH", "IVAR"):
        if lacking := [camera for camera in cameras if camera not in parts[quantity]]:
            raise _unsupported(f"camera {', '.join(lacking)} has no {quantity}", uri, contents)
    check_grid(parts["WAVELENGTH"], uri)
    num = len(fibermap["TARGETID"])
    for quantity in QUANTITIES[1:]:
        for camera, image in parts[quantity].items():
            _check_shape(image, (num, parts["WAVELENGTH"][camera].size), f"{camera.upper()}_{quantity}", uri)
    return _Arms(parts["FLUX"], parts["IVAR"], parts["MASK"])


def _images(contents: FitsContents, cameras: Iterable[str], quantity: str) -> dict[str, np.ndarray]:
    names = {camera: f"{camera.upper()}_{quantity}" for camera in cameras}
    return {camera: contents.images[name] for camera, name in names.items() if name in contents.images}


def _check_shape(image: np.ndarray, shape: tuple[int, int], name: str, uri: str) -> None:
    if image.shape != shape:
        what = f"{name} does not fit FIBERMAP and the wavelengths"
        raise SourceError(what, uri, str(image.shape), str(shape), reason="unsupported_layout")


def _unsupported(what: str, uri: str, contents: FitsContents, hint: str = "") -> SourceError:
    expected = "a DESI coadd: FIBERMAP and {B,R,Z}_{WAVELENGTH,FLUX,IVAR}"
    return SourceError(what, uri, ", ".join(contents.names), expected, hint, "unsupported_layout")


def _rows(contents: FitsContents, redshifts: dict[str, np.ndarray], uri: str) -> UnitTable:
    tables = contents.tables
    survey, program = _survey_and_program(contents, uri)
    rows = build_rows(
        tables["FIBERMAP"], tables.get("EXP_FIBERMAP", {}), tables.get("SCORES", {}), redshifts,
        survey, program, uri,
    )  # fmt: skip
    return UnitTable(rows, rejected_table([]), rows.num_rows)


def _survey_and_program(contents: FitsContents, uri: str) -> tuple[str, str]:
    """Folders, then header, then file name, then the targeting column: see the module's docstring."""
    said, header = identify(uri), contents.cards("PRIMARY")
    in_header = [str(header.get(key, "")).strip().lower() for key in ("SURVEY", "PROGRAM")]
    first, second = (said.survey, said.program), (in_header[0], in_header[1])
    if not said.from_folders:
        first, second = second, first
    survey = first[0] or second[0] or survey_from_targets(contents.tables.get("FIBERMAP", {})) or UNKNOWN
    return survey, first[1] or second[1] or UNKNOWN


def _cut(table: UnitTable, contents: FitsContents, cuts: DesiCuts) -> UnitTable:
    """Apply the cuts one after the other; an object is counted where it fails first."""
    objtype = contents.tables["FIBERMAP"].get("OBJTYPE")

    def bits(name: str, allowed: int) -> Callable[[pa.Table], np.ndarray]:
        return lambda rows: (_integers(rows, name) & ~np.int64(allowed)) != 0

    if not cuts.keep_negative_targetid:
        table = _apply(table, "negative_targetid", "TARGETID < 0", lambda r: _integers(r, "targetid") < 0)
    if cuts.targets_only and objtype is not None:
        is_other = objtype != "TGT"
        table = _apply(
            table, "sky_fibre", "OBJTYPE is not TGT", lambda r: is_other[_integers(r, "source_row")]
        )
    text = f"COADD_FIBERSTATUS has bits beyond {cuts.allowed_fiberstatus}"
    table = _apply(table, "fiberstatus", text, bits("fiberstatus", cuts.allowed_fiberstatus))
    if cuts.good_redshift_only:
        table = _apply(
            table, "zwarn", f"ZWARN has bits beyond {cuts.allowed_zwarn}", bits("zwarn", cuts.allowed_zwarn)
        )
    few = cuts.min_exposures
    text = f"fewer than {few} exposures"
    table = _apply(table, "min_exposures", text, lambda r: _integers(r, "num_exposures", few) < few)
    return _apply(table, "bad_position", "TARGET_RA or TARGET_DEC is not a position", _bad_position)


def _apply(table: UnitTable, reason: str, detail: str, bad: Callable[[pa.Table], np.ndarray]) -> UnitTable:
    return table.reject(bad(table.rows), reason, detail)


def _integers(rows: pa.Table, name: str, null: int = 0) -> np.ndarray:
    """Integer column with another value for null, so that an unknown passes a cut."""
    return pc.fill_null(rows[name], null).to_numpy().astype(np.int64)


def _bad_position(rows: pa.Table) -> np.ndarray:
    return ~valid_position(rows["ra"].to_numpy(), rows["dec"].to_numpy())


def _add_spectra(table: UnitTable, arms: _Arms) -> UnitTable:
    """Merge the arms of the rows that are left and measure them; reject those without a pixel."""
    rows = _integers(table.rows, "source_row")
    flux, ivar = merge_arms(*arms, rows)
    num_good = np.count_nonzero(ivar > 0, axis=1).astype(np.int32)
    flags = table.rows["flags"].to_numpy() | np.where(num_good < NUM_PIXELS // 2, LOW_COVERAGE.value, 0)
    usable = usable_cameras(arms.ivar, arms.mask)
    for camera, flag in MISSING_CAMERA.items():
        flags |= np.where(usable[camera][rows] if camera in usable else False, 0, flag.value)
    new = {
        "num_good_pixels": pa.array(num_good),
        "snr": pa.array(signal_to_noise(flux, ivar)),
        "flux": list_array(flux),
        "ivar": list_array(ivar),
        "flags": pa.array(flags.astype(np.int32)),
    }
    columns = {name: table.rows[name] for name in table.rows.column_names} | new
    whole = table.with_rows(pa.table(columns))
    good = whole.reject(num_good == 0, "no_usable_pixel", "every pixel is masked, NaN or has ivar 0")
    return good.with_rows(conform(good.rows, SPECTRUM_COLUMNS))
