"""Rows of single galaxies' images without a common sky: columns, and their preparation for a generator."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic import Field

from engine.column import Column
from engine.images.columns import OBJECT_ID, Z
from engine.rows import DEC, FLAGS, RA, SOURCE_ROW, SOURCE_URI
from engine.stage import PrepareConfig, Resources, UnitTable

DATASET = Column("field", "string", "Data set that the image is of")
"""Named as the field of other images: with `object_id` it is what `rejected` knows an object by."""


def image_column(size: int, channels: int = 1) -> Column:
    """Column `image` of `channels` x `size` x `size` pixels, flat in order channel, y, x."""
    text = "Brightness a pixel in the unit of the set; order channel, y, x"
    return Column("image", "float32", text, "", channels * size * size, packed=True)


PARAMETERS: tuple[Column, ...] = (
    Column("x_arcsec", "float64", "Centre right of the middle of the image", "arcsec", nullable=True),
    Column("y_arcsec", "float64", "Centre above the middle of the image", "arcsec", nullable=True),
    Column("half_light_radius_arcsec", "float64", "Circularised half-light radius", "arcsec", nullable=True),
    Column("sersic_n", "float64", "Sersic index", nullable=True),
    Column("axis_ratio", "float64", "Minor to major axis", nullable=True),
    Column("position_angle_deg", "float64", "Major axis from +x towards +y, 0 to 180", "deg", nullable=True),
    Column("magnitude", "float64", "AB magnitude in the band of the set", "mag", nullable=True, ucd="phot.mag"),
)  # fmt: skip
"""What may be known of a galaxy; null where its set does not say."""

FACTS: tuple[Column, ...] = (replace(RA, nullable=True), replace(DEC, nullable=True), Z, *PARAMETERS)
"""`PARAMETERS`, and where the object is if it is anywhere."""


def galaxy_columns(size: int, channels: int = 1) -> tuple[Column, ...]:
    """Columns of a source of galaxies whose images have `size` pixels a side."""
    scale = Column("pixel_scale", "float32", "Side of a pixel", "arcsec", nullable=True)
    return (
        OBJECT_ID,
        DATASET,
        SOURCE_URI,
        SOURCE_ROW,
        scale,
        *FACTS,
        FLAGS,
        image_column(size, channels),
    )


class GalaxyPrep(PrepareConfig):
    """How images are prepared: as the source gives them, of one size."""

    size: int = Field(default=256, ge=8)
    """Side of the images [pixel]; `release.settings.size` must be the same."""
    channels: int = Field(default=1, ge=1)
    """Channels of the images: 5 for source `skirt`."""

    @property
    def stage(self) -> "PrepareGalaxies":
        """The stage that prepares so."""
        return PrepareGalaxies(self)


@dataclass(frozen=True)
class PrepareGalaxies:
    """Stage: makes sure that images are of the size that is set; sources have rejected what is no image."""

    config: GalaxyPrep = field(default_factory=GalaxyPrep)
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "prepare"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Images of the size that is set."""
        return (image_column(self.config.size, self.config.channels), FLAGS)

    @property
    def provides(self) -> tuple[Column, ...]:
        """The same images, and flags."""
        return self.requires

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return _as_they_are


def _as_they_are(table: UnitTable) -> UnitTable:
    return table
