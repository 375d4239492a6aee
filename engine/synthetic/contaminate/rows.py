"""Contaminated images of staged clean ones, made while a training reads them: each epoch sees the same.

Three kinds are known: cutouts of six NIRCam bands in nJy (columns `science`, `error`, `mask`, of sources of images);
pictures in [0, 1] (`image`, of source `colour`) and stamps of one band (`image`, of source `cosmos`), which get those
three columns here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from engine.column import Column, DType
from engine.images.bands import BANDS
from engine.schema import column_array, matrix, set_column
from engine.storage import Storage, StorageOptions
from engine.synthetic.contaminate.config import ContaminateConfig

CLEAN = "clean"
"""Column of the images before they were contaminated: what a denoiser learns to give."""
SEEN: dict[str, DType] = {"science": "float32", "error": "float32", "mask": "bool", CLEAN: "float32"}
"""Columns of images that are made."""
NUM_COLOURS = 3
ACS_BAND = "f115w"
"""Band of `engine.images.bands` whose colours contaminants of ACS F814W stamps take: the nearest that there is."""
PLACES = ("dx", "dy")


class RealisationsConfig(ContaminateConfig):
    """How staged clean images are contaminated for training."""

    realisations: int = Field(default=10, ge=1)
    """Contaminated images of each clean one, 10 as in arXiv:2511.21207. Each epoch shows all of them, and the next
    one the same again: more need a larger number here, with fewer epochs."""
    images: Literal["nircam", "colour", "stamps"] = "nircam"
    """nircam: cutouts in six bands, nJy. colour: pictures in [0, 1], red, green, blue. stamps: one band in any unit,
    such as COSMOS F814W."""
    psf_uri: str = ""
    """Folder of PSFs that contaminants of NIRCam images are seen through, one a band; empty: from the pupil."""
    colour_noise: float = Field(default=0.01, gt=0)
    """Noise of pictures a pixel and colour, of their range; `snr` scales it."""
    colour_fwhm_px: float = Field(default=3.5, gt=0)
    """Width of the PSF of pictures; 3.5 pixels are SDSS's 1.4 arcsec."""
    colour_pixel_arcsec: float = Field(default=0.396, gt=0)
    """Side of a pixel of pictures: it sets how large contaminants are."""

    stamp_noise: float = Field(default=0.003, gt=0)
    """Noise of stamps a pixel, in their unit; `snr` scales it. 0.003 is COSMOS's (electrons a second)."""
    stamp_fwhm_px: float = Field(default=3.5, gt=0)
    """Width of the PSF of stamps; 3.5 pixels are 0.1 arcsec of ACS."""
    stamp_pixel_arcsec: float = Field(default=0.03, gt=0)
    """Side of a pixel of stamps."""

    @model_validator(mode="after")
    def _pictures_saturate(self) -> "RealisationsConfig":
        if self.images == "colour" and not self.saturates_at:
            raise ValueError("saturates_at is 0, must be 1 for images = colour: pictures are in [0, 1]")
        return self


@dataclass(frozen=True)
class Realisations:
    """Rows to learn from, out of staged clean ones; see `engine.train.plan.Realisations`.

    What a row becomes depends on (seed, field, object_id, number of the realisation) alone, so that each epoch has
    the same rows, for validation too. Of the truth, rows keep `clean`; `added` and the list of contaminants are
    left out, and `seen` gives them again.
    """

    config: RealisationsConfig
    storage: StorageOptions = field(default_factory=StorageOptions)

    @property
    def count(self) -> int:
        """Realisations in an epoch."""
        return self.config.realisations

    @property
    def provides(self) -> tuple[str, ...]:
        """Columns that need not be staged."""
        return (CLEAN,) if self.config.images == "nircam" else (*SEEN, *PLACES)

    def reads(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Staged columns that rows with `columns` are made of."""
        needed = ("science", "error", "mask", *PLACES) if self.config.images == "nircam" else ("image",)
        kept = (name for name in columns if name not in self.provides)
        return tuple(dict.fromkeys([*kept, "field", "object_id", *needed]))

    def __call__(self, table: pa.Table, number: int) -> pa.Table:
        """Contaminate images: `science`, `error`, `mask`, and `clean` as they were."""
        if not table.num_rows:
            return table
        table = self._placed(table)
        seen = self.seen(table, number)
        for name, dtype in SEEN.items():
            values = getattr(seen, name).reshape(table.num_rows, -1)
            column = Column(name, dtype, "", length=values.shape[1], packed=True)
            table = set_column(table, column, column_array(column, values))
        return table

    def seen(self, table: pa.Table, number: int) -> Any:
        """`Contaminated` images of staged rows, with the truth: `added` and `contaminants` beside `clean`."""
        table = self._placed(table)
        names = zip(table["field"].to_pylist(), table["object_id"].to_pylist(), strict=True)
        keys = [f"{of}/{key}" for of, key in names]
        places = (table[name].to_numpy() for name in PLACES)
        clean, error, mask = self._clean(table)
        return _contaminator(self)(clean, error, keys, number, mask, *places)

    def _placed(self, table: pa.Table) -> pa.Table:
        """Rows with `dx` and `dy`; pictures and stamps have their galaxy in the middle."""
        for name in PLACES if self.config.images != "nircam" else ():
            column = Column(name, "float32", "The galaxy is in the middle", "pixel")
            table = set_column(table, column, pa.array(np.zeros(table.num_rows, np.float32)))
        return table

    def _clean(self, table: pa.Table) -> tuple[np.ndarray, ...]:
        """Images, their noise to come, and where they are masked, [B, C, S, S] each."""
        noise = {"colour": self.config.colour_noise, "stamps": self.config.stamp_noise}
        if self.config.images in noise:
            image = _square(matrix(table, "image"), NUM_COLOURS if self.config.images == "colour" else 1)
            return image, np.full_like(image, noise[self.config.images]), np.zeros(image.shape, bool)
        return tuple(_square(matrix(table, name), len(BANDS)) for name in ("science", "error", "mask"))


def _square(flat: np.ndarray, channels: int) -> np.ndarray:
    size = math.isqrt(flat.shape[1] // channels)
    return flat.reshape(-1, channels, size, size)


@lru_cache(maxsize=1)
def _contaminator(rows: Realisations) -> Any:
    """Make the `Contaminator` of a process; GalSim is imported where images are drawn."""
    from engine.synthetic.contaminate.optics import gaussian_optics, nircam_optics
    from engine.synthetic.contaminate.simulate import Contaminator
    from engine.synthetic.field.psf import load_psfs

    config = rows.config
    if config.images == "colour":
        fwhm, noise = [config.colour_fwhm_px] * NUM_COLOURS, [config.colour_noise] * NUM_COLOURS
        return Contaminator(config, gaussian_optics(fwhm, noise, config.colour_pixel_arcsec))
    if config.images == "stamps":
        optics = gaussian_optics(
            [config.stamp_fwhm_px], [config.stamp_noise], config.stamp_pixel_arcsec, [ACS_BAND]
        )
        return Contaminator(config, optics)
    psfs = load_psfs(config.psf_uri, Storage(rows.storage)) if config.psf_uri else None
    return Contaminator(config, nircam_optics(psfs=psfs))
