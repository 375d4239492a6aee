"""What a synthetic release consists of: its configuration, its files, and the columns of its truth."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from engine.column import Column
from engine.config import Config
from engine.sources.desi_layout import coadd_path, healpix_to_uniqpix
from engine.synthetic.anomalies import KINDS
from engine.synthetic.population import SimulateConfig

Damage = Literal["", "truncated_coadd", "missing_redrock", "missing_camera", "not_fits"]

HEALPIX_ORDER = 6
"""Order of the pixels that group released coadds: NSIDE 64."""
NUM_CELLS = 12 * 4**HEALPIX_ORDER
CELL_STRIDE = 6151
"""Successive files lie this many pixels apart; coprime to their number, so that none comes twice."""
FIRST_CELL = 23040
FIBERS_PER_PETAL, NUM_PETALS = 500, 10
FAULTY_FIBERS = range(2250, 2275)
"""Fibres of petal 4 on which `hardware_fraction` of the arm offsets are found."""
DAMAGES: tuple[Damage, ...] = ("truncated_coadd", "missing_redrock", "missing_camera", "not_fits")
MAX_FILES = 1 << 20
MAX_ROWS = 1 << 12

TRUTH_COLUMNS: tuple[Column, ...] = (
    Column("targetid", "int64", "Unique target identifier", ucd="meta.id;meta.main"),
    Column("survey", "string", "Survey"),
    Column("program", "string", "Observing program"),
    Column("path", "string", "Coadd below the release's root"),
    Column("row", "int32", "Row in the coadd, from 0"),
    Column("damage", "string", "What is wrong with the files on purpose, empty if nothing"),
    Column("objtype", "string", "TGT, or SKY for a sky fibre"),
    Column("fiberstatus", "int32", "COADD_FIBERSTATUS bits"),
    Column("ra", "float64", "Right ascension, ICRS", "deg", ucd="pos.eq.ra;meta.main"),
    Column("dec", "float64", "Declination, ICRS", "deg", ucd="pos.eq.dec;meta.main"),
    Column("fiber", "int32", "Fibre, 0 to 4999"),
    Column("target", "string", "Class that was simulated: BGS, LRG, ELG, QSO or STAR, empty for sky"),
    Column("spectype", "string", "GALAXY, QSO or STAR, empty for sky"),
    Column("subtype", "string", "Subclass of quasars and stars"),
    Column("z", "float64", "True redshift", ucd="src.redshift"),
    Column("z_reported", "float64", "Redshift in the redrock file"),
    Column("zwarn", "int64", "Redrock warning bits"),
    Column("rmag", "float32", "AB magnitude in r of the light in the fibre", "mag"),
    Column("snr", "float32", "Median signal-to-noise a pixel", ucd="stat.snr"),
    Column("anomaly", "string", "Kind of the injected anomaly, empty if none"),
    Column("family", "string", "artefact or physical, empty if no anomaly"),
    Column("strength", "float32", "Strength of the anomaly in the unit of its kind"),
)  # fmt: skip
"""One row a spectrum, sky fibres too; key (survey, program, targetid)."""


class SynthesizeConfig(Config):
    """Size, content and faults of a synthetic DESI release."""

    num_spectra: int = Field(default=5000, ge=1)
    """Rows of all coadds together, sky fibres included."""
    spectra_per_file: int = Field(default=200, ge=1, le=MAX_ROWS)
    """Rows of a coadd; the last one holds what is left."""
    seed: int = Field(default=1, ge=0)
    """The same seed gives the same release, byte for byte; other seeds give other TARGETIDs too."""
    layout: Literal["healpix", "uniqpix", "tiles", "flat"] = "healpix"
    """Folders as in `engine.sources.desi_layout`."""
    survey: str = Field(default="main", pattern=r"^[a-z]+\d?$")
    """Name of the survey in paths and headers."""
    anomaly_fraction: float = Field(default=0.02, ge=0, le=1)
    """Share of the targets with an injected anomaly; kinds are equally likely where they can occur."""
    anomaly_kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds to inject, see `engine.synthetic.anomalies.KINDS`."""
    hardware_fraction: float = Field(default=0.7, ge=0, le=1)
    """Share of the arm offsets that sits on the fibres `FAULTY_FIBERS`, for rates by fibre to find."""
    sky_fraction: float = Field(default=0.04, ge=0, le=1)
    """Share of the rows that are sky fibres (OBJTYPE = SKY)."""
    bad_fiber_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of the rows with a COADD_FIBERSTATUS bit and no data."""
    zwarn_fraction: float = Field(default=0.03, ge=0, le=1)
    """Share of the targets with ZWARN = 4 (small delta chi2)."""
    negative_targetids: bool = False
    """Give bad fibres TARGETID < 0 and no OBJTYPE, as productions up to 2021 did."""
    exptime_s: float = Field(default=1000.0, gt=0)
    """Effective exposure time of one visit [s]."""
    num_broken_files: int = Field(default=0, ge=0)
    """Files damaged on purpose, spread evenly, in turn: see `DAMAGES`."""
    with_resolution: bool = False
    """Write the RESOLUTION HDUs: five times the bytes, as in real coadds."""
    compress_mask: bool = False
    """Write the MASK HDUs tile-compressed, as recent productions do."""
    bases_uri: str = ""
    """Folder of redrock templates (`rrtemplate-*.fits`) for `bases_fraction` of the objects."""
    bases_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the objects drawn from real bases; needs `bases_uri`."""

    @field_validator("anomaly_kinds")
    @classmethod
    def _check_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kind {', '.join(unknown)}; known: {', '.join(KINDS)}")
        return kinds


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One coadd with its redrock file: where it lies, what it covers, how many rows it has."""

    index: int
    num_rows: int
    survey: str
    program: str
    cell: int
    tileid: int
    petal: int | None
    night: int
    path: str
    damage: Damage

    @property
    def redrock_path(self) -> str:
        """Path of the redrock file beside the coadd."""
        folder, slash, name = self.path.rpartition("/")
        return f"{folder}{slash}redrock-{name.removeprefix('coadd-')}"


def task_count(config: SynthesizeConfig) -> int:
    """Return the number of coadds of the release."""
    return -(-config.num_spectra // config.spectra_per_file)


def plan_file(config: SynthesizeConfig, index: int) -> FilePlan:
    """Describe file `index`, 0 to `task_count` - 1. Every third is of bright time.

    Raises
    ------
    ValueError
        If there is no such file, or the layout has no room for it.
    """
    count = task_count(config)
    room = MAX_FILES if config.layout == "tiles" else NUM_CELLS
    if not 0 <= index < count or count > room:
        raise ValueError(f"file {index} of {count}: layout '{config.layout}' has room for {room} files")
    program = "bright" if index % 3 == 1 else "dark"
    cell = (FIRST_CELL + index * CELL_STRIDE) % NUM_CELLS
    in_tiles = config.layout == "tiles"
    tileid = 1000 + (index // NUM_PETALS if in_tiles else index % 8000)
    petal = index % NUM_PETALS if in_tiles else None
    if in_tiles:
        program = "bright" if tileid % 3 == 1 else "dark"
    night = 20210514 + tileid % 17
    left = config.num_spectra - index * config.spectra_per_file
    return FilePlan(
        index, min(left, config.spectra_per_file), config.survey, program, cell, tileid, petal, night,
        _coadd_path(config, program, cell, tileid, petal, night), _damage(config, index),
    )  # fmt: skip


def _coadd_path(
    config: SynthesizeConfig, program: str, cell: int, tileid: int, petal: int | None, night: int
) -> str:
    if config.layout == "tiles":
        return f"tiles/cumulative/{tileid}/{night}/coadd-{petal}-{tileid}-thru{night}.fits"
    if config.layout == "flat":
        return f"coadd-{config.survey}-{program}-{cell}.fits"
    pixel = cell
    if config.layout == "uniqpix":
        pixel = healpix_to_uniqpix(HEALPIX_ORDER, cell)
    return coadd_path(config.layout, config.survey, program, pixel)


def _damage(config: SynthesizeConfig, index: int) -> Damage:
    """Damage of a file: the k-th of n broken ones stands at (k + 1/2) / n of the release."""
    count, num = task_count(config), min(config.num_broken_files, task_count(config))
    broken = [(2 * k + 1) * count // (2 * num) for k in range(num)]
    return DAMAGES[broken.index(index) % len(DAMAGES)] if index in broken else ""


def simulate_config(config: SynthesizeConfig, program: str) -> SimulateConfig:
    """Return what to simulate for a program of the release."""
    return SimulateConfig(
        program=program,
        anomaly_fraction=config.anomaly_fraction,
        anomaly_kinds=config.anomaly_kinds,
        exptime_s=config.exptime_s,
        bases_fraction=config.bases_fraction,
    )
