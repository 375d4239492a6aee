"""Sets with a FITS file for each galaxy: COSMOS stamps of SHERA, and broad-band images of simulated galaxies by SKIRT.

A unit is some files of the folder tree, in order of URIs. The primary HDU holds the image.

References
----------
Mandelbaum, Hirata, Leauthaud, Massey & Rhodes (2012), MNRAS 420, 1518: SHERA.
Rodriguez-Gomez et al. (2019), MNRAS 483, 4140: SKIRT images of IllustrisTNG.
Holzschuh et al. (2022), MNRAS 515, 652, and its released code: what is cut, cropped and resized.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic import Field

from engine.config import Config
from engine.errors import SourceError
from engine.fits import read_hdus
from engine.images.own_size import size_channel
from engine.locations import FileInfo
from engine.sources.galaxies import Galaxy, GalaxyConfig, GalaxySource, centre_crop, id_of
from engine.stage import Rejection, UnitTable
from engine.units import FileRef, Unit

SHERA_PIXEL_ARCSEC = 0.03
SKIRT_BANDS = 4
"""g, r, i, z: the first planes of a file."""
SMALLEST_SKIRT = 64
"""Pixels a side below which an image is left out."""


class FilesConfig(GalaxyConfig):
    """What of a folder is read."""

    unit_rows: int = Field(default=200, ge=1)
    """Files in a unit."""


@dataclass(frozen=True)
class FilesSource(GalaxySource):
    """A folder tree with a file for each galaxy."""

    config: FilesConfig = field(default_factory=FilesConfig)
    config_class: ClassVar[type[Config]] = FilesConfig
    prefix: ClassVar[str] = ""
    """How names of files begin."""
    suffix: ClassVar[str]
    """How they end."""
    scale_arcsec: ClassVar[float] = math.nan
    """Side of a pixel [arcsec]."""

    @abstractmethod
    def image_of(self, planes: np.ndarray, where: str) -> np.ndarray:
        """Make an image [C, S, S] of what a file holds; SourceError if it does not."""

    def selection(self) -> Callable[[str], bool]:
        """Return what says of the name of a file with `suffix` whether it is read."""
        return lambda name: name.startswith(self.prefix)

    def planes_of(self, ref: FileRef) -> tuple[np.ndarray, int]:
        """Read what a file holds, [planes, rows, columns], and how many of its bytes that took."""
        contents = read_hdus(self._storage, ref.uri, ref.size, ("PRIMARY",), {})
        return _planes(contents.images.get("PRIMARY"), ref.uri), contents.bytes_used

    def plan(self) -> Iterator[Unit]:
        """List lazily: units of `unit_rows` files."""
        listed = self._storage.list(self.uri, self.suffix)
        is_wanted = self.selection()
        files = (file for file in listed if is_wanted(file.uri.rpartition("/")[2]))
        for number, part in enumerate(_parts(files, self.config.unit_rows)):
            refs = tuple(FileRef(file.uri, file.size, file.fingerprint) for file in part)
            yield Unit(f"{self.dataset}-{number:06d}", refs)

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read some files; each is one object, so that it is counted even if it cannot be read."""
        galaxies: list[Galaxy] = []
        rejected: list[Rejection] = []
        used = 0
        for ref in unit.files:
            object_id = id_of(ref.uri.rpartition("/")[2].removeprefix(self.prefix).removesuffix(self.suffix))
            try:
                planes, num_bytes = self.planes_of(ref)
                used += min(num_bytes, ref.size)
                image = self.image_of(planes, ref.uri)
                galaxies.append(Galaxy(object_id, ref.uri, 0, image, self.scale_arcsec))
            except SourceError as error:
                rejected.append(self.rejection(error, ref.uri, 0, object_id))
        return self.unit_table(galaxies, rejected), used


def _parts(files: Iterator[FileInfo], num: int) -> Iterator[list[FileInfo]]:
    while part := list(islice(files, num)):
        yield part


def _planes(image: np.ndarray | None, uri: str) -> np.ndarray:
    if image is None or image.ndim not in (2, 3):
        got = "nothing" if image is None else f"{image.ndim} axes"
        what = "no image in the primary HDU"
        raise SourceError(what, uri, got, "2 or 3 axes", reason="unsupported_layout")
    return image if image.ndim == 3 else image[None]


@dataclass(frozen=True)
class SheraSource(FilesSource):
    """`*_processed.fits.gz`: F814W, 0.03 arcsec a pixel; the middle is cropped, smaller stamps are a cut."""

    suffix: ClassVar[str] = "_processed.fits.gz"
    scale_arcsec: ClassVar[float] = SHERA_PIXEL_ARCSEC

    def image_of(self, planes: np.ndarray, where: str) -> np.ndarray:
        """Crop the middle of the one plane."""
        if len(planes) != 1:
            what = "is not one image"
            raise SourceError(what, where, f"{len(planes)} planes", "1", reason="unsupported_layout")
        return centre_crop(planes, self.config.size, where)


@dataclass(frozen=True)
class SkirtSource(FilesSource):
    """`broadband_*.fits`: g, r, i, z resized to one size, and as a fifth channel how large they were.

    The middle half of each side is taken and resized, linearly and without aliasing, so brightness keeps its value.
    Pixels have no size in arcsec; theirs in kpc follows from the fifth channel (`engine.images.own_size`).
    """

    prefix: ClassVar[str] = "broadband_"
    suffix: ClassVar[str] = ".fits"

    @property
    def channels(self) -> int:
        """g, r, i, z and size."""
        return SKIRT_BANDS + 1

    def image_of(self, planes: np.ndarray, where: str) -> np.ndarray:
        """Crop, resize, and add the channel with the size."""
        from skimage.transform import resize  # a second that other sources need not pay

        if len(planes) < SKIRT_BANDS:
            what, got = "lacks bands", f"{len(planes)} planes"
            raise SourceError(what, where, got, "g, r, i, z", reason="unsupported_layout")
        side, size = planes.shape[1], self.config.size
        _check_skirt(planes[:SKIRT_BANDS], where)
        middle = planes[
            :SKIRT_BANDS, int(0.25 * side) : int(0.75 * side), int(0.25 * side) : int(0.75 * side)
        ]
        image = np.empty((SKIRT_BANDS + 1, size, size), np.float32)
        for target, plane in zip(image, middle.astype(np.float64), strict=False):
            target[:] = np.asarray(resize(plane, (size, size), order=1, anti_aliasing=True))
        image[-1] = size_channel(side)
        return image


def _check_skirt(planes: np.ndarray, where: str) -> None:
    """Raise SourceError for planes [C, H, W] that are not square, too small or not finite: resizing would hide it."""
    _, height, width = planes.shape
    got = f"{height} x {width}"
    if height != width:
        raise SourceError("image is not square", where, got, reason="wrong_size")
    if height < SMALLEST_SKIRT:
        expected = f"{SMALLEST_SKIRT} at least"
        raise SourceError("image is smaller than asked for", where, got, expected, reason="too_small")
    if not np.isfinite(planes).all():
        raise SourceError("image has pixels that are NaN or infinite", where, reason="not_finite")
