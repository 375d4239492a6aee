"""Settings of the sources of NIRCam images."""

import operator
import re
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from engine.column import Column
from engine.config import Config
from engine.images.bands import BANDS, Band
from engine.images.columns import image_columns, quantity_columns
from engine.images.detect import DetectConfig


def _check_names(quantities: dict[str, str]) -> dict[str, str]:
    taken = {column.name for column in image_columns(1)}
    for name in quantities:
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in taken:
            raise ValueError(
                f"{name}: must be lower case letters, digits and _, and none of the columns that all cutouts have"
            )
    return quantities


Quantities = Annotated[dict[str, str], AfterValidator(_check_names)]
"""Numbers of a table of sources to stage beside the cutouts, such as S/N, flux or size, which a generator can be
conditioned on: name of the staged column, and of the table's."""


class ImageConfig(Config):
    """What sources of images have in common."""

    bands: tuple[Band, ...] = BANDS
    """Bands to read; the others count as absent. Rows have six bands in any case."""
    size: int = Field(default=96, ge=8, le=2048)
    """Side of a cutout [pixel of the common grid]."""
    reference_band: Band = "f444w"
    """Band whose pixels are the common grid; where it has no file, the reddest that has one. Of the grids in one
    field take the coarsest: finer ones are binned exactly, coarser ones must be reprojected."""
    require_all_bands: bool = False
    """Reject objects that lack the file of a band (missing_band), instead of flagging them."""
    unit: str = ""
    """Unit of pixels where files do not say (no BUNIT, PHOTFNU or ZP), e.g. MJy/sr; empty: reject them."""

    @field_validator("bands")
    @classmethod
    def _in_order(cls, value: tuple[Band, ...]) -> tuple[Band, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("give at least one band, each once")
        return tuple(band for band in BANDS if band in value)

    @property
    def asked_quantities(self) -> dict[str, str]:
        """`Quantities` of the table of sources."""
        return {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of rows."""
        return (*image_columns(self.size), *quantity_columns(self.asked_quantities))


class LabelConfig(Config):
    """Classes of objects, to train on or to compare with: a column of names, or of the numbers themselves."""

    column: str
    """Column with the class; empty or null where it is not known."""
    values: dict[str, int] = Field(
        default={"disk": 1, "spheroid": 0, "irregular": 0, "peculiar": 0, "ambiguous": -1}
    )
    """`label` of each name. Every name that the column holds must be here; -1 for those not to be used."""
    where: str = ""
    """Column of booleans: an object has a label only where it is true. Empty: all have."""

    @field_validator("values")
    @classmethod
    def _fit_the_column(cls, values: dict[str, int]) -> dict[str, int]:
        wrong = [f"{name} = {value}" for name, value in values.items() if not -1 <= value <= 127]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: must be -1 (not used) or 0 to 127")
        return values


class CatalogueConfig(Config):
    """A table of sources: Parquet, FITS, ECSV or CSV, by the ending of its name."""

    uri: str
    """Where it is."""
    ra: str = "ra"
    """Column with right ascension, ICRS [deg unless the table states a unit]."""
    dec: str = "dec"
    """Column with declination, ICRS [deg unless the table states a unit]."""
    id: str = ""
    """Column with integer identifiers; empty, or not integers: HEALPix of order 29 of the position."""
    z: str = ""
    """Column with redshifts; empty: none."""
    field: str = ""
    """Column that names the field of a source; empty: every field is searched for every source."""
    label: LabelConfig | None = None
    """Classes, where the table has some."""
    quantities: Quantities = Field(default={}, exclude_if=operator.not_)
    """Numbers of the table to stage, for example `snr = "SNR_F444W"`."""


class PsfConfig(Config):
    """Convolve all bands to the PSF of F444W."""

    uri: str
    """Folder with one FITS file a band, named for it; its image HDU has PIXELSCL [arcsec]."""
    extension: str = "PRIMARY"
    """HDU with the PSF."""
    resample: bool = False
    """Interpolate PSFs of another pixel scale than the common grid's, instead of refusing them."""
    kernel_size: int = Field(default=101, ge=5)
    """Odd number of pixels of the kernels' side."""


class NircamConfig(ImageConfig):
    """Mosaics in the layouts of STScI and the DAWN JWST Archive (DJA)."""

    catalogue: CatalogueConfig | None = None
    """Sources to cut out; without one they are detected."""
    detection_bands: tuple[Band, ...] = ("f150w",)
    """Bands to detect on; the inverse-variance mean of several."""
    detect: DetectConfig = DetectConfig()
    """Settings of detection."""
    psf: PsfConfig | None = None
    """PSF matching; detection is on matched images then, as in the paper."""
    strip_pixels: int = Field(default=8_000_000, ge=10_000)
    """Pixels of the common grid in a strip, without overlap: what one unit holds at a time."""

    @property
    def asked_quantities(self) -> dict[str, str]:
        """`Quantities` of the catalogue; sources that are detected have none."""
        return self.catalogue.quantities if self.catalogue else {}
