"""Files to damage: small synthetic ones of each layout, and real ones where they lie beside the project."""

import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from engine.storage import Storage
from engine.synthetic import desi, nircam, sersic
from engine.synthetic.nircam import FieldConfig
from engine.synthetic.release import SynthesizeConfig
from engine.synthetic.sersic import SersicConfig

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"
BANDS = ("f115w", "f150w", "f200w", "f277w", "f356w", "f444w")


@dataclass(frozen=True)
class Release:
    """A little release in memory: path to bytes, and which of the files are damaged."""

    name: str
    source: str
    files: dict[str, bytes]
    victims: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def releases(real: bool = True) -> list[Release]:
    """All there are; the same ones every time."""
    return [*_synthetic(), *(_real(REAL_DATA) if real and REAL_DATA.is_dir() else ())]


def _synthetic() -> Iterator[Release]:
    for name, is_tiled in (("coadd", False), ("coadd, tiled masks", True)):
        files = _written(lambda root, t=is_tiled: desi.write_task(_desi(t), 0, root, Storage()))
        yield Release(name, "desi", files, tuple(files))
    yield _packed(Release("coadd, packed", "desi", files, tuple(files)))
    yield Release(
        "BOSS spectrum", "sdss", {"spec-7102-56666-0001.fits": _spectrum()}, ("spec-7102-56666-0001.fits",)
    )
    config = FieldConfig(width_px=96, height_px=96, star_density=0.0, cosmos_fraction=0.0)
    files = _written(lambda root: [nircam.write_task(config, task, root, Storage()) for task in range(2)])
    settings = {"size": 16}
    mosaic = Release("mosaics", "nircam", files, tuple(files), settings)
    yield mosaic
    yield _packed(mosaic)
    cubes = _written(lambda root: sersic.write_task(SersicConfig(num_images=3, size=16), 0, root, Storage()))
    yield Release("cube of galaxies", "sersic", cubes, tuple(cubes), settings)


def _desi(is_tiled: bool) -> SynthesizeConfig:
    return SynthesizeConfig(
        num_spectra=2, spectra_per_file=2, compress_mask=is_tiled, sky_fraction=0, layout="flat"
    )


def _written(write: Any) -> dict[str, bytes]:
    """Let something write below a folder; return the FITS files that it wrote."""
    with TemporaryDirectory() as folder:
        write(folder)
        paths = sorted(path for path in Path(folder).rglob("*.fits*") if "truth" not in path.name)
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _packed(release: Release) -> Release:
    files = {f"{path}.gz": gzip.compress(data, 1, mtime=0) for path, data in release.files.items()}
    name = f"{release.name.split(',')[0]}, packed"
    return Release(name, release.source, files, tuple(files), release.settings)


def _spectrum() -> bytes:
    """Write a BOSS file of flux 3, ivar 4."""
    loglam = (3.5530 + 1e-4 * np.arange(4610)).astype(np.float32)
    ones = np.ones(loglam.size, np.float32)
    coadd = Table(
        {"flux": 3 * ones, "loglam": loglam, "ivar": 4 * ones, "and_mask": np.zeros(loglam.size, np.int32)}
    )
    target = Table(
        {"PLUG_RA": [150.0], "PLUG_DEC": [2.0], "CLASS": ["QSO"], "SUBCLASS": ["BROADLINE"], "Z": [2.5],
         "Z_ERR": [1e-4], "ZWARNING": np.array([0], np.int32), "RCHI2DIFF": [0.5], "DOF": [4000]}
    )  # fmt: skip
    out = io.BytesIO()
    tables = [fits.BinTableHDU(coadd, name="COADD"), fits.BinTableHDU(target, name="SPALL")]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(out)
    return out.getvalue()


def _real(data: Path) -> Iterator[Release]:
    yield _folder("DESI, fastspecfit", "desi", data / "desi/fastspecfit", "*27247.fits")
    yield _folder("DESI, specutils", "desi", data / "desi/specutils", "coadd-*.fits")
    yield _folder("BOSS, squeze", "sdss", data / "sdss/squeze", "spec-7102-56666-008*.fits")
    ceers = data / "jwst/ceers"
    objects = [line.split(",")[0] for line in (ceers / "index.csv").read_text().splitlines()[1:2]]
    files = {
        f"{b}/ceers_{b}_{o}.fits": (ceers / b / f"ceers_{b}_{o}.fits").read_bytes()
        for b in BANDS
        for o in objects
    }
    index = "\n".join((ceers / "index.csv").read_text().splitlines()[:2]).encode()
    settings = {"size": 32, "unit": "MJy/sr", "id": "id"}
    yield Release("CEERS stamps", "stamps", {"index.csv": index, **files}, tuple(files), settings)
    cosmos = data / "cosmos_f814w"
    names = ["real_galaxy_catalog_26_extension_example.fits", "real_galaxy_images_extension.fits"]
    if all((cosmos / name).exists() for name in names):
        files = {name: (cosmos / name).read_bytes() for name in names}
        yield Release("COSMOS stamps", "cosmos", files, tuple(files), {"size": 16, "unit_rows": 200})


def _folder(name: str, source: str, folder: Path, pattern: str) -> Release:
    files = {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}
    return Release(name, source, files, tuple(files))
