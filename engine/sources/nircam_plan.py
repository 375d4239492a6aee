"""Cut mosaics into strips of sky: one unit is some rows of the common grid, in all bands.

A strip's rows are its core: every pixel of the grid is in one core, and a source belongs to the strip whose core
holds its pixel (sources off the mosaic to the nearest one). The pixels that a unit reads go further, by half a
cutout and what convolution and detection need. First and last row are part of the unit's key, `...-y00000-00512`;
a unit without them is a field whose common grid could not be read, so that `read` says why.
"""

import logging
import re
from collections.abc import Iterator

from engine.errors import ConfigError, SourceError
from engine.images.bands import BANDS
from engine.images.wcs import Grid
from engine.sources.nircam_band import open_band
from engine.sources.nircam_catalogue import read_catalogue
from engine.sources.nircam_config import ImageConfig, NircamConfig
from engine.sources.nircam_files import WEIGHT, group, is_packed
from engine.storage import Storage
from engine.units import FileRef, Unit

logger = logging.getLogger(__name__)

CATALOGUE = "catalogue"
"""Role of the table of sources."""

_KEY = re.compile(r"(?P<field>.+?)(?:-y(?P<start>\d{5,})-(?P<stop>\d{5,}))?")


def plan_mosaics(uri: str, config: NircamConfig, storage: Storage) -> Iterator[Unit]:
    """Yield the strips of all fields below a folder, in order of folder, field and row.

    Raises
    ------
    ConfigError
        If the catalogue cannot be used.
    """
    catalogue = _catalogue(config, storage)
    for (_, field), refs in group(storage.list(uri), config.bands).items():
        _tell_packed(field, refs)
        files = (*refs, *catalogue)
        try:
            grid = _reference_grid(refs, config, storage)
        except SourceError:
            yield Unit(field, files)
            continue
        for start, stop in strips(grid.shape, config):
            yield Unit(f"{field}-y{start:05d}-{stop:05d}", files)


def strips(shape: tuple[int, int], config: NircamConfig) -> list[tuple[int, int]]:
    """Cut rows into strips of about `strip_pixels`, of equal height but for the last, at least a cutout high."""
    rows, columns = shape
    height = max(config.strip_pixels // max(columns, 1), config.size)
    height = -(-rows // max(round(rows / height), 1))
    return [(start, min(start + height, rows)) for start in range(0, rows, height)]


def reference_band(bands: dict[str, FileRef], config: ImageConfig) -> str:
    """Band whose grid is the common one: the one that is set, else the reddest that has a file."""
    there = [band for band in BANDS if band in bands]
    return config.reference_band if config.reference_band in bands else there[-1]


def parse_key(key: str) -> tuple[str, tuple[int, int] | None]:
    """Field and core rows of a unit, from its key."""
    match = _KEY.fullmatch(key)
    assert match is not None
    rows = (int(match["start"]), int(match["stop"])) if match["start"] else None
    return match["field"], rows


def _catalogue(config: NircamConfig, storage: Storage) -> tuple[FileRef, ...]:
    """List the catalogue, and look into it: one without positions is told before anything runs."""
    if config.catalogue is None:
        return ()
    info = storage.info(config.catalogue.uri)
    ref = FileRef(config.catalogue.uri, info.size, info.fingerprint, CATALOGUE)
    read_catalogue(storage, ref, config.catalogue, "")
    return (ref,)


def _reference_grid(refs: tuple[FileRef, ...], config: NircamConfig, storage: Storage) -> Grid:
    bands = {ref.role: ref for ref in refs if not ref.role.endswith(WEIGHT)}
    ref = bands[reference_band(bands, config)]
    return open_band(storage, ref, None, config.unit)[0].grid


def _tell_packed(field: str, refs: tuple[FileRef, ...]) -> None:
    packed = [ref for ref in refs if is_packed(ref.uri)]
    if packed:
        size = sum(ref.size for ref in packed) / 1e9
        logger.warning(
            "%s: %d gzipped mosaics (%.1f GB) are read from their beginning for every strip, which is slower; "
            "unpack them, or raise strip_pixels for fewer strips",
            field, len(packed), size,
        )  # fmt: skip


def check_settings(config: NircamConfig) -> None:
    """Refuse settings that contradict each other."""
    absent = [band for band in config.detection_bands if band not in config.bands]
    if config.catalogue is None and absent:
        raise ConfigError(
            "detection is on bands that are not read", "release.settings.detection_bands", ", ".join(absent),
            f"some of {', '.join(config.bands)}",
        )  # fmt: skip
    if config.psf is not None and config.psf.kernel_size % 2 == 0:
        raise ConfigError("must be odd", "release.settings.psf.kernel_size", str(config.psf.kernel_size))
