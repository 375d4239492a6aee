"""Probabilities of the disk classifier: calibration on held-out objects of known class, and columns."""

# B objects, N held-out objects of known class, M bins

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from engine.column import Column
from engine.flags import LOW_SNR, NOT_SCORED, TRUNCATED
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, LABEL, NO_DISK, UNKNOWN, classifier_input, views
from models.disk_packed import packed
from models.scoring.aperture import INDEPENDENT
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import brier_score, calibration_error, fit_temperature, reliability, sigmoid
from models.spec import Batch, Predict

GPU_ROWS = 256
"""Objects at once on a GPU, at least: fewer leave it idle."""


def columns(config: DiskClassifierConfig) -> tuple[Column, ...]:
    """All columns that `predictor` gives, beside bits for `flags`."""
    judged = "denoised" if config.use_denoised else "measured"
    reddest = config.bands[-1].upper()
    denoised = Column(
        "prob_disk_denoised", "float32", "Probability of a disk from the denoised cutouts, not calibrated",
        ucd="stat.probability",
    )  # fmt: skip
    return (
        Column("logit_disk", "float32", "Log odds of a disk from the measured cutouts, not calibrated"),
        Column("prob_disk_raw", "float32", "Probability of a disk from the measured cutouts, not calibrated",
               ucd="stat.probability"),
        *((denoised,) * config.use_denoised),
        Column("prob_disk", "float32",
               f"Probability of a disk from the {judged} cutouts, calibrated by a temperature",
               ucd="stat.probability"),
        Column("disk_class", "int8",
               f"{DISK}: prob_disk is at least {config.threshold:g}, {NO_DISK}: below, {UNKNOWN}: no probability",
               ucd="meta.code.class"),
        Column("half_light_radius", "float32",
               f"Half-light radius of the {judged} {reddest} image with its PSF, within a third of the cutout's side",
               "arcsec", ucd="phys.angSize"),
        Column("snr", "float32",
               f"Signal to noise of the {reddest} flux within {config.aperture_radius_arcsec:g} arcsec, {INDEPENDENT}",
               ucd="stat.snr"),
    )  # fmt: skip


class _Measured(NamedTuple):
    """Log odds of the measured and of the judged images, S/N, size, whether too large, whether observed; [B] each."""

    logit: np.ndarray
    judged: np.ndarray
    snr: np.ndarray
    half_light: np.ndarray
    is_truncated: np.ndarray
    is_observed: np.ndarray


def fit(
    config: DiskClassifierConfig,
    module: nn.Module,
    reference: Iterable[Batch],  # noqa: ARG001 - nothing is learned from objects that were trained on
    held_out: Iterable[Batch],
) -> dict[str, np.ndarray]:
    """Find the temperature on held-out objects, and measure how good the probabilities are before and after.

    Parameters
    ----------
    module
        Of `ModelSpec.build`, with its weights.
    reference
        Not used.
    held_out
        Batches with the columns that the model reads and `label`.

    Returns
    -------
    dict
        float32: `temperature` [1]; `calibration_error` and `brier` [2], before and after; `reliability_raw`
        and `reliability_calibrated` [M, 3], see `models.scoring.probabilities.reliability`.

    Raises
    ------
    ValueError
        If no held-out object has a label, or all have the same.
    """
    logits, outcome = _held_out(config, module, held_out)
    temperature = fit_temperature(logits, outcome)
    pair = [sigmoid(logits), sigmoid(logits / temperature)]
    tables = [reliability(probability, outcome, config.num_bins) for probability in pair]
    fitted = {
        "temperature": [temperature],
        "calibration_error": [calibration_error(table) for table in tables],
        "brier": [brier_score(probability, outcome) for probability in pair],
        "reliability_raw": tables[0],
        "reliability_calibrated": tables[1],
    }
    return {name: np.asarray(values, np.float32) for name, values in fitted.items()}


def predictor(
    config: DiskClassifierConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    """Return the function from columns to columns.

    Objects without enough usable pixels in one of the three bands get NaN and the flag NOT_SCORED.

    Raises
    ------
    ValueError
        If an array of `fit` is missing or of another shape.
    """
    temperature = _checked(config, fitted)["temperature"][0]
    module = module.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module = packed(module, config.batch_rows)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        found = _measure(config, module, batch, device)
        out = {"logit_disk": found.logit, "prob_disk_raw": sigmoid(found.logit)}
        if config.use_denoised:
            out["prob_disk_denoised"] = sigmoid(found.judged)
        out["prob_disk"] = sigmoid(found.judged / temperature)
        out = {name: np.where(found.is_observed, values, np.nan) for name, values in out.items()}
        out |= {"snr": found.snr, "half_light_radius": found.half_light}
        out = {name: values.astype(np.float32) for name, values in out.items()}
        chosen = np.where(out["prob_disk"] >= config.threshold, DISK, NO_DISK)
        out["disk_class"] = np.where(found.is_observed, chosen, UNKNOWN).astype(np.int8)
        return out | {"flags": _flags(found, config.min_snr)}

    return predict


def _flags(found: _Measured, min_snr: float) -> np.ndarray:
    bits = np.where(found.is_observed, 0, NOT_SCORED.value)
    is_faint = found.is_observed & (found.snr < min_snr)
    # How far noise reaches says nothing of the object.
    is_truncated = found.is_observed & found.is_truncated & ~is_faint
    bits |= np.where(is_faint, LOW_SNR.value, 0)
    return (bits | np.where(is_truncated, TRUNCATED.value, 0)).astype(np.int32)


def _held_out(
    config: DiskClassifierConfig, module: nn.Module, batches: Iterable[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds and classes of the objects of known class, [N] each."""
    device, num_rows = next(module.parameters()).device, 0
    logits, labels = [np.empty(0, np.float64)], [np.empty(0, np.int8)]
    for batch in batches:
        found = _measure(config, module, batch, device)
        known = found.is_observed & (np.asarray(batch[LABEL.name]) != UNKNOWN)
        logits.append(found.judged[known])
        labels.append(np.asarray(batch[LABEL.name], np.int8)[known])
        num_rows += len(known)
    label = np.concatenate(labels)
    if set(label.tolist()) != {NO_DISK, DISK}:
        counts = ", ".join(f"{value}: {(label == value).sum()}" for value in np.unique(label)) or "no label"
        raise ValueError(
            f"held_out has {num_rows} objects ({counts}), must have some of label {DISK} (disk) and of "
            f"{NO_DISK} (not a disk), with all of {', '.join(config.bands)} observed"
        )
    return np.concatenate(logits), label


def _measure(
    config: DiskClassifierConfig, module: nn.Module, batch: Batch, device: torch.device
) -> _Measured:
    """Run a batch of any size through the network, `batch_rows` at a time."""
    module = module.eval()
    rows = config.batch_rows if device.type == "cpu" else max(config.batch_rows, GPU_ROWS)
    names = [column.name for column in classifier_input(config)]
    parts: list[_Measured] = []
    with torch.inference_mode():
        for start in range(0, max(len(batch[names[0]]), 1), rows):
            seen = views(config, {name: batch[name][start : start + rows] for name in names}, device)
            logit = _log_odds(module, seen.science)
            judged = logit if seen.denoised is None else _log_odds(module, seen.denoised)
            found = (logit, judged, seen.snr, seen.half_light, seen.is_truncated, seen.is_observed)
            parts.append(_Measured(*(tensor.cpu().numpy() for tensor in found)))
    return _Measured(*(np.concatenate(pieces) for pieces in zip(*parts, strict=True)))


def _log_odds(module: nn.Module, images: Cutouts) -> torch.Tensor:
    logits = module(images).double()
    return logits[:, DISK] - logits[:, NO_DISK]


def _checked(config: DiskClassifierConfig, fitted: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    table = (config.num_bins, 3)
    expected = {
        "temperature": (1,), "calibration_error": (2,), "brier": (2,),
        "reliability_raw": table, "reliability_calibrated": table,
    }  # fmt: skip
    for name, shape in expected.items():
        found = fitted.get(name)
        if found is None or found.shape != shape:
            got = "nothing" if found is None else found.shape
            raise ValueError(f"{name}: got {got}, expected an array {shape}; fit the scores anew")
    return fitted
