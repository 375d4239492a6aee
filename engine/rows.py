"""Columns that rows of all kinds share, each said once: where a row is from, what names its object, its flags."""

from engine.column import Column

RA = Column("ra", "float64", "Right ascension, ICRS", "deg", ucd="pos.eq.ra;meta.main")
DEC = Column("dec", "float64", "Declination, ICRS", "deg", ucd="pos.eq.dec;meta.main")
SOURCE_URI = Column("source_uri", "string", "File that the row was read from", ucd="meta.ref.url")
SOURCE_ROW = Column("source_row", "int32", "Row in that file, from 0")
FLAGS = Column("flags", "int32", "Bits of engine.flags", ucd="meta.code")

IDENTITY: tuple[Column, ...] = (
    Column("targetid", "int64", "DESI TARGETID of the object", nullable=True, ucd="meta.id"),
    Column("survey", "string", "DESI survey", nullable=True),
    Column("program", "string", "DESI program", nullable=True),
    Column("field", "string", "Field that the image is of", nullable=True),
    Column("object_id", "int64", "Identifier of the object in its field", nullable=True, ucd="meta.id"),
)
"""What names an object in `rejected`, the same columns in every catalogue: spectra have the first three,
images the last two."""
