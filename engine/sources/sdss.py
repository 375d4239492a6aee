"""SDSS and BOSS spectra, one file each (`spec-PLATE-MJD-FIBER.fits`), on the common grid.

A unit is the spectra of one plate and MJD in one folder. The log-lambda pixels (vacuum) are resampled
onto the common grid conserving flux; where the spectrum ends or is masked, ivar is 0. A pixel with any
bit of `and_mask` (bad in every exposure) is not used, as in Redrock's reader of BOSS files.

`targetid` is PLATE 2^28 + (MJD - 50000) 2^14 + FIBER: SDSS's own SPECOBJID is unsigned and exceeds int64
for plates from 8192 on. `survey` is "sdss", `program` is "boss" for spectra of the BOSS spectrographs
(plates from 3510 on) and "legacy" before. DELTACHI2 is RCHI2DIFF times DOF, as SDSS defines it.

References
----------
https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.errors import SourceError
from engine.fits import FitsContents, read_hdus
from engine.fitsdata import decoding
from engine.flags import LOW_COVERAGE, NO_REDSHIFT
from engine.partition import valid_position
from engine.schema import arrow_schema, conform, empty_table, list_array
from engine.sources.spectra import SpectrumSource
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.grid import NUM_PIXELS, WAVE_OBS
from engine.spectra.normalise import row_median
from engine.spectra.restframe import pixel_edges, resample
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import FileInfo
from engine.units import FileRef, Unit

SURVEY = "sdss"
FIRST_BOSS_PLATE = 3510
MJD_ZERO = 50_000
SPECTRUM_TABLE = ("FLUX", "LOGLAM", "IVAR", "AND_MASK")
OBJECT_TABLES = ("SPALL", "SPECOBJ")
"""Table with the classification: BOSS files have the first, SDSS I/II files the second."""
OBJECT_COLUMNS = (
    "PLUG_RA", "PLUG_DEC", "CLASS", "SUBCLASS", "Z", "Z_ERR", "ZWARNING", "RCHI2DIFF", "DOF",
)  # fmt: skip
MAX_LOGLAM_STEP = 2e-4
"""BOSS and SDSS have 1e-4 dex a pixel; a gap or another grid is wider than this."""

_NAME = re.compile(r"(?:^|/)spec-(?P<plate>\d{4,5})-(?P<mjd>\d{5})-(?P<fiber>\d{4})\.fits(\.gz)?$")


class SpectrumId(NamedTuple):
    """Plate, MJD and fibre: what names an SDSS spectrum."""

    plate: int
    mjd: int
    fiber: int

    @property
    def targetid(self) -> int:
        """The three in one positive int64; see the module's docstring."""
        return self.plate << 28 | (self.mjd - MJD_ZERO) << 14 | self.fiber

    @property
    def program(self) -> str:
        """Which spectrographs."""
        return "boss" if self.plate >= FIRST_BOSS_PLATE else "legacy"


def parse_name(uri: str) -> SpectrumId | None:
    """Plate, MJD and fibre from the file name; None if it is not that of a spectrum."""
    match = _NAME.search(uri)
    return SpectrumId(*(int(match[name]) for name in ("plate", "mjd", "fiber"))) if match else None


@dataclass(frozen=True)
class SdssSource(SpectrumSource):
    """A folder tree of `spec-*.fits`, at any depth; other files in it are not looked at."""

    def plan(self) -> Iterator[Unit]:
        """List lazily: one unit a plate and MJD of a folder, in order of URIs."""
        spectra = (file for file in self._storage.list(self.uri) if parse_name(file.uri))
        for _, files in groupby(spectra, lambda file: file.uri.rpartition("-")[0]):
            yield _unit(list(files))

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read the spectra of a plate."""
        used, rejected = 0, []
        tables: list[pa.Table] = [empty_table(SPECTRUM_COLUMNS)]
        for ref in unit.files:
            try:
                contents = read_hdus(self._storage, ref.uri, ref.size, (), _TABLES)
                used += contents.bytes_used
                with decoding(ref.uri):
                    tables.append(_table([_row(contents, ref)]))
            except SourceError as error:
                rejected.append(_rejection(ref, error))
        rows = pa.concat_tables(tables).combine_chunks()
        return UnitTable(rows, rejected_table(rejected), len(unit.files)), used


_TABLES = {"COADD": SPECTRUM_TABLE} | dict.fromkeys(OBJECT_TABLES, OBJECT_COLUMNS)


def _unit(files: list[FileInfo]) -> Unit:
    first = parse_name(files[0].uri)
    assert first is not None
    refs = tuple(FileRef(file.uri, file.size, file.fingerprint, "spec") for file in files)
    return Unit(f"plate-{first.plate}-{first.mjd}", refs)


def _rejection(ref: FileRef, error: SourceError) -> Rejection:
    """Each file is one object, so that it is counted even if it cannot be read."""
    named = parse_name(ref.uri)
    assert named is not None
    return Rejection(ref.uri, error.reason, str(error), 0, named.targetid, SURVEY, named.program)


def _row(contents: FitsContents, ref: FileRef) -> dict[str, Any]:
    named = parse_name(ref.uri)
    assert named is not None
    flux, ivar = _spectrum(contents, ref.uri)
    facts = _object(contents, ref.uri)
    num_good = int(np.count_nonzero(ivar))
    if not num_good:
        what = "every pixel is masked, NaN or has ivar 0"
        raise SourceError(what, ref.uri, reason="no_usable_pixel")
    flags = LOW_COVERAGE.value if num_good < NUM_PIXELS // 2 else 0
    return {
        **facts,
        **_trace(named, contents),
        "source_uri": ref.uri,
        "source_row": 0,
        "num_good_pixels": num_good,
        "snr": float(row_median((flux * np.sqrt(ivar))[None], (ivar > 0)[None])[0]),
        "flags": flags | (NO_REDSHIFT.value if facts.get("z") is None else 0),
        "flux": flux,
        "ivar": ivar,
    }


def _trace(named: SpectrumId, contents: FitsContents) -> dict[str, Any]:
    """Name, instrument and exposures of a spectrum."""
    header = contents.cards("PRIMARY")
    return {
        "targetid": named.targetid,
        "survey": SURVEY,
        "program": named.program,
        "tileid": named.plate,
        "petal": _spectrograph(named),
        "fiber": named.fiber,
        "num_exposures": header.get("NEXP"),
        "exptime": header.get("EXPTIME"),
    }


def _spectrum(contents: FitsContents, uri: str) -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar on the common grid, float32 [7781]."""
    coadd = contents.tables.get("COADD", {})
    lacking = [name for name in SPECTRUM_TABLE if name not in coadd]
    if lacking:
        what = f"COADD lacks {', '.join(lacking)}"
        names = ", ".join(contents.names)
        raise SourceError(what, uri, names, "an SDSS spec file", reason="unsupported_layout")
    loglam = coadd["LOGLAM"].astype(np.float64)
    _check_loglam(loglam, uri)
    flux, ivar = (coadd[name].astype(np.float64) for name in ("FLUX", "IVAR"))
    good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & (coadd["AND_MASK"] == 0)
    flux, ivar = (np.where(good, values, 0.0)[None] for values in (flux, ivar))
    out = resample(flux, ivar, 10 ** pixel_edges(loglam), pixel_edges(WAVE_OBS))
    return out[0][0].astype(np.float32), out[1][0].astype(np.float32)


def _check_loglam(loglam: np.ndarray, uri: str) -> None:
    steps = np.diff(loglam)
    if loglam.size < 2 or not np.all((steps > 0) & (steps < MAX_LOGLAM_STEP)):
        got = f"{loglam.size} pixels, steps {steps.min(initial=0):.2e} to {steps.max(initial=0):.2e}"
        expected = f"rising log10 wavelengths in steps below {MAX_LOGLAM_STEP}"
        raise SourceError("LOGLAM is another grid", uri, got, expected, reason="wrong_wavelength_grid")


def _object(contents: FitsContents, uri: str) -> dict[str, Any]:
    """Position, and redshift and class where the file has them."""
    table = next((contents.tables[name] for name in OBJECT_TABLES if contents.tables.get(name)), {})
    first = {name: values[0].item() for name, values in table.items() if len(values)}
    header = contents.cards("PRIMARY")
    found = [first.get(name, header.get(name)) for name in ("PLUG_RA", "PLUG_DEC")]
    ra, dec = (value if isinstance(value, float) else math.nan for value in found)
    if not valid_position(np.array(ra), np.array(dec)):
        raise SourceError(
            "PLUG_RA, PLUG_DEC are not a position", uri, f"{found[0]}, {found[1]}", reason="bad_position"
        )
    facts: dict[str, Any] = {"ra": ra, "dec": dec}
    names = {"z": "Z", "zerr": "Z_ERR", "zwarn": "ZWARNING", "spectype": "CLASS", "subtype": "SUBCLASS"}
    facts |= {name: first[column] for name, column in names.items() if column in first}
    if "RCHI2DIFF" in first and "DOF" in first:
        facts["deltachi2"] = first["RCHI2DIFF"] * first["DOF"]
    return facts


def _spectrograph(named: SpectrumId) -> int:
    """Spectrograph 1 or 2: fibres 1-500 and 501-1000 of BOSS, 1-320 and 321-640 before."""
    return 1 if named.fiber <= (500 if named.program == "boss" else 320) else 2


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    arrays = [_array(rows, column) for column in SPECTRUM_COLUMNS]
    return conform(pa.table(arrays, names=[column.name for column in SPECTRUM_COLUMNS]), SPECTRUM_COLUMNS)


def _array(rows: list[dict[str, Any]], column: Column) -> pa.Array:
    values = [row.get(column.name) for row in rows]
    if column.length:
        return list_array(np.array(values, np.float32).reshape(len(rows), column.length))
    return pa.array(values, arrow_schema([column]).field(0).type)
