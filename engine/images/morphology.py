"""Non-parametric morphology and Sersic fits of images by statmorph, with the settings of the published measure.

A measurement that fails is a flag and NaN, never a missing row. statmorph writes -99 where a quantity is not defined; it becomes
NaN here, so that it can take no part in a distribution.

References
----------
Rodriguez-Gomez et al. (2019), MNRAS 483, 4140: statmorph. Conselice (2003), ApJS 147, 1: C, A, S.
Lotz, Primack & Madau (2004), AJ 128, 163: Gini, M20. Snyder et al. (2015), MNRAS 454, 1886: F(G, M20).
Holzschuh et al. (2022), MNRAS 515, 652, Sect. 4, and its released code: the settings.
"""

# B = images, H, W = pixels

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field

from engine.column import Column
from engine.config import Config
from engine.images.columns import OBJECT_ID
from engine.images.galaxies import image_column
from engine.images.own_size import at_own_size
from engine.schema import Arrays, column_array, matrix, set_column
from engine.stage import Resources, UnitTable

MEASURES: tuple[Column, ...] = (
    Column("asymmetry", "float64", "Asymmetry A under a turn by 180 degrees"),
    Column("smoothness", "float64", "Smoothness S, light in small structures"),
    Column("concentration", "float64", "Concentration C, 5 log10(r80 / r20)"),
    Column("gini", "float64", "Gini coefficient, 0 to 1"),
    Column("m20", "float64", "Second moment of the brightest fifth of the light, log10 of its share"),
    Column("gini_m20_bulge", "float64", "F(G, M20), above 0 for early types"),
    Column("rhalf_circ", "float64", "Circular half-light radius", "pixel"),
    Column("orientation_centroid", "float64", "Major axis from +x towards +y, -pi/2 to pi/2", "rad"),
    Column("ellipticity_centroid", "float64", "1 - minor / major axis, 0 to 1"),
    Column("sersic_n", "float64", "Sersic index of the fit"),
    Column("sersic_rhalf", "float64", "Half-light radius of the fit along the major axis", "pixel"),
    Column("sersic_ellip", "float64", "1 - minor / major axis of the fit"),
    Column("sersic_theta", "float64", "Major axis of the fit from +x towards +y", "rad"),
    Column("sn_per_pixel", "float64", "Mean signal-to-noise a pixel", ucd="stat.snr"),
    Column("flag", "int16", "0 good, 1 suspect, 2 bad, 4 nothing measured (statmorph), 8 not detected, 16 failed"),
    Column("flag_sersic", "int16", "0 good, above 0: the Sersic fit is bad; as that of all from 8 on"),
)  # fmt: skip
"""What `measure` gives, named as in statmorph; NaN where a quantity is not defined."""

MORPHOLOGY: tuple[Column, ...] = tuple(replace(column, name=f"morph_{column.name}") for column in MEASURES)
"""The same as columns of rows: `morph_sersic_n` is measured where `sersic_n` is what the galaxy was made with."""

QUANTITIES: tuple[str, ...] = tuple(column.name for column in MEASURES if column.dtype == "float64")
NOT_DETECTED, FAILED = 8, 16
UNDEFINED = -99.0
"""What statmorph writes where a quantity is not defined."""
FAULTS = (
    ValueError, AssertionError, IndexError, ZeroDivisionError, TypeError, RuntimeError, OverflowError, MemoryError,
    AttributeError,
)  # fmt: skip
"""What statmorph raises on images that are unlike a galaxy."""


class MorphologyConfig(Config):
    """How images are segmented and measured; the defaults are those for the Sersic and COSMOS sets."""

    nsigma: float = Field(default=1.5, gt=0)
    """Threshold above the clipped mean, in clipped standard deviations of the image."""
    npixels: int = Field(default=5, ge=1)
    """Fewest pixels of a segment; the largest segment is the galaxy."""
    smooth_px: int = Field(default=10, ge=1)
    """Side of the square over which the segment is averaged; more than half belongs to the galaxy."""
    gain: float = Field(default=1.0, gt=0)
    """Electrons for 1 in the image, for the noise."""
    psf_fwhm_px: float = Field(default=0.0, ge=0)
    """Gaussian that the image is convolved with and that the fit knows of; 0: none."""
    psf_size_px: int = Field(default=3, ge=1)
    """Side of its kernel."""
    noise_sigma: float = Field(default=0.0, ge=0)
    """Gaussian noise that is added, the same for a key and seed."""
    channel: int = Field(default=0, ge=0)
    """Channel of the image that is measured."""
    seed: int = Field(default=1, ge=0)
    """Of the noise."""


PUBLISHED: dict[str, MorphologyConfig] = {
    "sersic": MorphologyConfig(),
    "cosmos": MorphologyConfig(),
    "skirt": MorphologyConfig(gain=750.0, psf_fwhm_px=3.0, noise_sigma=1 / 15, channel=2),
}
"""Settings by set; of SKIRT images the i band, at their own size."""


def measure(images: Iterable[np.ndarray], keys: Iterable[int], config: MorphologyConfig) -> Arrays:
    """Measure images one after the other: about 0.3 s of a core each at 64 pixels, more for large galaxies, and 2 s at 256.

    Parameters
    ----------
    images
        B of them, [H, W] each, of any sizes. The sky should be subtracted; statmorph flags it 2 if it is not.
    keys
        Identifiers [B], which with `config.seed` set the noise that is added.
    config
        Settings.

    Returns
    -------
    dict of numpy.ndarray
        Values of `MEASURES` by name, [B] each. What could not be measured is there with NaN and its flag.
    """
    pairs = zip(images, keys, strict=True)
    return collected(_measure_one(np.asarray(image, np.float64), int(key), config) for image, key in pairs)


def collected(rows: Iterable[dict[str, float]]) -> Arrays:
    """Values of `MEASURES` by name, of rows that `attempted` gave."""
    measured = list(rows)
    return {
        column.name: np.array([row[column.name] for row in measured], column.dtype) for column in MEASURES
    }


def failures(measured: Arrays) -> dict[str, int]:
    """Count images by what went wrong: for logs and tables, so that none is dropped unseen."""
    flag = measured["flag"]
    counts = {"suspect": 1, "bad": 2, "nothing_measured": 4, "not_detected": NOT_DETECTED, "failed": FAILED}
    found = {name: int((flag == value).sum()) for name, value in counts.items()}
    bad_fit = (measured["flag_sersic"] > 0) & (flag < NOT_DETECTED)
    undefined = ~np.isfinite(np.stack([measured[name] for name in QUANTITIES])).all(axis=0)
    return found | {"bad_fit": int(bad_fit.sum()), "some_undefined": int(undefined.sum())}


def segment(image: np.ndarray, config: MorphologyConfig) -> np.ndarray | None:
    """Pixels that belong to the galaxy, bool [H, W]; None if nothing is above the threshold or nothing is left of it.

    Parameters
    ----------
    image
        [H, W].
    config
        Settings.
    """
    from photutils.segmentation import detect_sources, detect_threshold
    from scipy.ndimage import uniform_filter

    found: Any = detect_sources(image, detect_threshold(image, config.nsigma), config.npixels)
    if found is None:
        return None
    largest = found.data == found.labels[int(np.argmax(found.areas))]
    smooth = uniform_filter(largest.astype(np.float64), size=config.smooth_px) > 0.5
    return smooth if smooth.any() else None


def attempted(measure: Callable[[], dict[str, float] | None]) -> dict[str, float]:
    """Row of a measurement; NaN and flag `NOT_DETECTED` where it gives none, `FAILED` where statmorph gives up."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # statmorph says by flags what it warns of
        try:
            return measure() or _nothing(NOT_DETECTED)
        except FAULTS:
            return _nothing(FAILED)


def _measure_one(image: np.ndarray, key: int, config: MorphologyConfig) -> dict[str, float]:
    psf = _psf(config) if config.psf_fwhm_px else None

    def found() -> dict[str, float] | None:
        degraded = _degraded(image, psf, key, config)
        mask = segment(degraded, config)
        if mask is None:
            return None
        return fitted(degraded, mask.astype(np.int64), gain=config.gain, psf=psf)

    return attempted(found)


def _psf(config: MorphologyConfig) -> np.ndarray:
    """Gaussian sampled at pixel centres, sum 1."""
    offset = np.arange(config.psf_size_px) - (config.psf_size_px - 1) / 2
    sigma = config.psf_fwhm_px / (8 * np.log(2)) ** 0.5
    profile = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel = np.outer(profile, profile)
    return kernel / kernel.sum()


def _degraded(image: np.ndarray, psf: np.ndarray | None, key: int, config: MorphologyConfig) -> np.ndarray:
    if psf is not None:
        from scipy.ndimage import convolve

        image = convolve(image, psf, mode="constant")
    if config.noise_sigma:
        noise = np.random.default_rng([config.seed, key & ((1 << 64) - 1)])
        image = image + config.noise_sigma * noise.standard_normal(image.shape)
    return image


def fitted(image: np.ndarray, segments: np.ndarray, **noise: Any) -> dict[str, float]:
    """Measure the pixels of `segments` [H, W] that are 1, with what statmorph is told of noise, PSF and bad pixels."""
    import statmorph  # a second that readers of the columns need not pay

    found: Any = statmorph.SourceMorphology(image, segments, 1, **noise)
    values = {name: float(getattr(found, name)) for name in QUANTITIES}
    row = {name: np.nan if value == UNDEFINED else value for name, value in values.items()}
    return row | {"flag": int(found.flag), "flag_sersic": int(found.flag_sersic)}


def _nothing(flag: int) -> dict[str, float]:
    return dict.fromkeys(QUANTITIES, np.nan) | {"flag": flag, "flag_sersic": flag}


def with_measures(table: UnitTable, measured: Arrays) -> UnitTable:
    """Rows with columns `MORPHOLOGY`."""
    rows = table.rows
    for column, values in zip(MORPHOLOGY, measured.values(), strict=True):
        rows = set_column(rows, column, column_array(column, values))
    return table.with_rows(rows)


@dataclass(frozen=True)
class MeasureMorphology:
    """Stage: adds `MORPHOLOGY` to rows of galaxies, so that workers share what takes long.

    Images that have a size channel are measured at their own size (`engine.images.own_size`), as published.

    Parameters
    ----------
    size, channels
        Of the images.
    config
        Settings of the measure.
    """

    size: int
    channels: int = 1
    config: MorphologyConfig = field(default_factory=MorphologyConfig)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if self.config.channel >= self.channels:
            raise ValueError(f"channel {self.config.channel} of images with {self.channels} channels")

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "morphology"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Images, and the identifiers that set the noise."""
        return (OBJECT_ID, image_column(self.size, self.channels))

    @property
    def provides(self) -> tuple[Column, ...]:
        """Columns `MORPHOLOGY`."""
        return MORPHOLOGY

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        shape = (-1, self.channels, self.size, self.size)
        images = at_own_size(matrix(table.rows, "image").reshape(shape), self.config.channel)
        return with_measures(table, measure(images, table.rows["object_id"].to_pylist(), self.config))
