"""Read PSFs from files and make kernels that match all bands to F444W."""

import math

import numpy as np

from engine.errors import ConfigError
from engine.fits import read_hdus
from engine.images.bands import BANDS
from engine.images.psf import matching_kernel, prepare_psf
from engine.sources.nircam_config import PsfConfig
from engine.storage import FileInfo, Storage

TARGET = "f444w"


def load_kernels(
    storage: Storage, config: PsfConfig, bands: tuple[str, ...], pixel_scale: float
) -> dict[str, np.ndarray]:
    """Kernels [K, K] of the bands other than F444W, on pixels of `pixel_scale` [arcsec].

    Raises
    ------
    ConfigError
        If a PSF is not there, says no pixel scale, or has another one than the images (unless `resample`).
    """
    files = list(storage.list(config.uri))
    psfs = {
        band: _read(storage, _find(files, band, config), config, pixel_scale)
        for band in BANDS
        if band in bands or band == TARGET
    }
    return {band: matching_kernel(psfs[band], psfs[TARGET]) for band in psfs if band != TARGET}


def _find(files: list[FileInfo], band: str, config: PsfConfig) -> FileInfo:
    found = [file for file in files if band in file.uri.rpartition("/")[2].lower() and ".fits" in file.uri]
    if len(found) != 1:
        got = ", ".join(file.uri for file in found) or "none"
        raise ConfigError(
            f"no single PSF of {band}", config.uri, got, f"one FITS file with {band} in its name"
        )
    return found[0]


def _read(storage: Storage, file: FileInfo, config: PsfConfig, pixel_scale: float) -> np.ndarray:
    name = config.extension.upper()
    where = f"{file.uri}[{name}]"
    contents = read_hdus(storage, file.uri, file.size, (name,), {})
    image = contents.images.get(name)
    if image is None:
        raise ConfigError("has no such image", where, ", ".join(contents.names), hint="Set psf.extension.")
    header = contents.header(name)
    scale = header.get("PIXELSCL", contents.header("PRIMARY").get("PIXELSCL"))
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
        raise ConfigError("PSF does not say its pixel scale", where, str(scale), "PIXELSCL [arcsec]")
    return prepare_psf(image, float(scale), pixel_scale, config.kernel_size, where, config.resample)
