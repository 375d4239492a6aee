"""Settings of the scores of spectra."""

from dataclasses import dataclass
from typing import ClassVar

from models.scoring.reconstruction import antithetic_normal

ALWAYS = (
    "weighted_mse", "log_wrp", "log_likelihood", "reduced_chi2", "worst_window_sigma", "coherent_sigma",
    "latent_distance",
)  # fmt: skip
"""Scores that every catalogue has."""

OPTIONAL = ("latent_lof", "latent_forest", "latent_log_density", "residual_log_density")
"""Scores that `ScoringConfig.optional_scores` turns on."""

TOO_LOW = "-"
"""Before the name of a score in a ranking: what counts is how far below normal it is."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How spectra are scored."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_draws: int = 2
    """Latent draws of the Monte Carlo averages; even, because they come in antithetic pairs."""
    num_neighbours: int = 10
    """Neighbours whose mean distance is the isolation."""
    num_reference: int = 5_000
    """Latents kept for the neighbour search, a random sample of the reference. Exact search costs 8 us a
    spectrum and thousand on one core: with 5,000 a quarter of the encoder."""
    optional_scores: tuple[str, ...] = ("latent_log_density", "residual_log_density")
    """Which of `latent_lof`, `latent_forest`, `latent_log_density` and `residual_log_density` are computed
    too. What each costs: `python -m benchmarks.rank_choice`."""
    lof_neighbours: int = 50
    """Neighbours of the local outlier factor; 50 is Astronomaly's choice."""
    num_trees: int = 100
    """Trees of the isolation forest."""
    num_density: int = 40_000
    """Reference objects that densities are learned from, at most."""
    num_snr_bins: int = 6
    """Bins of signal-to-noise of a class at most, in each of which percentiles are counted."""
    min_class_rows: int = 500
    """Calibration rows that a bin needs: a class with fewer than twice as many has one bin, one with fewer
    takes the percentiles of all classes."""
    on_manifold: tuple[str, ...] = ("latent_log_density",)
    """Scores that make `on_manifold_score`."""
    off_manifold: tuple[str, ...] = ("reduced_chi2", "residual_log_density", "-coherent_sigma")
    """Scores that make `off_manifold_score`. A minus means: odd where lower than normal objects are. A quasar without
    a line is drawn better than any that has one. Chosen by `benchmarks.rank_choice` on the validation seed."""
    num_explained: int = 3
    """Windows and reference objects that are named for each spectrum."""
    batch_rows: int = 128
    """Spectra per mini-batch inside the predictor: enough for fast matrix products, few enough for the cache."""
    seed: int = 0
    """Of the draws, the reference sample, and what is trained on it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        antithetic_normal(self.num_draws, 1, 0)
        counts = (
            "num_neighbours", "num_reference", "lof_neighbours", "num_trees", "num_density", "num_snr_bins",
            "min_class_rows", "num_explained", "batch_rows",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.num_reference <= self.num_found:
            raise ValueError(
                f"num_reference {self.num_reference} must exceed num_neighbours, {self.num_found}"
            )
        self._check_names("optional_scores", OPTIONAL)
        for name in ("on_manifold", "off_manifold"):
            self._check_names(name, (*self.scores, *(TOO_LOW + score for score in self.scores)))
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, must be some of {', '.join(self.scores)}")

    def _check_names(self, name: str, known: tuple[str, ...]) -> None:
        if set(getattr(self, name)) - set(known):
            raise ValueError(f"{name} {getattr(self, name)} must be some of {', '.join(known)}")

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores that are computed."""
        return (*ALWAYS, *(name for name in OPTIONAL if name in self.optional_scores))

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Names of what is calibrated: the scores, and those that are ranked by how low they are."""
        ranked = dict.fromkeys((*self.on_manifold, *self.off_manifold))
        return (*self.scores, *(name for name in ranked if name.startswith(TOO_LOW)))

    @property
    def num_found(self) -> int:
        """Neighbours to search for."""
        lof = self.lof_neighbours if "latent_lof" in self.optional_scores else 0
        return max(self.num_neighbours, self.num_explained, lof)
