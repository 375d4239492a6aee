"""Columns of spectra that several steps and models declare, each said once. Nothing but `engine.column`."""

from engine.column import Column

FLAGS = Column("flags", "int32", "Bits of engine.flags", ucd="meta.code")
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
