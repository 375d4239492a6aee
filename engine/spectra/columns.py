"""Columns of spectra, each said once. Models declare theirs with these too: no library but numpy in here."""

from engine.column import Column
from engine.rows import DEC, FLAGS, RA, SOURCE_ROW, SOURCE_URI
from engine.spectra.grid import NUM_PIXELS

TARGETID = Column("targetid", "int64", "Unique target identifier", ucd="meta.id;meta.main")
Z = Column("z", "float64", "Redshift", nullable=True, ucd="src.redshift")
SPECTYPE = Column("spectype", "string", "Redrock class: GALAXY, QSO or STAR", nullable=True, ucd="src.class")
NORM = Column(
    "norm", "float32", "Flux scale that the model's input was divided by", "1e-17 erg / (s cm2 Angstrom)"
)


def model_input(num_pixels: int) -> tuple[Column, Column]:
    """Columns `flux` and `ivar` of prepared spectra, as a model gets them, on a grid of so many pixels."""
    return (
        Column("flux", "float32", "Flux in units of norm", length=num_pixels),
        Column("ivar", "float32", "Inverse variance of flux, 0 where unusable", length=num_pixels),
    )


SPECTRUM_COLUMNS: tuple[Column, ...] = (
    TARGETID,
    Column("survey", "string", "Survey the spectrum belongs to (sv1, sv3, main, ...)"),
    Column("program", "string", "Observing program (dark, bright, backup, other)"),
    RA,
    DEC,
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
    SOURCE_URI,
    SOURCE_ROW,
    Column("num_good_pixels", "int32", "Pixels with ivar > 0 on the common grid"),
    Column("snr", "float32", "Median signal-to-noise per pixel over usable pixels", ucd="stat.snr"),
    FLAGS,
    Column("flux", "float32", "Flux on the common grid", "1e-17 erg / (s cm2 Angstrom)", NUM_PIXELS),
    Column("ivar", "float32", "Inverse variance of flux, 0 where unusable",
           "1e34 s2 cm4 Angstrom2 / erg2", NUM_PIXELS),
)  # fmt: skip
"""One row a spectrum, arms merged, on `engine.spectra.grid.WAVE_OBS`."""
