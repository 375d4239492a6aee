"""What every source is, and what every source of spectra gives, whatever the files look like."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa

from engine.column import Column
from engine.config import Config
from engine.spectra.columns import FLAGS, SPECTYPE, Z
from engine.spectra.grid import NUM_PIXELS
from engine.spectra.prepare import SpectrumPrep
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import Unit

SPECTRUM_COLUMNS: tuple[Column, ...] = (
    Column("targetid", "int64", "Unique target identifier", ucd="meta.id;meta.main"),
    Column("survey", "string", "Survey the spectrum belongs to (sv1, sv3, main, ...)"),
    Column("program", "string", "Observing program (dark, bright, backup, other)"),
    Column("ra", "float64", "Right ascension, ICRS", "deg", ucd="pos.eq.ra;meta.main"),
    Column("dec", "float64", "Declination, ICRS", "deg", ucd="pos.eq.dec;meta.main"),
    Z,
    Column("zerr", "float64", "Uncertainty of the redshift", nullable=True, ucd="stat.error;src.redshift"),
    Column("zwarn", "int64", "Redrock warning bits", nullable=True, ucd="meta.code"),
    SPECTYPE,
    Column("subtype", "string", "Redrock subclass", nullable=True),
    Column("deltachi2", "float64", "Chi2 difference to the next best redshift", nullable=True),
    Column("tileid", "int32", "Tile of the first exposure", nullable=True),
    Column("petal", "int16", "Petal (spectrograph) 0-9", nullable=True),
    Column("fiber", "int32", "Fibre of the first exposure", nullable=True),
    Column("night", "int32", "Night of the last exposure, YYYYMMDD", nullable=True),
    Column("num_exposures", "int32", "Number of exposures in the coadd", nullable=True),
    Column("exptime", "float32", "Summed exposure time", "s", nullable=True),
    Column("tsnr2", "float32", "Template signal-to-noise squared (TSNR2_LRG)", nullable=True),
    Column("fiberstatus", "int32", "COADD_FIBERSTATUS bits", nullable=True, ucd="meta.code"),
    Column("desi_target", "int64", "DESI_TARGET bits of the survey", nullable=True, ucd="meta.code"),
    Column("source_uri", "string", "File that the spectrum was read from", ucd="meta.ref.url"),
    Column("source_row", "int32", "Row in that file, from 0"),
    Column("num_good_pixels", "int32", "Pixels with ivar > 0 on the common grid"),
    Column("snr", "float32", "Median signal-to-noise per pixel over usable pixels", ucd="stat.snr"),
    FLAGS,
    Column("flux", "float32", "Flux on the common grid", "1e-17 erg / (s cm2 Angstrom)", NUM_PIXELS),
    Column("ivar", "float32", "Inverse variance of flux, 0 where unusable",
           "1e34 s2 cm4 Angstrom2 / erg2", NUM_PIXELS),
)  # fmt: skip
"""One row a spectrum, arms merged, on `engine.spectra.grid.WAVE_OBS`."""


class NoSettings(Config):
    """Settings of a source that has none."""


@dataclass(frozen=True)
class Source(ABC):
    """A kind of release. Picklable; faults of files and objects become rejections, never errors.

    Parameters
    ----------
    uri
        Where the release is.
    storage
        How to reach it.
    config
        Selection and cuts, an instance of `config_class`.
    """

    uri: str
    storage: StorageOptions = field(default_factory=StorageOptions)
    config: Config = field(default_factory=NoSettings)
    _storage: Storage = field(init=False, repr=False, compare=False)

    config_class: ClassVar[type[Config]] = NoSettings
    """What `[release.settings]` of this source may say."""
    prepare_class: ClassVar[type[SpectrumPrep]] = SpectrumPrep
    """What `[prepare]` may say: its `stage` makes the rows ready for a model."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_storage", Storage(self.storage))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the rows that `read` returns."""
        return SPECTRUM_COLUMNS

    @property
    def salt(self) -> dict[str, Any]:
        """What of the settings changes rows: units of other settings are computed anew."""
        return self.config.model_dump(mode="json")

    @abstractmethod
    def plan(self) -> Iterator[Unit]:
        """List the release lazily and yield its units in a fixed order, without ids."""

    def read(self, unit: Unit) -> UnitTable:
        """Read one unit: each object becomes a row or a rejection; `stats` tells bytes fetched and used."""
        before = self._storage.bytes_fetched
        table, used = self._read(unit)
        fetched = self._storage.bytes_fetched - before
        missing = [Rejection(uri, "not_found", "expected, but it is not there") for uri in unit.missing]
        rejected = pa.concat_tables([rejected_table(missing), table.rejected])
        stats = {"bytes_fetched": float(fetched), "bytes_used": float(used)}
        return replace(table, rejected=rejected, stats=stats)

    @abstractmethod
    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read the files that are there; also return how many of their bytes were needed."""
