"""Temperatures of the disk classifier: of halves, and found anew for one that is there, of which nothing else changes."""

import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.train_morphology import calibrated
from engine.checkpoint import Checkpoint, load
from engine.storage import Storage
from models.disk_classifier import SPEC
from models.disk_classifier_config import PRESETS
from models.disk_scores import MEASURED
from models.scoring.probabilities import fit_temperature, sigmoid
from tests.disks import make_disks

SHIPPED = str(Path(__file__).parents[2] / "checkpoints" / "disk_classifier_nircam")


def test_only_what_is_fitted_changes() -> None:
    config = replace(PRESETS["small"], size=40, use_denoised=True)
    module = SPEC.build(config).eval()
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    disks = make_disks(12, 40)
    disks["denoised"] = 0.5 * disks["science"]
    before = Checkpoint(SPEC.name, SPEC.version, asdict(config), {"size": 40}, weights, {}, {"step": 3.0})
    after = calibrated(replace(before, provenance={"command": "train"}), disks)
    for name, values in SPEC.fit(config, module, [], [disks]).items():
        np.testing.assert_array_equal(after.fitted[name], values, err_msg=name)
    assert after.provenance["command"] == "train"
    assert "train_morphology" in after.provenance["calibration_command"]
    assert replace(after, fitted={}, provenance={}).id == before.id
    assert after.metrics == before.metrics


def test_the_shipped_classifier_has_a_temperature_for_either_kind_of_images() -> None:
    fitted = load(SHIPPED, Storage(), SPEC.name, SPEC.version).fitted
    for kind in ("", MEASURED):
        low, high = sorted(fitted[f"temperature_halves{kind}"])
        assert low <= fitted[f"temperature{kind}"][0] <= high
        before, after = fitted[f"calibration_error{kind}"]
        assert after < before


def test_each_half_is_measured_at_the_temperature_of_the_other_in_any_order_of_batches() -> None:
    config = replace(PRESETS["small"], size=40)
    torch.manual_seed(0)
    module, disks = SPEC.build(config).eval(), make_disks(120, 40)
    fitted = SPEC.fit(config, module, [], [disks])
    cuts = (slice(None, 69, -1), slice(69, None, -1))
    again = SPEC.fit(config, module, [], [{k: v[cut].copy() for k, v in disks.items()} for cut in cuts])
    for name, values in fitted.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
    key = np.array([zlib.crc32(row.tobytes()) for row in disks["science"]])
    logits = SPEC.predictor(config, module, fitted, torch.device("cpu"))(disks)["logit_disk"]
    label, errors = disks["label"], np.empty(len(key))
    half = [np.isin(key, np.concatenate([np.sort(key[label == c])[n::2] for c in (0, 1)])) for n in (0, 1)]
    for mine, other in ((0, 1), (1, 0)):
        temperature = fit_temperature(logits[half[other]], label[half[other]])
        assert fitted["temperature_halves"][other] == pytest.approx(temperature, rel=1e-3)
        errors[half[mine]] = sigmoid(logits[half[mine]] / temperature) - label[half[mine]]
    assert fitted["brier"][1] == pytest.approx(np.mean(errors**2), abs=1e-5)
