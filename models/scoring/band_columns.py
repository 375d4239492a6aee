"""Columns of scores of predicted bands, and how they are asked for."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

from engine.column import Column
from models.scoring.aperture import INDEPENDENT
from models.scoring.cutouts import BANDS, LW_BANDS

COMBINED = (
    Column("aperture_chi2", "float32",
           "Squared flux residual over its variance, mean over the LW bands", ucd="stat.fit.chi2"),
    Column("reduced_chi2", "float32",
           "Squared pixel residual over noise and predicted variance, mean over LW pixels usable in all SW bands", ucd="stat.fit.chi2"),
    Column("m_residual", "float32",
           "Sum of absolute pixel residuals between the pixel percentiles of the band, mean over the LW bands",
           ucd="stat.fit.residual"),
    Column("latent_distance", "float32", "Mean distance to the nearest reference objects in latent space"),
)  # fmt: skip
"""Scores of an object before calibration."""

BAND_SCORES = tuple(f"{name}_{band}" for band in LW_BANDS for name in ("flux_residual_sigma", "reduced_chi2"))
"""Scores of a band before calibration."""

SCORES = (*(column.name for column in COMBINED), *BAND_SCORES)
"""All that are calibrated."""


@dataclass(frozen=True, kw_only=True)
class BandScoringConfig:
    """How objects are scored."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    aperture_radius_arcsec: float = 0.30
    """Radius of the circle in which fluxes are measured and predicted."""
    min_aperture_fraction: float = 0.5
    """Part of the circle that must be usable for a band to count as observed."""
    snr_edges: tuple[float, ...] = (10.0, 30.0, 100.0)
    """Signal to noise of the SW bands together at which calibration classes meet."""
    min_class_rows: int = 200
    """Calibration rows that a class needs for percentiles of its own; else those of all classes."""
    num_latent: int = 8
    """Principal components of the generator's innermost features that make the latent space."""
    num_neighbours: int = 10
    """Neighbours whose mean distance is the isolation."""
    num_reference: int = 5_000
    """Latents kept for the neighbour search, a random sample of the reference."""
    on_manifold: tuple[str, ...] = ("latent_distance",)
    """Scores that make `on_manifold_score`. Outlier factor, isolation forest and density of the same latents find no more:
    `python -m benchmarks.latent_detectors`."""
    off_manifold: tuple[str, ...] = ("aperture_chi2", "reduced_chi2")
    """Scores that make `off_manifold_score`."""
    write_predicted: bool = False
    """Whether to write the predicted LW cutouts."""
    write_residual: bool = False
    """Whether to write measured minus predicted LW cutouts."""
    batch_rows: int = 32
    """Objects that go through the network at once inside the predictor."""
    seed: int = 0
    """Of the reference sample."""

    def __post_init__(self) -> None:
        """Check ranges."""
        object.__setattr__(self, "snr_edges", tuple(self.snr_edges))
        for name in ("num_latent", "num_neighbours", "num_reference", "min_class_rows", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.num_reference <= self.num_neighbours:
            raise ValueError(f"num_reference {self.num_reference} must exceed num_neighbours")
        if not self.aperture_radius_arcsec > 0:
            raise ValueError(f"aperture_radius_arcsec is {self.aperture_radius_arcsec}, must be positive")
        if not 0 < self.min_aperture_fraction <= 1:
            raise ValueError(f"min_aperture_fraction is {self.min_aperture_fraction}, must be in (0, 1]")
        if list(self.snr_edges) != sorted(set(self.snr_edges)):
            raise ValueError(f"snr_edges is {self.snr_edges}, must increase")
        for name in ("on_manifold", "off_manifold"):
            unknown = set(getattr(self, name)) - set(SCORES)
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)} must be some of {', '.join(SCORES)}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Calibration classes: intervals of signal to noise, and all."""
        bounds = ("0", *(f"{edge:g}" for edge in self.snr_edges), "inf")
        return (*(f"snr {low}-{high}" for low, high in itertools.pairwise(bounds)), "all")


def columns(config: BandScoringConfig, size: int) -> tuple[Column, ...]:
    """All columns that `models.scoring.band_scores.predictor` gives, beside bits for `flags`."""
    percentiles = (
        Column(f"{c.name}_percentile", "float32",
               f"Percentile of {c.name} among normal objects of like signal to noise; 100 = most anomalous", "%")
        for c in COMBINED
    )  # fmt: skip
    p_values = (
        Column(f"{c.name}_p_value", "float32",
               f"Probability that a normal object of like signal to noise is as odd in {c.name}", ucd="stat.probability")
        for c in COMBINED
    )  # fmt: skip
    return (
        Column("latent_mean", "float32", "Principal components of the generator's innermost features",
               length=config.num_latent),
        *(column for band in BANDS for column in _measured(band)),
        *(column for band in LW_BANDS for column in _predicted(band)),
        Column("input_snr", "float32", f"Signal to noise of the SW aperture fluxes together, {INDEPENDENT}", ucd="stat.snr"),
        *COMBINED,
        *percentiles,
        *p_values,
        Column("on_manifold_score", "float32", "-log10 tail probability of the latent position"),
        Column("off_manifold_score", "float32", "Highest -log10 p of the single scores of the measured bands given the prediction"),
        Column("anomaly_score", "float32", "Larger of on_manifold_score and off_manifold_score; a rank, no probability"),
        Column("worst_wave", "float32", "Pivot wavelength of the LW band with the largest score", "um", ucd="em.wl"),
        *_images(config, size),
    )  # fmt: skip


def _measured(band: str) -> tuple[Column, ...]:
    filter_name = band.upper()
    return (
        Column(f"flux_{band}", "float32", f"{filter_name} flux density in the aperture", "nJy", ucd="phot.flux.density"),
        Column(f"flux_error_{band}", "float32", f"Standard deviation of flux_{band}, pixels taken as independent", "nJy",
               ucd="stat.stdev;phot.flux.density"),
    )  # fmt: skip


def _predicted(band: str) -> tuple[Column, ...]:
    name = band.upper()
    return (
        Column(f"flux_predicted_{band}", "float32", f"{name} flux density predicted from the SW bands", "nJy",
               ucd="phot.flux.density;meta.modelled"),
        Column(f"flux_predicted_error_{band}", "float32", f"Standard deviation of flux_predicted_{band}", "nJy",
               ucd="stat.stdev;phot.flux.density"),
        Column(f"mag_residual_{band}", "float32", f"{name} asinh magnitude, measured minus predicted, softening flux_error",
               "mag", ucd="phot.mag;stat.fit.residual"),
        Column(f"flux_residual_sigma_{band}", "float32",
               f"{name} flux, measured minus predicted, in standard deviations of measurement and prediction"),
        Column(f"reduced_chi2_{band}", "float32",
               f"Squared {name} pixel residual over noise and predicted variance, mean over pixels usable in all SW bands too",
               ucd="stat.fit.chi2"),
        Column(f"m_residual_{band}", "float32",
               f"Sum of absolute {name} pixel residuals between the pixel percentiles of the band",
               ucd="stat.fit.residual"),
        Column(f"score_{band}", "float32", f"Higher of the -log10 p of the flux and of the pixels of {name}; itself without percentile or p-value"),
    )  # fmt: skip


def _images(config: BandScoringConfig, size: int) -> tuple[Column, ...]:
    pixels = len(LW_BANDS) * size * size
    predicted = Column("predicted", "float32", "Predicted LW cutouts, order band, y, x", "nJy", pixels)
    residual = Column(
        "residual",
        "float32",
        "Measured minus predicted LW cutouts, NaN where that or a SW band is not usable",
        "nJy",
        pixels,
    )
    return (predicted,) * config.write_predicted + (residual,) * config.write_residual
