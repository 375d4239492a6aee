"""Prepare spectra for a model: frame, scale, range. One stage, the same in training and inference."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from engine.column import Column
from engine.rows import FLAGS
from engine.schema import list_array, matrix, set_column
from engine.spectra.columns import NORM, Z, model_input
from engine.spectra.grid import NUM_PIXELS, WAVE_OBS
from engine.spectra.normalise import Normalised, normalise
from engine.spectra.restframe import deredshift, log_grid
from engine.stage import PrepareConfig, Resources, UnitTable


class SpectrumPrep(PrepareConfig):
    """How spectra are prepared."""

    frame: Literal["observed", "rest"] = "observed"
    """observed: the common grid of 7781 pixels, no redshift needed. rest: a log grid, needs z."""
    need_redshift: bool = False
    """Whether an object without redshift is rejected in the observed frame too: a model that is told z needs it."""
    rest_wave_min_angstrom: float = Field(default=2700.0, gt=0)
    """First rest-frame pixel centre; the default keeps Mg II 2799 in."""
    rest_wave_max_angstrom: float = Field(default=7000.0, gt=0)
    """Last rest-frame pixel centre; the default keeps H alpha and [S II] 6733 in."""
    num_rest_pixels: int = Field(default=1000, ge=8)
    """Pixels of the rest frame; 1000 as in Portillo et al. (2020), here 286 km/s each."""
    floor_sigma: float = Field(default=1.0, gt=0)
    """The scale is never below this many times the median noise of a pixel."""
    clip_min: float = Field(default=-100.0, lt=0)
    """Lowest normalised flux a model sees [norm]."""
    clip_max: float = Field(default=200.0, gt=0)
    """Highest normalised flux a model sees [norm]; strong emission lines reach 100."""

    @model_validator(mode="after")
    def _range_is_a_range(self) -> "SpectrumPrep":
        if self.rest_wave_min_angstrom >= self.rest_wave_max_angstrom:
            raise ValueError("rest_wave_min_angstrom must be below rest_wave_max_angstrom")
        return self

    @property
    def uses_redshift(self) -> bool:
        """Whether objects without a redshift are rejected."""
        return self.frame == "rest" or self.need_redshift

    @property
    def num_pixels(self) -> int:
        """Pixels of the model's grid."""
        return NUM_PIXELS if self.frame == "observed" else self.num_rest_pixels

    @property
    def wave(self) -> np.ndarray:
        """Pixel centres of the model's grid [Angstrom, vacuum]."""
        if self.frame == "observed":
            return WAVE_OBS
        return log_grid(self.rest_wave_min_angstrom, self.rest_wave_max_angstrom, self.num_rest_pixels)

    @property
    def stage(self) -> "PrepareSpectra":
        """The stage that prepares so."""
        return PrepareSpectra(self)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns `flux` and `ivar` as the model gets them."""
        return model_input(self.num_pixels)


class Prepared(NamedTuple):
    """Normalised spectra and which rows could not be prepared [B]."""

    spectra: Normalised
    no_redshift: np.ndarray
    not_covered: np.ndarray


def prepare(
    flux: np.ndarray, ivar: np.ndarray, redshift: np.ndarray | None, config: SpectrumPrep
) -> Prepared:
    """Shift to the model's frame and normalise.

    Parameters
    ----------
    flux, ivar
        [B, 7781] on the common grid.
    redshift
        [B], NaN where unknown; None where `config.uses_redshift` is not.
    config
        The preparation.

    Returns
    -------
    Prepared
        Spectra [B, config.num_pixels]; where redshifts are used also which rows have none > -1, and in the rest
        frame which have no usable pixel on the grid. Rows of the rest frame that lack either are all zero.
    """
    bad = np.zeros(len(flux), bool)
    outside = bad
    if config.uses_redshift:
        if redshift is None:
            raise ValueError(
                f"frame {config.frame}, need_redshift = {config.need_redshift}: redshifts are needed"
            )
        bad = ~(np.isfinite(redshift) & (redshift > -1))
        if config.frame == "rest":
            flux, ivar = deredshift(flux, ivar, WAVE_OBS, np.where(bad, 0.0, redshift), config.wave)
            flux[bad], ivar[bad] = 0, 0
            outside = ~bad & ~ivar.any(axis=1)
    spectra = normalise(flux, ivar, config.floor_sigma, config.clip_min, config.clip_max)
    return Prepared(spectra, bad, outside)


@dataclass(frozen=True)
class PrepareSpectra:
    """Stage: `flux` and `ivar` become the model's input; adds `norm`, sets bits in `flags`."""

    config: SpectrumPrep = field(default_factory=SpectrumPrep)
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "prepare"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Spectra on the common grid; `z` where it is used."""
        return (*model_input(NUM_PIXELS), FLAGS, *((Z,) if self.config.uses_redshift else ()))

    @property
    def provides(self) -> tuple[Column, ...]:
        """Model input, its scale, and flags."""
        return (*self.config.columns, NORM, FLAGS)

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        rows = table.rows
        z = rows["z"].to_numpy() if self.config.uses_redshift else None
        flux, ivar = (matrix(rows, name) for name in ("flux", "ivar"))
        spectra, no_redshift, not_covered = prepare(flux, ivar, z, self.config)
        new = {
            "flux": list_array(spectra.flux),
            "ivar": list_array(spectra.ivar),
            "norm": pa.array(spectra.norm),
            "flags": pa.array(rows["flags"].to_numpy() | spectra.flags),
        }
        for column in self.provides:
            rows = set_column(rows, column, new[column.name])
        done = table.with_rows(rows)
        done = done.reject(no_redshift, "no_redshift", "z is null or not > -1, and the model needs it")
        detail = (
            f"no usable pixel within rest-frame {self.config.wave[0]:.0f}-{self.config.wave[-1]:.0f} Angstrom"
        )
        return done.reject(not_covered[~no_redshift], "no_usable_pixel", detail)
