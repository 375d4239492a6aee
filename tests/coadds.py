"""Small DESI coadds in the real layout, made to be broken by tests. Few rows, full grids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS

BIG_ID = 2**53 + 1
"""The smallest integer that a float64 cannot hold."""


@dataclass
class Coadd:
    """A coadd in memory; change anything, then `write`."""

    fibermap: dict[str, np.ndarray]
    exposures: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    redshifts: dict[str, np.ndarray]
    header: dict[str, object] = field(default_factory=dict)

    def write(self, path: Path, with_redshifts: bool = True) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        hdus = fits.HDUList([fits.PrimaryHDU(header=fits.Header(list(self.header.items())))])
        for name, table in (("FIBERMAP", self.fibermap), ("EXP_FIBERMAP", self.exposures)):
            if table:
                hdus.append(fits.BinTableHDU(Table(table), name=name))
        hdus.extend([fits.ImageHDU(image, name=name) for name, image in self.images.items()])
        if self.scores:
            hdus.append(fits.BinTableHDU(Table(self.scores), name="SCORES"))
        hdus.writeto(path, overwrite=True)
        if with_redshifts:
            write_redshifts(path.with_name(path.name.replace("coadd-", "redrock-", 1)), self.redshifts)
        return path


def write_redshifts(path: Path, table: Mapping[str, np.ndarray], name: str = "REDSHIFTS") -> Path:
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table(dict(table)), name=name)])
    hdus.writeto(path, overwrite=True)
    return path


def make_coadd(num: int = 4, seed: int = 0, resolution: bool = False) -> Coadd:
    """Targets with flux around 2, ivar 1 to 2; two exposures each; TARGETIDs that floats would mix."""
    rng = np.random.default_rng(seed)
    targetid = BIG_ID + np.arange(num, dtype=np.int64)
    images: dict[str, np.ndarray] = {}
    for camera, where in CAMERA_SLICES.items():
        letter, shape = camera.upper(), (num, where.stop - where.start)
        images[f"{letter}_WAVELENGTH"] = WAVE_OBS[where]
        images[f"{letter}_FLUX"] = rng.normal(2.0, 0.5, shape).astype(np.float32)
        images[f"{letter}_IVAR"] = rng.uniform(1.0, 2.0, shape).astype(np.float32)
        images[f"{letter}_MASK"] = np.zeros(shape, np.int32)
        if resolution:
            images[f"{letter}_RESOLUTION"] = np.zeros((num, 11, shape[1]), np.float32)
    twice = np.repeat(np.arange(num), 2)
    fibermap = {
        "TARGETID": targetid,
        "OBJTYPE": np.full(num, "TGT"),
        "COADD_FIBERSTATUS": np.zeros(num, np.int32),
        "TARGET_RA": np.linspace(10.0, 11.0, num),
        "TARGET_DEC": np.linspace(-1.0, 1.0, num),
        "COADD_NUMEXP": np.full(num, 2, np.int16),
        "COADD_EXPTIME": np.full(num, 1800.0, np.float32),
        "DESI_TARGET": 2**60 + np.arange(num, dtype=np.int64),
    }
    exposures = {
        "TARGETID": targetid[twice],
        "NIGHT": np.tile([20210502, 20210401], num).astype(np.int32),  # not in order of time
        "EXPID": np.tile([8, 7], num).astype(np.int32),
        "TILEID": np.tile([200, 100], num).astype(np.int32),
        "FIBER": (np.tile([1000, 500], num) + twice).astype(np.int32),
        "PETAL_LOC": np.tile([2, 1], num).astype(np.int16),
        "EXPTIME": np.full(2 * num, 900.0),
        "FIBERSTATUS": np.zeros(2 * num, np.int32),
    }
    backwards = np.arange(num)[::-1]
    redshifts = {
        "TARGETID": targetid[backwards],  # joined by id, not by place
        "Z": 0.1 * (1 + backwards),
        "ZERR": np.full(num, 1e-4),
        "ZWARN": np.zeros(num, np.int64),
        "SPECTYPE": np.full(num, "GALAXY"),
        "SUBTYPE": np.full(num, ""),
        "DELTACHI2": np.full(num, 99.0),
    }
    scores = {"TARGETID": targetid, "TSNR2_LRG": np.linspace(50, 60, num).astype(np.float32)}
    return Coadd(fibermap, exposures, images, scores, redshifts, {"SURVEY": "main", "PROGRAM": "dark"})


def write_release(root: Path, pixels: list[int], change: Callable[[Coadd], None] | None = None) -> list[Path]:
    """Healpix layout, one coadd with its redshifts a pixel."""
    paths = []
    for pixel in pixels:
        coadd = make_coadd(seed=pixel)
        if change:
            change(coadd)
        folder = root / "healpix" / "main" / "dark" / str(pixel // 100) / str(pixel)
        paths.append(coadd.write(folder / f"coadd-main-dark-{pixel}.fits"))
    return paths
