"""What every source of images gives: the same columns, keyed by field and object."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.column import Column
from engine.config import Config
from engine.images.prepare import CutoutPrep
from engine.sources.base import Source
from engine.sources.nircam_config import ImageConfig
from engine.stage import PrepareConfig


@dataclass(frozen=True)
class ImageSource(Source):
    """A release of images: one row a source, with cutouts of all bands on one grid."""

    config: ImageConfig = field(default_factory=ImageConfig)
    config_class: ClassVar[type[Config]] = ImageConfig
    prepare_class: ClassVar[type[PrepareConfig]] = CutoutPrep
    split_by: ClassVar[str] = "object_id"

    @property
    def staged(self) -> tuple[str, ...]:
        """What training or its diagnosis needs, and the numbers of the catalogue that are asked for."""
        return (
            "object_id", "field", "ra", "dec", "z", "label", "source_uri", "source_row", "dx", "dy", "pixel_scale",
            "coverage", "flags", *self.config.asked_quantities,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[Column, ...]:
        """`image_columns` of the size that is set, and numbers of the catalogue."""
        return self.config.columns
