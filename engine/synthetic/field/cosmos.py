"""Real morphology: COSMOS F814W galaxies of a GalSim `RealGalaxyCatalog`, free of their PSF."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import galsim
import numpy as np

from engine.errors import ConfigError

LEFT_FWHM_ARCSEC = 0.16
"""Gaussian resolution that the galaxies get back before they shrink: with ACS's own 0.1 their noise would rise."""
FAINTEST_STAMP = 24.0
"""Fainter COSMOS galaxies (F814W) are too noisy to be the image of anything."""
BRIGHTEST_REAL = 24.0
"""Galaxies of the field brighter than this (F200W) would show the noise of their stamp."""
LARGEST_SCALE = 0.6
"""Galaxies are shrunk to this size at least, so that NIRCam does not see further than ACS did."""


class Stamps:
    """Galaxies of a catalogue, by number.

    Parameters
    ----------
    folder
        Local folder with `real_galaxy_catalog*.fits` and the files that it names.

    Raises
    ------
    ConfigError
        If there is no catalogue whose images are there.
    """

    def __init__(self, folder: str) -> None:
        self.catalogue = _open(Path(folder.removeprefix("file://")))
        self._numbers = np.flatnonzero(np.asarray(self.catalogue.mag) < FAINTEST_STAMP)
        self._galaxy = lru_cache(maxsize=512)(self._load)

    def __len__(self) -> int:
        return len(self._numbers)

    def profile(self, number: int, half_light: float, angle: float) -> galsim.GSObject:
        """Galaxy of unit flux and a half-light radius [arcsec] as far as it can, turned by `angle` [deg]."""
        galaxy, own = self._galaxy(number)
        scale = min(half_light / own, LARGEST_SCALE)
        smooth = galsim.Gaussian(fwhm=LEFT_FWHM_ARCSEC * scale)
        return galsim.Convolution(galaxy.dilate(scale).rotate(angle * galsim.degrees), smooth)

    def _load(self, number: int) -> tuple[galsim.GSObject, float]:
        galaxy = galsim.RealGalaxy(self.catalogue, index=int(self._numbers[number]), flux=1.0)
        original: Any = galaxy.original_gal
        return galaxy, float(original.calculateHLR())


def _open(folder: Path) -> galsim.RealGalaxyCatalog:
    tables = sorted(folder.glob("real_galaxy_catalog*.fits"))
    for table in tables:
        if table.stem.endswith(("_fits", "_selection")):
            continue
        catalogue: Any = galsim.RealGalaxyCatalog(table.name, dir=str(folder))
        if Path(catalogue.gal_file_name[0]).is_file():
            return catalogue
    raise ConfigError(
        "no COSMOS galaxies", str(folder), f"{len(tables)} catalogues without images",
        hint="It must be a local folder in the layout of galsim.RealGalaxyCatalog.",
    )  # fmt: skip
