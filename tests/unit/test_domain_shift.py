"""Folds of real galaxies in the benchmarks of the disk classifier: nothing is tuned on what it is judged by."""

from argparse import Namespace
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import ceers_morphology
from benchmarks.ceers_morphology import calibrated, probability, stratified_folds
from benchmarks.domain_shift import ADAPTED, in_folds, log_odds
from benchmarks.last_layer import fit_last_layer
from models.disk_classifier import SPEC
from models.disk_images import DISK, NO_DISK, views
from models.scoring.probabilities import sigmoid
from tests.disks import make_disks

CPU = torch.device("cpu")
LABEL = np.array([1] * 13 + [0] * 7 + [-1] * 3, np.int8)


def with_denoised(rows: int, seed: int) -> dict[str, np.ndarray]:
    batch = make_disks(rows, ADAPTED.size, seed)
    return batch | {"denoised": batch["science"]}


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return SPEC.build(ADAPTED).eval()


def test_each_fold_has_its_part_of_both_classes() -> None:
    label = LABEL[LABEL >= 0]
    fold = stratified_folds(label, 5, np.random.default_rng(0))
    for value in (DISK, NO_DISK):
        counts = np.bincount(fold[label == value], minlength=5)
        assert counts.sum() == (label == value).sum()
        assert counts.max() - counts.min() <= 1


def test_a_galaxy_is_calibrated_by_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    probability = np.random.default_rng(1).uniform(0.05, 0.95, len(LABEL))
    used: list[np.ndarray] = []

    def spy(logits: np.ndarray, outcome: np.ndarray) -> float:
        assert len(logits) == len(outcome)
        used.append(np.round(1 / (1 + np.exp(-logits)), 6))
        return 2.0

    monkeypatch.setattr(ceers_morphology, "fit_temperature", spy)
    found = calibrated(Namespace(repeats=2, folds=5, seed=3), probability, LABEL)
    assert len(used) == 10
    times = [sum(round(value, 6) in one for one in used) for value in probability]
    assert times == [8] * 20 + [0] * 3, "in four of five folds, twice; without a class never"
    odds = probability / (1 - probability)
    np.testing.assert_allclose(found[:20] / (1 - found[:20]), np.sqrt(odds[:20]), rtol=1e-6)
    assert np.isnan(found[20:]).all()


def test_networks_are_tuned_on_other_folds_alone() -> None:
    real, test = with_denoised(20, 1), with_denoised(12, 2)
    real["dx"] = np.arange(20, dtype=np.float32) / 100  # a name for each
    seen: list[set[float]] = []

    def tune(
        _args: Namespace, module: torch.nn.Module, galaxies: dict[str, np.ndarray], _rng: object
    ) -> None:
        seen.append({round(float(value), 2) for value in galaxies["dx"]})
        module.get_submodule("head.linear").bias.data += 1.0

    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = in_folds(Namespace(repeats=1, folds=5), module, real, test, tune, 0)
    assert [len(one) for one in seen] == [16] * 5
    left_out = [value for one in seen for value in {n / 100 for n in range(20)} - one]
    assert sorted(left_out) == [n / 100 for n in range(20)]
    assert np.isfinite(found["denoised"]).all()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_log_odds_of_all_folds_are_on_the_scale_that_tuning_gave_them() -> None:
    real, test = with_denoised(20, 1), with_denoised(12, 2)
    real["dx"] = np.arange(20, dtype=np.float32) / 100  # a name for each
    factor_of: dict[float, float] = {}

    def sharpen(
        _args: Namespace, module: torch.nn.Module, galaxies: dict[str, np.ndarray], _rng: object
    ) -> None:
        factor = 1.0 + len(factor_of)
        factor_of.update(dict.fromkeys(set(real["dx"].tolist()) - set(galaxies["dx"].tolist()), factor))
        for values in module.get_submodule("head.linear").parameters():
            values.data *= factor

    module = network()
    found = in_folds(Namespace(repeats=1, folds=5), module, real, test, sharpen, 0)
    factors = np.array([factor_of[name] for name in real["dx"].tolist()])
    assert len(set(factors)) == 5
    for kind in ("denoised", "raw"):
        np.testing.assert_allclose(found[kind], factors * log_odds(ADAPTED, module, real, kind), rtol=1e-3)


def test_a_fitted_last_layer_has_no_temperature_of_the_shipped_one() -> None:
    galaxies, module = with_denoised(8, 1), network()
    fitted = {
        "temperature": np.array([0.5], np.float32),
        "calibration_error": np.zeros(2),
        "brier": np.zeros(2),
    }
    table = np.zeros((ADAPTED.num_bins, 3))
    fitted |= {"reliability_raw": table, "reliability_calibrated": table}
    checkpoint = Namespace(config=asdict(ADAPTED), fitted=fitted)
    found = probability(module, checkpoint, galaxies)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found, sigmoid(log_odds(ADAPTED, module, galaxies, "denoised")), atol=1e-5)


def test_the_last_layer_is_fitted_and_a_penalty_holds_it() -> None:
    galaxies = with_denoised(24, 3)

    def loss(module: torch.nn.Module) -> float:
        with torch.no_grad():
            logits = module(views(ADAPTED, galaxies, CPU).judged)
            return float(cross_entropy(logits, torch.tensor(galaxies["label"]).long()))

    free, held, start = network(), network(), network()
    fit_last_layer(ADAPTED, free, galaxies, 1e-3)
    fit_last_layer(ADAPTED, held, galaxies, 1e9)
    assert loss(free) < loss(held) - 0.05
    weights = [module.get_submodule("head.linear").weight for module in (held, start)]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0)
    for name, value in free.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, start.state_dict()[name]), name
