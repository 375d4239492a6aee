"""From the tables of a coadd and its redshift file to one row a spectrum, without the spectra.

TARGETID is int64 all the way: above 2^53 a float would join the wrong objects.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.errors import SourceError
from engine.flags import NO_REDSHIFT
from engine.schema import arrow_type
from engine.spectra.columns import SPECTRUM_COLUMNS

TARGET_COLUMNS = {
    "main": "DESI_TARGET",
    "special": "DESI_TARGET",
    "sv1": "SV1_DESI_TARGET",
    "sv2": "SV2_DESI_TARGET",
    "sv3": "SV3_DESI_TARGET",
    "cmx": "CMX_TARGET",
}
"""Column of FIBERMAP with the targeting bits of a survey."""

FIBERMAP_COLUMNS = (
    "TARGETID", "OBJTYPE", "COADD_FIBERSTATUS", "TARGET_RA", "TARGET_DEC", "COADD_NUMEXP", "COADD_EXPTIME",
    "TILEID", "FIBER", "PETAL_LOC", "LAST_NIGHT", *dict.fromkeys(TARGET_COLUMNS.values()),
)  # fmt: skip
EXPOSURE_COLUMNS = ("TARGETID", "NIGHT", "EXPID", "TILEID", "FIBER", "PETAL_LOC", "EXPTIME", "FIBERSTATUS")
SCORES_COLUMNS = ("TARGETID", "TSNR2_LRG")
REDSHIFT_COLUMNS = ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2")

MADE_FROM_PIXELS = ("flux", "ivar", "num_good_pixels", "snr")
META_COLUMNS = tuple(column for column in SPECTRUM_COLUMNS if column.name not in MADE_FROM_PIXELS)
"""What is known of a spectrum before its pixels are looked at."""

TEXT_COLUMNS = frozenset({"OBJTYPE", "SPECTYPE", "SUBTYPE"})
"""All others hold numbers."""

Table = Mapping[str, np.ndarray]
"""Column name to array, all of one length."""


def check_columns(table: Table, name: str, uri: str) -> None:
    """Check that the columns of a table hold one number a row, or one text.

    Raises
    ------
    SourceError
        `unsupported_layout`, naming the column.
    """
    for column, values in table.items():
        kinds = "U" if column in TEXT_COLUMNS else "iu" if column == "TARGETID" else "biuf"
        if values.ndim != 1 or values.dtype.kind not in kinds:
            got, expected = (
                f"{values.dtype}, {values.ndim} axes",
                "one text" if kinds == "U" else "one number",
            )
            what = f"{name}: column {column} is of another type"
            raise SourceError(what, uri, got, f"{expected} a row", reason="unsupported_layout")


def survey_from_targets(fibermap: Table) -> str:
    """Survey that selected the targets, told by which SV or CMX column there is; "" if none."""
    found = [
        name for name, column in TARGET_COLUMNS.items() if column != "DESI_TARGET" and column in fibermap
    ]
    return found[0] if len(found) == 1 else ""


def build_rows(
    fibermap: Table, exposures: Table, scores: Table, redshifts: Table, survey: str, program: str, uri: str
) -> pa.Table:
    """Join the tables of one coadd by TARGETID.

    Parameters
    ----------
    fibermap
        FIBERMAP, one row a spectrum: TARGETID at least.
    exposures
        EXP_FIBERMAP: tile, fibre and petal are those of the first exposure (by night, then EXPID), the
        night is that of the last. Where it is missing, FIBERMAP's own columns are taken.
    scores, redshifts
        SCORES and REDSHIFTS (or ZBEST); any may be empty. An object without redshift has nulls and
        the flag NO_REDSHIFT.
    survey, program, uri
        The same for all rows.

    Returns
    -------
    pyarrow.Table
        Rows with `META_COLUMNS`, in the order of FIBERMAP; null where nothing is known.
    """
    targetid = fibermap["TARGETID"].astype(np.int64)
    num = len(targetid)
    observed = _summarise(exposures, targetid)
    own, score = _Joined(fibermap, np.arange(num)), _Joined(scores, find_rows(scores, targetid))
    redshift = _Joined(redshifts, find_rows(redshifts, targetid))
    found = {
        "ra": own.get("TARGET_RA"),
        "dec": own.get("TARGET_DEC"),
        **{c.lower(): redshift.get(c) for c in REDSHIFT_COLUMNS[1:]},
        "tileid": observed.get("TILEID") or own.get("TILEID"),
        "petal": observed.get("PETAL_LOC") or own.get("PETAL_LOC"),
        "fiber": observed.get("FIBER") or own.get("FIBER"),
        "night": observed.get("NIGHT") or own.get("LAST_NIGHT"),
        "num_exposures": own.get("COADD_NUMEXP") or observed.get("NUMEXP"),
        "exptime": own.get("COADD_EXPTIME") or observed.get("EXPTIME"),
        "tsnr2": score.get("TSNR2_LRG"),
        "fiberstatus": own.get("COADD_FIBERSTATUS"),
        "desi_target": own.get(TARGET_COLUMNS.get(survey, "DESI_TARGET")),
    }
    flags = np.where(redshift.rows < 0, NO_REDSHIFT.value, 0)
    made = {"targetid": targetid, "source_row": np.arange(num), "flags": flags}
    found |= {name: (values, np.ones(num, bool)) for name, values in made.items()}
    same = {"survey": survey, "program": program, "source_uri": uri}
    arrays = {name: pa.repeat(pa.scalar(value), num) for name, value in same.items()}
    arrays |= {c.name: _array(found[c.name], c, num) for c in META_COLUMNS if c.name not in same}
    return pa.table({column.name: arrays[column.name] for column in META_COLUMNS})


def find_rows(table: Table, targetid: np.ndarray) -> np.ndarray:
    """Row of `table` with each TARGETID, int64 [B] both, the first of several; -1 where there is none."""
    ids = table.get("TARGETID")
    if ids is None or len(ids) == 0:
        return np.full(len(targetid), -1)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, targetid, sorter=order), len(ids) - 1)
    rows = order[place]
    return np.where(ids[rows] == targetid, rows, -1)


class _Joined:
    """Columns of a table, taken at given rows."""

    def __init__(self, table: Table, rows: np.ndarray) -> None:
        self.table, self.rows = table, rows

    def get(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Values and which of them are there; None if the table has no such column."""
        values = self.table.get(name)
        if values is None or len(values) == 0:
            return None
        return values[self.rows], self.rows >= 0


def _array(found: tuple[np.ndarray, np.ndarray] | None, column: Column, num: int) -> pa.Array:
    """Arrow array of a column; where nothing was found null, or NaN if null may not be."""
    if found is None:
        return pa.nulls(num, arrow_type(column)) if column.nullable else pa.array(np.full(num, np.nan))
    values, there = found
    return pa.array(values, mask=~there).cast(arrow_type(column))


def _summarise(exposures: Table, targetid: np.ndarray) -> "_Joined":
    """First and last exposure of each target, and sums over those without FIBERSTATUS bits."""
    needed = EXPOSURE_COLUMNS[:-1]
    if any(name not in exposures for name in needed) or not len(exposures["TARGETID"]):
        return _Joined({}, np.full(len(targetid), -1))
    order = np.lexsort([exposures[name] for name in ("EXPID", "NIGHT", "TARGETID")])
    ordered = {name: values[order] for name, values in exposures.items()}
    start, stop = (np.searchsorted(ordered["TARGETID"], targetid, side=side) for side in ("left", "right"))
    there = start < stop
    first, last = np.where(there, start, 0), np.where(there, stop - 1, 0)
    good = ordered["FIBERSTATUS"] == 0 if "FIBERSTATUS" in ordered else np.ones(len(order), bool)
    found = {
        **{name: ordered[name][first] for name in ("TILEID", "FIBER", "PETAL_LOC")},
        "NIGHT": ordered["NIGHT"][last],
        "NUMEXP": _sums(good, start, stop).astype(np.int32),
        "EXPTIME": _sums(ordered["EXPTIME"] * good, start, stop),
    }
    return _Joined(found, np.where(there, np.arange(len(targetid)), -1))


def _sums(values: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return total[stop] - total[start]
