"""Folders of colour pictures of galaxies (JPEG, PNG), as EFIGI and Galaxy Zoo have them: one galaxy in the middle of each.

References
----------
Baillard et al. (2011), A&A 532, A74: EFIGI, whose pictures are 255 pixels a side.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from engine.config import Config
from engine.errors import ConfigError, SourceError
from engine.sources.galaxies import centre_crop
from engine.sources.galaxy_files import FilesConfig, FilesSource
from engine.units import FileRef

MAX_PIXELS = 1 << 26
"""A picture with more is not decoded."""
UNDECODABLE = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises of a damaged file: each of its decoders has its own way."""


class ColourConfig(FilesConfig):
    """Which pictures are read, and how large they are."""

    ending: str = Field(default=".jpg", pattern=r"^\.[A-Za-z0-9]+$")
    """How names of pictures end; others in the folder are no pictures of galaxies. EFIGI's end in .png."""
    names_uri: str = ""
    """Text file with the names of the pictures to read, one a line, with or without ending; # begins a comment,
    names without a picture are passed over. Empty: all pictures."""
    pixel_arcsec: float = Field(default=0.396, gt=0)
    """Side of a pixel; 0.396 is that of SDSS."""


@dataclass(frozen=True)
class ColourSource(FilesSource):
    """Pictures in red, green and blue from 0 to 1: the middle is cropped, smaller ones get a black frame."""

    config: ColourConfig = field(default_factory=ColourConfig)
    config_class: ClassVar[type[Config]] = ColourConfig

    @property
    def suffix(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How names of files end."""
        return self.config.ending

    @property
    def scale_arcsec(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Side of a pixel [arcsec]."""
        return self.config.pixel_arcsec

    @property
    def channels(self) -> int:
        """Red, green, blue."""
        return 3

    def selection(self) -> Callable[[str], bool]:
        """Return what says whether a name is on the list; ConfigError if that is none."""
        uri = self.config.names_uri
        if not uri:
            return super().selection()
        try:
            lines = self._storage.read(uri).decode().splitlines()
        except UnicodeDecodeError:
            raise ConfigError("list of pictures is no text", uri) from None
        listed = {line.split("#")[0].strip().removesuffix(self.suffix) for line in lines} - {""}
        if not listed:
            raise ConfigError("list of pictures has no name", uri)
        return lambda name: name.removesuffix(self.suffix) in listed

    def planes_of(self, ref: FileRef) -> tuple[np.ndarray, int]:
        """Decode a picture."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self._storage.read(ref.uri, 0, ref.size))) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    got = f"{picture.width} x {picture.height} pixels"
                    what = "picture is too large"
                    raise SourceError(what, ref.uri, got, f"{MAX_PIXELS} at most", reason="unreadable_file")
                pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
        except UnidentifiedImageError as error:  # its text holds an address in memory
            what, expected = "file is no picture", "JPEG or PNG"
            raise SourceError(what, ref.uri, expected=expected, reason="unreadable_file") from error
        except (*UNDECODABLE, Image.DecompressionBombError) as error:
            what = "picture cannot be decoded"
            raise SourceError(what, ref.uri, str(error), reason="unreadable_file") from error
        return np.moveaxis(pixels, -1, 0), ref.size

    def image_of(self, planes: np.ndarray, where: str) -> np.ndarray:
        """Crop the middle, after adding a frame to what is smaller."""
        lacking = [max(self.config.size - side, 0) for side in planes.shape[1:]]
        frame = [(0, 0), *((num // 2, num - num // 2) for num in lacking)]
        return centre_crop(np.pad(planes, frame), self.config.size, where)
