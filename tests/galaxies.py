"""Small sets of galaxy images in the layouts that sources read, with random pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 0.1, shape).astype(np.float32)


def write_real_galaxies(root: Path, sides: Sequence[int], seed: int = 1) -> list[np.ndarray]:
    """Write GalSim's `RealGalaxyCatalog` with stamps of these sides, two files of images; return the stamps."""
    num, half = len(sides), -(-len(sides) // 2)
    stamps = [noise(side, side, seed=seed + i) for i, side in enumerate(sides)]
    for part in range(2):
        mine = stamps[part * half : (part + 1) * half]
        hdus = [fits.PrimaryHDU(mine[0]), *(fits.ImageHDU(stamp) for stamp in mine[1:])]
        fits.HDUList(hdus).writeto(root / f"real_galaxy_images_{part}.fits")
    names = [f"real_galaxy_images_{i // half}.fits" for i in range(num)]
    columns = [
        fits.Column("IDENT", "J", array=100 + np.arange(num)),
        fits.Column("RA", "D", array=150.0 + np.arange(num)),
        fits.Column("DEC", "D", array=np.full(num, 2.0)),
        fits.Column("MAG", "D", array=np.full(num, 22.5)),
        fits.Column("GAL_FILENAME", "32A", array=names),
        fits.Column("GAL_HDU", "J", array=np.arange(num) % half),
        fits.Column("PIXEL_SCALE", "D", array=np.full(num, 0.03)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(root / "real_galaxy_catalog_x.fits")
    fit = np.tile([1.0, 10.0, 2.0, 0.25, 0.0, 8.0, 8.0, np.radians(-30)], (num, 1))
    more = [
        fits.Column("IDENT", "J", array=100 + np.arange(num)),
        fits.Column("zphot", "D", array=np.full(num, 0.5)),
        fits.Column("sersicfit", "8D", array=fit),
        fits.Column("viable_sersic", "J", array=np.arange(num) != 0),
    ]
    fits.BinTableHDU.from_columns(more).writeto(root / "real_galaxy_catalog_x_fits.fits")
    return stamps


def write_shera_stamps(root: Path, sides: Sequence[int]) -> None:
    """Write `1_processed.fits.gz` and so on, of these sides."""
    for number, side in enumerate(sides, 1):
        fits.PrimaryHDU(noise(side, side, seed=number)).writeto(root / f"{number}_processed.fits.gz")


def write_broadband(root: Path, sides: Sequence[int]) -> None:
    """Write `broadband_1.fits` and so on: seven planes of these sides."""
    for number, side in enumerate(sides, 1):
        fits.PrimaryHDU(noise(7, side, side, seed=number)).writeto(root / f"broadband_{number}.fits")
