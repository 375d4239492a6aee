"""What normal objects look like: a sample that a checkpoint keeps, and what was learned from it.

Whatever compares an object with others: neighbours, outlier factor, isolation forest, densities.
"""

# N reference objects, B objects, D latents, K windows

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.scoring.density import ConditionalDensity, density_from_arrays, fit_density
from models.scoring.isolation import Found, Neighbours
from models.scoring.isolation_forest import (
    IsolationForest,
    fit_isolation_forest,
    isolation_forest_from_arrays,
)
from models.scoring.local_outlier import (
    LocalOutlierFactor,
    fit_local_outlier_factor,
    local_outlier_factor_from_arrays,
)
from models.scoring.objects import NO_CLASS, NUM_CONDITIONS, Objects, condition
from models.scoring.spectral_config import ScoringConfig

FORGOTTEN = 0.1
"""Part of the objects that teach the densities without their redshift, so that they know what to say without."""


@dataclass(frozen=True)
class Normal:
    """The reference sample, and what was learned.

    Parameters
    ----------
    scoring
        Which scores.
    reference
        The sample; of it `latent`, `id` and `class_index` are used.
    neighbours
        Its index.
    lof, forest, latent_density, residual_density
        Detectors; None if not asked for.
    """

    scoring: ScoringConfig
    reference: Objects
    neighbours: Neighbours
    lof: LocalOutlierFactor | None
    forest: IsolationForest | None
    latent_density: ConditionalDensity | None
    residual_density: ConditionalDensity | None

    def scores(self, objects: Objects) -> tuple[dict[str, np.ndarray], Found]:
        """Scores [B] by name, NaN where an object is not finite, and the nearest reference objects."""
        found = self.neighbours.search(objects.latent, self.scoring.num_found)
        scores = {"latent_distance": found.mean_distance(self.scoring.num_neighbours)}
        conditions = condition(objects)
        if self.lof:
            scores["latent_lof"] = self.lof(found)
        if self.forest:
            scores["latent_forest"] = self.forest(objects.latent)
        if self.latent_density:
            scores["latent_log_density"] = self.latent_density(objects.latent, conditions)
        if self.residual_density:
            scores["residual_log_density"] = self.residual_density(objects.profile, conditions)
        return {name: np.where(objects.is_finite, score, np.nan) for name, score in scores.items()}, found

    def explain(self, objects: Objects, found: Found) -> dict[str, np.ndarray]:
        """Columns `neighbour_*`: who the nearest reference objects are, and whether they are of the same class."""
        near = found.nearest(self.scoring.num_explained)
        many = found.nearest(self.scoring.num_neighbours)
        same = self.reference.class_index[many.index] == objects.class_index[:, None]
        is_known = (objects.class_index != NO_CLASS) & objects.is_finite
        return {
            "neighbour_id": np.where(objects.is_finite[:, None], self.reference.id[near.index], -1),
            "neighbour_distance": near.distance,
            "neighbour_class_fraction": np.where(is_known, same.mean(1), np.nan),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps."""
        arrays = {
            "latent_reference": self.reference.latent.astype(np.float32),
            "reference_id": self.reference.id.astype(np.int64),
            "reference_class": self.reference.class_index.astype(np.float32),
        }
        arrays |= self.lof.arrays() if self.lof else {}
        arrays |= self.forest.arrays() if self.forest else {}
        arrays |= self.latent_density.arrays("latent_density") if self.latent_density else {}
        arrays |= self.residual_density.arrays("residual_density") if self.residual_density else {}
        return arrays


def fit_normal(scoring: ScoringConfig, sample: Objects, num_threads: int) -> Normal:
    """Learn from a sample in random order: its beginning becomes the reference, all of it teaches the densities.

    Raises
    ------
    ValueError
        If it is too small, or holds values that are not finite.
    """
    if len(sample.latent) <= scoring.num_found:
        raise ValueError(
            f"reference has {len(sample.latent)} rows, need more than num_neighbours = {scoring.num_found}"
        )
    bad = ~sample.is_finite
    if bad.any():
        raise ValueError(
            f"latents or residuals of {bad.sum()} of {len(bad)} reference objects are not finite (first: id "
            f"{sample.id[bad][0]}): the network diverged, or its input holds NaN"
        )
    wanted, seed = scoring.optional_scores, scoring.seed
    reference = sample.take(slice(scoring.num_reference))
    neighbours = Neighbours(reference.latent, scoring.num_found, num_threads)
    latents, conditions = reference.latent, condition(_forgetful(sample, seed))
    return Normal(
        scoring, reference, neighbours,
        fit_local_outlier_factor(neighbours, latents, scoring.lof_neighbours) if "latent_lof" in wanted else None,
        fit_isolation_forest(latents, scoring.num_trees, seed) if "latent_forest" in wanted else None,
        fit_density(sample.latent, conditions, seed) if "latent_log_density" in wanted else None,
        fit_density(sample.profile, conditions, seed) if "residual_log_density" in wanted else None,
    )  # fmt: skip


def _forgetful(sample: Objects, seed: int) -> Objects:
    is_lost = np.random.default_rng([seed, 1]).random(len(sample.latent)) < FORGOTTEN
    return sample._replace(redshift=np.where(is_lost, np.nan, sample.redshift))


def normal_from_arrays(
    scoring: ScoringConfig,
    arrays: Mapping[str, np.ndarray],
    num_latent: int,
    num_windows: int,
    num_threads: int,
) -> Normal:
    """Make it of what `Normal.arrays` gave.

    Raises
    ------
    ValueError
        If something is missing or does not fit the settings.
    """
    reference = _reference(arrays, num_latent)
    num, wanted = len(reference.latent), scoring.optional_scores

    def density(prefix: str, num_values: int) -> ConditionalDensity:
        return density_from_arrays(arrays, prefix, num_values, NUM_CONDITIONS)

    return Normal(
        scoring, reference, Neighbours(reference.latent, scoring.num_found, num_threads),
        local_outlier_factor_from_arrays(arrays, num, scoring.lof_neighbours) if "latent_lof" in wanted else None,
        isolation_forest_from_arrays(arrays, num_latent) if "latent_forest" in wanted else None,
        density("latent_density", num_latent) if "latent_log_density" in wanted else None,
        density("residual_density", num_windows) if "residual_log_density" in wanted else None,
    )  # fmt: skip


def _reference(arrays: Mapping[str, np.ndarray], num_latent: int) -> Objects:
    latent = arrays.get("latent_reference")
    if latent is None or latent.ndim != 2 or latent.shape[1] != num_latent:
        got = "nothing" if latent is None else str(latent.shape)
        raise ValueError(f"latent_reference: got {got}, expected [N, {num_latent}]; fit the scores anew")
    for name in ("reference_id", "reference_class"):
        found = arrays.get(name)
        if found is None or found.shape != latent.shape[:1]:
            got = "nothing" if found is None else str(found.shape)
            raise ValueError(f"{name}: got {got}, expected {latent.shape[:1]}; fit the scores anew")
    unknown = np.full(len(latent), np.nan)
    classes = arrays["reference_class"].astype(np.int64)
    return Objects(latent, unknown[:, None], arrays["reference_id"], classes, unknown, unknown)
