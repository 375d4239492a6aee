"""Temperatures of a disk classifier that is there are found anew, and nothing else of it changes."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.train_morphology import calibrated
from engine.checkpoint import Checkpoint, load
from engine.storage import Storage
from models.disk_classifier import SPEC
from models.disk_classifier_config import PRESETS
from models.disk_scores import MEASURED
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
