"""One band's image in its file: grid, unit, and rows as a calibrated plane."""

from dataclasses import dataclass

import numpy as np

from engine.errors import SourceError
from engine.fits import FitsContents, read_headers, read_rows
from engine.fitsdata import decoding
from engine.images.calibration import UNIT_KEYS, unit_factor
from engine.images.planes import Plane, make_plane, weight_to_error
from engine.images.wcs import Grid, grid_of
from engine.storage import Storage
from engine.units import FileRef

IMAGES = ("PRIMARY", "SCI", "ERR", "WHT")
"""EXTNAMEs that hold the image (SCI, or PRIMARY where it has data), its error and its weight."""


@dataclass(frozen=True)
class BandImage:
    """Where and what a band's image is.

    `factor` times the file's values is nJy a pixel on `grid`; `extension` is the HDU with the image; `weight` is
    the file with inverse variances, where they have one of their own.
    """

    ref: FileRef
    weight: FileRef | None
    extension: str
    grid: Grid
    factor: float


def open_band(
    storage: Storage, ref: FileRef, weight: FileRef | None, default_unit: str
) -> tuple[BandImage, int]:
    """Read the headers of a mosaic; also return how many bytes they have.

    Raises
    ------
    SourceError
        With reason `bad_wcs`, `bad_unit`, `unsupported_layout`, or what the file itself suffers from.
    """
    contents = read_headers(storage, ref.uri, ref.size, ("SCI",))
    return describe(contents, ref, weight, default_unit), contents.bytes_used


def describe(contents: FitsContents, ref: FileRef, weight: FileRef | None, default_unit: str) -> BandImage:
    """Find image, grid and unit from the headers; errors as `open_band`."""
    extension = "SCI" if "SCI" in contents.hdus else "PRIMARY"
    with decoding(f"{ref.uri}[{extension}]"):
        return _describe(contents, extension, ref, weight, default_unit)


def _describe(
    contents: FitsContents, extension: str, ref: FileRef, weight: FileRef | None, default_unit: str
) -> BandImage:
    header = contents.header(extension)
    where = f"{ref.uri}[{extension}]"
    if header.get("NAXIS") != 2 and header.get("ZNAXIS") != 2:
        got, expected = ", ".join(contents.names), "an image of two axes in SCI or PRIMARY"
        raise SourceError("holds no image", ref.uri, got, expected, reason="unsupported_layout")
    if header.get("ZIMAGE") is True:
        header = header.copy()
        header["NAXIS1"], header["NAXIS2"] = header["ZNAXIS1"], header["ZNAXIS2"]
    grid = grid_of(header, where)
    primary = contents.header("PRIMARY")
    said = {key: header.get(key, primary.get(key)) for key in UNIT_KEYS}
    return BandImage(ref, weight, extension, grid, unit_factor(said, grid.area_sr, where, default_unit))


def read_plane(storage: Storage, band: BandImage, rows: tuple[int, int]) -> tuple[Plane, bool, int]:
    """Read rows of a band.

    Returns
    -------
    plane
        The rows, calibrated.
    has_error
        Whether the noise is known.
    used
        Bytes that were needed.
    """
    wanted = (band.extension, "ERR", "WHT") if band.weight is None else (band.extension,)
    contents = read_rows(storage, band.ref.uri, band.ref.size, wanted, rows)
    images, used = dict(contents.images), contents.bytes_used
    if band.weight is not None:
        weights = read_rows(storage, band.weight.uri, band.weight.size, ("PRIMARY", "WHT", "SCI"), rows)
        used += weights.bytes_used
        images["ERR"] = weight_to_error(_only_image(weights, band.weight))
    return (*plane_of(images, band, rows[0]), used)


def plane_of(images: dict[str, np.ndarray], band: BandImage, y0: int) -> tuple[Plane, bool]:
    """Return images by EXTNAME as a plane whose first row is `y0`, and whether the noise is known."""
    science, error, weight = (images.get(name) for name in (band.extension, "ERR", "WHT"))
    if science is None:
        what = f"{band.extension} is no image"
        raise SourceError(what, band.ref.uri, reason="unsupported_layout")
    for name, other in (("ERR", error), ("WHT", weight)):
        if other is not None and other.shape != science.shape:
            what = f"{name} is not of the shape of {band.extension}"
            got, expected = str(other.shape), str(science.shape)
            raise SourceError(what, band.ref.uri, got, expected, reason="unsupported_layout")
    return make_plane(science, error, weight, band.factor, y0), error is not None


def _only_image(contents: FitsContents, ref: FileRef) -> np.ndarray:
    if not contents.images:
        names = ", ".join(contents.names)
        raise SourceError("holds no weights", ref.uri, names, "one image", reason="unsupported_layout")
    return next(iter(contents.images.values()))
