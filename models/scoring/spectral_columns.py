"""Columns that scoring gives of a spectrum."""

from collections.abc import Mapping

from engine.column import Column
from models.scoring.spectral_config import OPTIONAL, ScoringConfig

RAW = (
    Column("weighted_mse", "float32", "Squared residual, mean weighted with ivar, over draws", "", ucd="stat.fit.residual"),
    Column("log_wrp", "float32",
           "Weighted reconstruction probability: ivar-weighted mean of log N(flux; mean, scatter) over draws"),
    Column("log_likelihood", "float32",
           "Log likelihood per usable pixel with scatter and noise, mean over draws", ucd="stat.likelihood"),
    Column("reduced_chi2", "float32",
           "Squared residual over scatter and noise variance, mean over usable pixels", ucd="stat.fit.chi2"),
    Column("worst_window_sigma", "float32",
           "Excess chi2 of the worst wavelength window, in standard deviations of chi2"),
    Column("coherent_sigma", "float32",
           "Largest sum of residuals over a window, of either sign, in standard deviations of independent noise"),
    Column("latent_distance", "float32", "Mean distance to the nearest reference objects in latent space"),
)  # fmt: skip
"""Scores before calibration that every catalogue has."""

_OPTIONAL: Mapping[str, Column] = {
    "latent_lof": Column(
        "latent_lof", "float32", "Local outlier factor of the latent position; 1 in the crowd"
    ),
    "latent_forest": Column(
        "latent_forest", "float32", "Isolation forest score of the latent position, 0 to 1"
    ),
    "latent_log_density": Column(
        "latent_log_density",
        "float32",
        "Log density of normal objects of this class, redshift and S/N at the latent position",
    ),
    "residual_log_density": Column(
        "residual_log_density",
        "float32",
        "Log density of normal objects of this class, redshift and S/N at the pattern of residuals over the windows",
    ),
}
LOW_MEANS_ANOMALOUS = ("log_wrp", "log_likelihood", "latent_log_density", "residual_log_density")
"""Scores that are low for odd objects."""


def raw_columns(scoring: ScoringConfig) -> tuple[Column, ...]:
    """Scores before calibration, in the order of `scoring.scores`."""
    return (*RAW, *(_OPTIONAL[name] for name in OPTIONAL if name in scoring.optional_scores))


def columns(num_latent: int, scoring: ScoringConfig | None = None) -> tuple[Column, ...]:
    """All columns that `models.scoring.spectral.predictor` gives, beside bits for `flags`."""
    scoring = scoring or ScoringConfig()
    raw = raw_columns(scoring)
    return (
        Column("latent_mean", "float32", "Mean of the latent posterior", length=num_latent),
        *raw,
        *(_percentile(column) for column in raw),
        *(_p_value(column) for column in raw),
        Column(
            "on_manifold_score", "float32", "Highest -log10 p of the single scores of the latent position"
        ),
        Column(
            "off_manifold_score",
            "float32",
            "Highest -log10 p of the single scores of the reconstruction; the highest of n is exceeded "
            "up to n times as often as 10^-score",
        ),
        Column(
            "anomaly_score",
            "float32",
            "Larger of on_manifold_score and off_manifold_score; a rank, no probability",
        ),
        *_explanation(scoring.num_explained),
    )


def _percentile(column: Column) -> Column:
    return Column(
        f"{column.name}_percentile", "float32",
        f"Percentile of {column.name} among normal objects of the class and S/N; 100 = most anomalous", "%",
    )  # fmt: skip


def _p_value(column: Column) -> Column:
    return Column(
        f"{column.name}_p_value", "float32",
        f"Probability that a normal object of the class and S/N is as odd in {column.name}", ucd="stat.probability",
    )  # fmt: skip


def _explanation(num: int) -> tuple[Column, ...]:
    return (
        Column("worst_wave_min", "float32", "Start of the window with the most excess chi2, in the model's frame, whatever score made the rank",
               "Angstrom", ucd="em.wl;stat.min"),
        Column("worst_wave_max", "float32", "End of the window with the most excess chi2, in the model's frame",
               "Angstrom", ucd="em.wl;stat.max"),
        Column("window_wave_min", "float32", "Starts of the windows with the most excess chi2, worst first, whatever "
               "score made the rank; NaN where fewer have a usable pixel", "Angstrom", length=num, ucd="em.wl;stat.min"),
        Column("window_wave_max", "float32", "Ends of these windows", "Angstrom", length=num, ucd="em.wl;stat.max"),
        Column("window_sigma", "float32", "Excess chi2 of these windows, in standard deviations of chi2", length=num),
        Column("neighbour_id", "int64", "TARGETID of the nearest normal spectra; for a checkpoint that was fitted on "
               "simulated ones, their number in the sample", length=num, ucd="meta.id"),
        Column("neighbour_distance", "float32", "Distance to them in latent space", length=num),
        Column("neighbour_class_fraction", "float32", "Part of the nearest normal spectra that is of the same class"),
        Column("artefact_probability", "float32", "If it is an anomaly: probability that the instrument made it; "
               "NaN where the checkpoint has no such classifier", ucd="stat.probability"),
    )  # fmt: skip
