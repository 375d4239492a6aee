"""Scores of objects whose LW bands were predicted from their SW bands: fitting, and the predictor.

`models.scoring.band_sums` gives sums over pixels; what they mean is worked out here, with what `fit` learned from normal
objects:

- principal axes of the features, and a sample of normal objects along them (isolation);
- `coherence`, the part of the predicted variance that pixels of one aperture have in common;
- percentiles of pixels that the reference score M is measured in;
- the distribution of each score in classes of signal to noise, for what is normal depends on it.
"""

# B objects, S pixels a side, D latents, F features; arrays of bands are [B, 3] LW or [B, 6] all

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, NOT_SCORED
from models.scoring.aperture import magnitude_residual
from models.scoring.band_columns import BAND_SCORES, COMBINED, SCORES, BandScoringConfig
from models.scoring.band_sums import Raw, Scorer
from models.scoring.calibration import Calibration, calibration_from_arrays, fit_calibration
from models.scoring.cutouts import BANDS, LW, LW_BANDS, PIVOT_UM, SW
from models.scoring.isolation import Neighbours
from models.scoring.ranking import rank, union
from models.scoring.sample import random_rows
from models.spec import Batch, Predict

M_PERCENTILES = (10, 90)
"""Percentiles of the target band between which M is measured."""
M_PIXEL_STEP = 37
"""One pixel of so many is taken for those percentiles; odd, so that columns of a cutout alternate."""

IMAGES = {"predicted", "residual"}
"""What of the sums is images, and there only if asked for."""

MEDIAN_CHI2 = 0.454936
"""Median of chi-square with one degree of freedom."""
MIN_COHERENCE_ROWS = 20


def is_observed(raw: Raw, config: BandScoringConfig) -> np.ndarray:
    """Whether enough of the aperture is usable, for each band; [B, 6]."""
    return raw["fraction"] >= config.min_aperture_fraction


def is_compared(raw: Raw, config: BandScoringConfig) -> np.ndarray:
    """Whether enough of the aperture is usable in a LW band and in all SW bands, [B, 3]."""
    return is_observed(raw, config)[:, LW] & (raw["compared_fraction"] >= config.min_aperture_fraction)


def is_scored(raw: Raw, config: BandScoringConfig) -> np.ndarray:
    """Whether all SW bands were observed, [B]."""
    return np.asarray(is_observed(raw, config)[:, SW].all(1))


def predicted_error(raw: Raw, coherence: np.ndarray | float) -> np.ndarray:
    """Return the standard deviation of predicted aperture fluxes [nJy], [B, 3].

    The variance of a sum whose terms all have the correlation `coherence`, [3], with each other.
    """
    shared, own = raw["coherent_error"] ** 2, raw["independent_error"] ** 2
    return np.sqrt(coherence * shared + (1 - coherence) * own)


def fit_coherence(raw: Raw, chosen: np.ndarray) -> np.ndarray:
    """Find, for each LW band, the correlation that makes the median squared significance that of a normal.

    Only objects whose prediction may be less certain than their measurement say something about it; with
    fewer than 20 of them it is 1, which errs to caution.

    Parameters
    ----------
    raw
        Of normal objects.
    chosen
        [B, 3] bands that can be compared.

    Returns
    -------
    numpy.ndarray
        [3], each in [0, 1].
    """
    found = np.ones(len(LW_BANDS), np.float32)
    for band in range(len(LW_BANDS)):
        error = raw["flux_error"][:, LW][:, band]
        rows = chosen[:, band] & (raw["coherent_error"][:, band] > error)
        if rows.sum() >= MIN_COHERENCE_ROWS:
            part = {key: raw[key][rows, band] for key in ("coherent_error", "independent_error")}
            squared = (raw["flux"][rows, LW][:, band] - raw["predicted_flux"][rows, band]) ** 2
            found[band] = _solve_coherence(part, squared, error[rows])
    return found


def _solve_coherence(errors: Raw, squared: np.ndarray, noise: np.ndarray) -> float:
    """Bisect: the median falls as the correlation grows."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        significance = squared / (noise**2 + predicted_error(errors, middle) ** 2)
        low, high = (middle, high) if np.median(significance) > MEDIAN_CHI2 else (low, middle)
    return float((low + high) / 2)


class Normal(NamedTuple):
    """What `fit` learned but the calibration, as arrays."""

    latent_centre: np.ndarray
    latent_axes: np.ndarray
    latent_reference: np.ndarray
    coherence: np.ndarray
    m_bounds: np.ndarray


def fit(
    scorer: Scorer, reference: Iterable[Batch], held_out: Iterable[Batch], num_threads: int
) -> dict[str, np.ndarray]:
    """Learn what is normal; see the module.

    Parameters
    ----------
    scorer
        Of the trained network.
    reference
        Batches of training objects, for the latent space and the percentiles of M.
    held_out
        Batches of objects that were not trained on.
    num_threads
        Threads of the neighbour search.

    Raises
    ------
    ValueError
        If there are too few rows for either.
    """
    config = scorer.config
    pixels: list[np.ndarray] = []
    sample = random_rows(_features(scorer, reference, pixels), config.num_reference, config.seed)
    features = sample[0] if sample else np.empty((0, 0))
    smallest = max(config.num_neighbours, config.num_latent)
    if len(features) <= smallest:
        raise ValueError(
            f"reference has {len(features)} rows that can be scored, need more than the larger of num_neighbours and "
            f"num_latent = {smallest}"
        )
    centre, axes = _principal_axes(features, config.num_latent)
    bounds = np.nanpercentile(np.concatenate(pixels, 1), M_PERCENTILES, axis=1).T
    raw = _held_out(scorer, held_out)
    coherence = fit_coherence(raw, is_compared(raw, config))
    normal = Normal(centre, axes, (features - centre) @ axes, coherence, bounds)
    scores = _scores(
        config, normal, raw, Neighbours(normal.latent_reference, config.num_neighbours, num_threads)
    )
    labels = _labels(config, scores["input_snr"])
    oriented = {name: _oriented(scores, name) for name in SCORES}
    calibration = fit_calibration(oriented, labels, config.min_class_rows, config.classes)
    arrays = {key: np.asarray(value, np.float32) for key, value in normal._asdict().items()}
    return arrays | calibration.arrays()


def _features(
    scorer: Scorer, batches: Iterable[Batch], pixels: list[np.ndarray]
) -> Iterable[tuple[np.ndarray]]:
    """Yield features of objects that can be scored; some LW pixels of each go to `pixels`, [3, n], NaN if masked."""
    for batch in batches:
        shape = (len(batch["science"]), len(BANDS), -1)
        images, masks = (
            np.asarray(batch[n]).reshape(shape)[:, LW, ::M_PIXEL_STEP] for n in ("science", "mask")
        )
        pixels.append(np.where(masks, np.nan, images).transpose(1, 0, 2).reshape(len(LW_BANDS), -1))
        raw = scorer(batch)
        yield (raw["features"][is_scored(raw, scorer.config)],)


def _held_out(scorer: Scorer, batches: Iterable[Batch]) -> Raw:
    """Return the sums of all held-out objects, without images."""
    parts = [{k: v for k, v in scorer(batch).items() if k not in IMAGES} for batch in batches]
    if not parts:
        raise ValueError("held_out has no rows: percentiles need some that were not trained on")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _principal_axes(features: np.ndarray, num_latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [F] and axes [F, D] along which the features have unit variance, or none where they do not vary."""
    centre = features.mean(0)
    _, singular, axes = np.linalg.svd(features - centre, full_matrices=False)
    sigma = singular[:num_latent] / np.sqrt(len(features) - 1)
    inverse = np.where(sigma > 1e-5 * sigma[0], 1 / np.maximum(sigma, np.finfo(np.float32).tiny), 0)
    return centre, axes[:num_latent].T * inverse


def _scores(config: BandScoringConfig, normal: Normal, raw: Raw, neighbours: Neighbours) -> Raw:
    """Columns before calibration; NaN where a band, or what it is predicted from, was not observed."""
    observed = is_observed(raw, config)
    scored = is_scored(raw, config)
    flux, error = (np.where(observed, raw[name], np.nan) for name in ("flux", "flux_error"))
    hidden = ~(scored[:, None] & is_compared(raw, config))
    out: Raw = {f"flux_{band}": flux[:, i] for i, band in enumerate(BANDS)}
    out |= {f"flux_error_{band}": error[:, i] for i, band in enumerate(BANDS)}
    out["input_snr"] = np.sqrt((np.maximum(flux[:, SW] / error[:, SW], 0) ** 2).sum(1))
    bands = _band_scores(normal, raw, flux[:, LW], error[:, LW])
    bands = {name: np.where(hidden, np.nan, values) for name, values in bands.items()}
    out |= {f"{name}_{band}": v[:, i] for name, v in bands.items() for i, band in enumerate(LW_BANDS)}
    out["aperture_chi2"] = _mean(bands["flux_residual_sigma"] ** 2, ~hidden)
    out["reduced_chi2"] = _mean(bands["reduced_chi2"], ~hidden * raw["num_pixels"])
    out["m_residual"] = _mean(bands["m_residual"], ~hidden)
    latent = ((raw["features"] - normal.latent_centre) @ normal.latent_axes).astype(np.float32)
    out["latent_mean"] = np.where(scored[:, None], latent, np.nan)
    out["latent_distance"] = np.where(scored, neighbours.mean_distance(latent), np.nan)
    return out


def _band_scores(normal: Normal, raw: Raw, flux: np.ndarray, error: np.ndarray) -> Raw:
    """Scores of the LW bands, [B, 3] each."""
    predicted, sigma = raw["predicted_flux"], predicted_error(raw, normal.coherence)
    low, high = normal.m_bounds.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "flux_predicted": predicted,
            "flux_predicted_error": sigma,
            "mag_residual": magnitude_residual(flux, predicted, error),
            "flux_residual_sigma": (flux - predicted) / np.hypot(error, sigma),
            "reduced_chi2": raw["chi2"] / raw["num_pixels"],
            # Follow-up of Pearce-Casey et al. (2023), notebook cGAN_Lens_Finding: (sum |y - y'| - mu1) / (mu2 - mu1).
            "m_residual": (raw["absolute"] - low) / (high - low),
        }


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over bands; NaN where all weights are 0."""
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, values * weights, 0).sum(1) / weights.sum(1)


def _labels(config: BandScoringConfig, snr: np.ndarray) -> np.ndarray:
    """Calibration class of each row; None where the signal to noise is not known."""
    names = np.array([*config.classes[:-1], None], object)
    index = np.searchsorted(config.snr_edges, snr, side="right")
    return names[np.where(np.isfinite(snr), index, len(names) - 1)]


def _oriented(scores: Raw, name: str) -> np.ndarray:
    """Return a score with high meaning anomalous: both signs of a significance are."""
    return np.abs(scores[name]) if name.startswith("flux_residual_sigma") else scores[name]


def predictor(scorer: Scorer, fitted: Mapping[str, np.ndarray], num_threads: int) -> Predict:
    """Make the function from cutouts to all columns of `band_columns.columns`.

    Raises
    ------
    ValueError
        If `fitted` is not what `fit` returned for this configuration.
    """
    config = scorer.config
    normal = Normal(**{name: _fitted(fitted, name) for name in Normal._fields})
    if normal.latent_reference.shape[1:] != (config.num_latent,):
        got = normal.latent_reference.shape
        raise ValueError(
            f"latent_reference: got {got}, expected [N, {config.num_latent}]; fit the scores anew"
        )
    neighbours = Neighbours(normal.latent_reference, config.num_neighbours, num_threads)
    calibration = calibration_from_arrays(SCORES, fitted, config.classes)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        raw = scorer(batch)
        return _publish(config, calibration, _scores(config, normal, raw, neighbours), raw)

    return predict


def _fitted(fitted: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in fitted:
        raise ValueError(f"{name}: got nothing, expected an array; fit the scores anew")
    return fitted[name]


def _publish(
    config: BandScoringConfig, calibration: Calibration, scores: Raw, raw: Raw
) -> dict[str, np.ndarray]:
    """Calibrate, rank, and give each value the declared name and type."""
    classes, fallback = calibration.usable_classes(_labels(config, scores["input_snr"]))
    judged = {name: calibration.judge(name, _oriented(scores, name), classes) for name in SCORES}
    log10_p = {name: judgement.log10_p for name, judgement in judged.items()}
    out: dict[str, Any] = dict(scores)
    out |= {f"{column.name}_percentile": judged[column.name].percentile for column in COMBINED}
    out |= {f"{column.name}_p_value": 10.0 ** -log10_p[column.name] for column in COMBINED}
    out |= rank(log10_p, config.on_manifold, config.off_manifold)
    of_band = {band: union(log10_p, [n for n in BAND_SCORES if n.endswith(band)]) for band in LW_BANDS}
    out |= {f"score_{band}": score for band, score in of_band.items()}
    out["worst_wave"] = _worst_wave(np.stack(list(of_band.values()), 1))
    not_scored = ~is_scored(raw, config)
    for name in raw.keys() & IMAGES:
        out[name] = np.where(not_scored[:, None], np.float32(np.nan), raw[name])
    flags = not_scored * NOT_SCORED.value + (fallback & ~not_scored) * CLASS_FALLBACK.value
    flags |= np.any([judgement.beyond for judgement in judged.values()], axis=0) * BEYOND_CALIBRATION.value
    return {k: v.astype(np.float32, copy=False) for k, v in out.items()} | {"flags": flags.astype(np.int32)}


def _worst_wave(scores: np.ndarray) -> np.ndarray:
    """Pivot wavelength of the band with the largest of the scores [B, 3]; NaN where all are NaN."""
    index = np.where(np.isfinite(scores), scores, -np.inf).argmax(1)
    return np.where(np.isfinite(scores).any(1), np.array(PIVOT_UM[LW])[index], np.nan)
