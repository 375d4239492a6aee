"""Columns of a row that holds one source's cutouts in all bands."""

from collections.abc import Mapping

from engine.column import Column
from engine.images.bands import BANDS
from engine.rows import DEC, FLAGS, RA, SOURCE_ROW, SOURCE_URI

_NUM = len(BANDS)
_ORDER = f"bands {' '.join(BANDS)}"

OBJECT_ID = Column("object_id", "int64", "Identifier of the object in its field", ucd="meta.id;meta.main")
FIELD = Column("field", "string", "Field that the image is of")
Z = Column("z", "float64", "Redshift", nullable=True, ucd="src.redshift")
DX = Column("dx", "float32", "Source's x minus size // 2, 0-based pixels, -0.5 to 0.5", "pixel")
DY = Column("dy", "float32", "Source's y minus size // 2, 0-based pixels, -0.5 to 0.5", "pixel")
PIXEL_SCALE = Column("pixel_scale", "float32", "Side of a pixel of the common grid", "arcsec")
UNKNOWN_LABEL = -1
LABEL = Column("label", "int8", f"Class that a catalogue gives the object, {UNKNOWN_LABEL}: none")


def pixel_columns(size: int) -> tuple[Column, Column, Column]:
    """Columns `science`, `error` and `mask` of cutouts of `size` pixels a side, flat in order band, y, x."""
    length = _NUM * size * size
    return (
        Column(
            "science",
            "float32",
            f"Flux a pixel, 0 where masked; {_ORDER}, then y, x",
            "nJy",
            length,
            packed=True,
        ),
        Column("error", "float32", "1 sigma of science, 0 where masked", "nJy", length, packed=True),
        Column("mask", "bool", "True where a pixel must not be used", "", length, packed=True),
    )


def quantity_columns(quantities: Mapping[str, str]) -> tuple[Column, ...]:
    """Columns of numbers that a catalogue of sources gives, by name of the column there; units are those that it has."""
    text = "Column {} of the catalogue of sources, null where it has no number"
    return tuple(Column(n, "float64", text.format(there), nullable=True) for n, there in quantities.items())


def image_columns(size: int) -> tuple[Column, ...]:
    """Columns of a source of images: cutouts of `size` pixels a side on one common tangent-plane grid.

    The WCS of a cutout is its common grid's: TAN, ICRS, reference pixel counted from 1 at the cutout's
    first pixel as in FITS. `source_uri` is the file of the band that gave the grid, `source_row` the row in the
    catalogue or index, or the order of detection in the unit.
    """
    return (
        OBJECT_ID,
        FIELD,
        RA,
        DEC,
        Z,
        LABEL,
        SOURCE_URI,
        SOURCE_ROW,
        DX,
        DY,
        PIXEL_SCALE,
        Column("wcs_crpix", "float64", "CRPIX1, CRPIX2 relative to the cutout, from 1", "pixel", 2),
        Column("wcs_crval", "float64", "CRVAL1, CRVAL2: tangent point, ICRS", "deg", 2),
        Column("wcs_cd", "float64", "CD1_1, CD1_2, CD2_1, CD2_2", "deg / pixel", 4),
        Column("unit_factor", "float64", "nJy a pixel for 1 in the file; NaN without file", "nJy", _NUM),
        Column("resampling", "int16", "0 native, 2 binned 2x2, -1 reprojected, -9 band absent", "", _NUM),
        Column("coverage", "float32", "Fraction of the cutout's pixels that are usable", "", _NUM),
        FLAGS,
        *pixel_columns(size),
    )
