"""What every source of images gives: the same columns, keyed by field and object."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.column import Column
from engine.config import Config
from engine.images.columns import image_columns
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
    staged: ClassVar[tuple[str, ...]] = (
        "object_id", "field", "ra", "dec", "z", "label", "source_uri", "source_row", "dx", "dy", "pixel_scale",
        "coverage", "flags",
    )  # fmt: skip

    @property
    def columns(self) -> tuple[Column, ...]:
        """`image_columns` of the size that is set."""
        return image_columns(self.config.size)
