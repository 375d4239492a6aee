"""Read a table of sources: Parquet, FITS, ECSV or CSV."""

import io
import warnings
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
from astropy import units

from engine.errors import ConfigError
from engine.images.columns import UNKNOWN_LABEL
from engine.partition import healpix_29, valid_position
from engine.sources.nircam_config import CatalogueConfig, LabelConfig
from engine.sources.nircam_rows import NO_ID, Objects
from engine.storage import Storage
from engine.units import FileRef


def read_catalogue(storage: Storage, ref: FileRef, config: CatalogueConfig, field: str) -> Objects:
    """Read the sources of a field; as `load_catalogue`."""
    objects, fields = load_catalogue(storage, ref, config)
    return objects if fields is None else objects.take(fields == field)


def is_valid(objects: Objects) -> np.ndarray:
    """Tell which objects have a position."""
    return valid_position(objects.ra, objects.dec)


_kept: dict[str, tuple[Objects, np.ndarray | None]] = {}


def load_catalogue(
    storage: Storage, ref: FileRef, config: CatalogueConfig
) -> tuple[Objects, np.ndarray | None]:
    """Read a table; `row` of its objects counts its rows from 0. Also the column `config.field` as text, if set.

    The last table is kept in this process: the units of a release share one.

    Raises
    ------
    ConfigError
        If it cannot be read or lacks a column that `config` names.
    """
    key = f"{ref} {config!r}"
    if key not in _kept:
        table = _read(storage, ref)
        _kept.clear()
        _kept[key] = _objects(table, config), _strings(table, config)
    return _kept[key]


def _read(storage: Storage, ref: FileRef) -> dict[str, Any]:
    """Columns by name; arrays or astropy columns."""
    name = ref.uri.lower().removesuffix(".gz")
    formats = {".fits": "fits", ".ecsv": "ascii.ecsv"}
    ending = name[name.rfind(".") :]
    data = io.BytesIO(storage.read(ref.uri, 0, ref.size))
    try:
        if ending in (".parquet", ".parq", ".csv"):
            table = pyarrow.csv.read_csv(data) if ending == ".csv" else pyarrow.parquet.read_table(data)
            return {name: table[name].to_numpy() for name in table.column_names if _is_flat(table[name].type)}
        if ending not in formats:
            raise ConfigError(
                "format of the catalogue is not known", ref.uri, ending, "parquet, fits, ecsv, csv"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", units.UnitsWarning)
            from astropy.table import Table  # a second of import that only a catalogue needs

            columns = Table.read(data, format=formats[ending])
        return {name: columns[name] for name in columns.colnames}
    except (OSError, ValueError, pyarrow.ArrowInvalid) as error:
        raise ConfigError("catalogue cannot be read", ref.uri, str(error)) from error


def _is_flat(kind: pyarrow.DataType) -> bool:
    return not pyarrow.types.is_nested(kind)


def _objects(table: dict[str, Any], config: CatalogueConfig) -> Objects:
    wanted = {key: name for key in ("ra", "dec", "id", "z", "field") if (name := getattr(config, key))}
    if config.label:
        wanted |= {"label.column": config.label.column}
        wanted |= {"label.where": config.label.where} if config.label.where else {}
    wanted |= {f"quantities.{name}": there for name, there in config.quantities.items()}
    lacking = [f"{key} = '{name}'" for key, name in wanted.items() if name not in table]
    if lacking:
        raise ConfigError(
            f"catalogue has no column for {', '.join(lacking)}", config.uri, got=", ".join(table),
            expected="names of its columns", hint="Set release.settings.catalogue.ra, .dec, ... to them.",
        )  # fmt: skip
    ra, dec = (_degrees(table[name], config.uri, name) for name in (config.ra, config.dec))
    z = _floats(table[config.z], config.uri, config.z) if config.z else np.full(ra.shape, np.nan)
    label = (
        _labels(table, config.label, config.uri) if config.label else np.full(ra.shape, UNKNOWN_LABEL, "i1")
    )
    quantities = {n: _floats(table[there], config.uri, there) for n, there in config.quantities.items()}
    return Objects(_ids(table.get(config.id), ra, dec), ra, dec, z, np.arange(len(ra)), label, quantities)


def _labels(table: dict[str, Any], config: LabelConfig, uri: str) -> np.ndarray:
    """Labels int8; unknown where the class is empty, or `where` is not true."""
    given = np.ma.filled(np.ma.asarray(table[config.column]).astype(object), None)
    names = ["" if _is_empty(value) else str(value).strip() for value in given]
    numbers = {str(value): value for value in config.values.values()}
    known = numbers | config.values | {"": UNKNOWN_LABEL}
    strange = sorted({name for name in names if name not in known})
    if strange:
        raise ConfigError(
            f"column '{config.column}' holds classes without a label", uri, ", ".join(strange[:5]),
            ", ".join(f"{name} = {value}" for name, value in config.values.items()),
            "Name them in the label's `values`, -1 for those not to be used.",
        )  # fmt: skip
    labels = np.array([known[name] for name in names], np.int8)
    if not config.where:
        return labels
    chosen = np.ma.filled(np.ma.asarray(table[config.where]).astype(object), None)
    is_true = [str(value).strip().lower() in ("true", "1", "1.0") for value in chosen]
    return np.where(is_true, labels, UNKNOWN_LABEL).astype(np.int8)


def _is_empty(value: Any) -> bool:
    return value is None or value != value


def _ids(column: Any, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Integers of the catalogue, else HEALPix of order 29; `NO_ID` where there is no position either."""
    if column is not None and np.asarray(column).dtype.kind in "iu" and not np.ma.is_masked(column):
        return np.asarray(column).astype(np.int64)
    ids, valid = np.full(ra.shape, NO_ID, np.int64), valid_position(ra, dec)
    ids[valid] = healpix_29(ra[valid], dec[valid])
    return ids


def _degrees(column: Any, uri: str, name: str) -> np.ndarray:
    unit = getattr(column, "unit", None)
    values = _floats(column, uri, name)
    try:
        return values if unit is None else np.asarray(units.Quantity(values, unit).to_value(units.deg))
    except units.UnitConversionError:
        raise ConfigError(f"column '{name}' is not an angle", uri, str(unit), "deg") from None


def _floats(column: Any, uri: str, name: str) -> np.ndarray:
    values = np.ma.asarray(column)
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        raise ConfigError(f"column '{name}' is not numbers", uri, str(values.dtype), "one number a row")
    return np.ma.filled(values.astype(np.float64), np.nan)


def _strings(table: dict[str, Any], config: CatalogueConfig) -> np.ndarray | None:
    return np.asarray(table[config.field]).astype(str) if config.field else None
