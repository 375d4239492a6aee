"""Columns of a row that holds one source's cutouts in all bands."""

from engine.column import Column
from engine.images.bands import BANDS

_NUM = len(BANDS)
_ORDER = f"bands {' '.join(BANDS)}"

IDENTITY = (
    Column("object_id", "int64", "Identifier of the source in its field", ucd="meta.id;meta.main"),
    Column("field", "string", "Field (mosaic or set of cutouts) the source was cut from"),
)
DX = Column("dx", "float32", "Source's x minus size // 2, 0-based pixels, -0.5 to 0.5", "pixel")
DY = Column("dy", "float32", "Source's y minus size // 2, 0-based pixels, -0.5 to 0.5", "pixel")
PIXEL_SCALE = Column("pixel_scale", "float32", "Side of a pixel of the common grid", "arcsec")


def pixel_columns(size: int) -> tuple[Column, Column, Column]:
    """Columns `science`, `error` and `mask` of cutouts of `size` pixels a side, flat in order band, y, x."""
    length = _NUM * size * size
    return (
        Column("science", "float32", f"Flux a pixel, 0 where masked; {_ORDER}, then y, x", "nJy", length),
        Column("error", "float32", "1 sigma of science, 0 where masked", "nJy", length),
        Column("mask", "bool", "True where a pixel must not be used", "", length),
    )


def image_columns(size: int) -> tuple[Column, ...]:
    """Columns of a source of images: cutouts of `size` pixels a side on one common tangent-plane grid.

    The WCS of a cutout is its common grid's: TAN, ICRS, reference pixel counted from 1 at the cutout's
    first pixel as in FITS.
    """
    return (
        *IDENTITY,
        Column("ra", "float64", "Right ascension, ICRS", "deg", ucd="pos.eq.ra;meta.main"),
        Column("dec", "float64", "Declination, ICRS", "deg", ucd="pos.eq.dec;meta.main"),
        Column("z", "float64", "Redshift", nullable=True, ucd="src.redshift"),
        Column("source_uri", "string", "File of the band that gave the common grid", ucd="meta.ref.url"),
        Column("source_row", "int32", "Row in the catalogue or index, or order of detection, from 0"),
        DX,
        DY,
        PIXEL_SCALE,
        Column("wcs_crpix", "float64", "CRPIX1, CRPIX2 relative to the cutout, from 1", "pixel", 2),
        Column("wcs_crval", "float64", "CRVAL1, CRVAL2: tangent point, ICRS", "deg", 2),
        Column("wcs_cd", "float64", "CD1_1, CD1_2, CD2_1, CD2_2", "deg / pixel", 4),
        Column("unit_factor", "float64", "nJy a pixel for 1 in the file; NaN without file", "nJy", _NUM),
        Column("resampling", "int16", "0 native, 2 binned 2x2, -1 reprojected, -9 band absent", "", _NUM),
        Column("coverage", "float32", "Fraction of the cutout's pixels that are usable", "", _NUM),
        Column("flags", "int32", "Bits of engine.flags", ucd="meta.code"),
        *pixel_columns(size),
    )
