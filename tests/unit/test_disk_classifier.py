"""The disk classifier's settings, images, training and probabilities."""

import dataclasses
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.checkpoint import Checkpoint, load, save
from engine.errors import CheckpointError
from engine.flags import LOW_SNR, NOT_SCORED, TRUNCATED
from engine.infer import InferStage, model_config, open_model
from engine.schema import list_array, to_arrays
from engine.stage import UnitTable, rejected_table
from engine.storage import Storage
from engine.train.epochs import module_weights, run_epoch
from engine.train.plan import EpochPlan
from models.disk_augment import examples
from models.disk_classifier import SPEC
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, NO_DISK, UNKNOWN, centre, classes, turned_at_random, views, whole_views
from models.scoring.cutouts import BANDS, Cutouts
from models.scoring.probabilities import calibration_error, reliability, sigmoid
from tests.cutouts import by_band, hide_band, profile
from tests.disks import make_disks

CPU = torch.device("cpu")
S = 32
SETTINGS = {
    "size": S, "network_pixels": 25, "rotations": 4, "fields": (2, 3, 4), "halvings": (1, 2, 3), "dropout": 0.1,
    "learning_rate": 0.01, "batch_rows": 50,
}  # fmt: skip
CONFIG = DiskClassifierConfig(**SETTINGS)
DENOISED = dataclasses.replace(CONFIG, use_denoised=True)


def started(config: DiskClassifierConfig, steps: int = 10):
    task = SPEC.task(config, 0)
    task.start(CPU, steps)
    return task


def built(config: DiskClassifierConfig, task=None) -> torch.nn.Module:
    """The network that predicts, after training or fresh."""
    module = SPEC.build(config).eval()
    if task is not None:
        weights = {name: value.numpy() for name, value in module_weights(task.modules).items()}
        weights = SPEC.to_build(config, weights)
        module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module


def with_denoised(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return batch | {"denoised": 0.5 * batch["science"]}


@pytest.fixture(scope="module")
def trained():
    """A classifier that was shown 60 batches of toy disks, and what its probabilities are calibrated by."""
    torch.set_num_threads(1)
    task = started(CONFIG, 60)
    for step in range(60):
        task.step(make_disks(48, S, seed=step, unknown=0.1), step)
    module = built(CONFIG, task)
    return task, module, SPEC.fit(CONFIG, module, [], [make_disks(300, S, 1000, unknown=0.2)])


def test_a_few_steps_separate_disks_from_round_galaxies(trained) -> None:
    task, module, fitted = trained
    batch = make_disks(300, S, 2000)
    metrics = task.evaluate(batch)
    assert metrics["auroc"] > 0.97
    assert metrics["accuracy"] > 0.9
    out = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    assert ((out["prob_disk"] > 0.5) == batch["label"]).mean() == pytest.approx(metrics["accuracy"], abs=0.01)
    faint = out["snr"] < np.median(out["snr"])
    assert ((out["prob_disk"] > 0.5) == batch["label"])[~faint].mean() > 0.95


def test_columns_are_what_they_say(trained) -> None:
    _, module, fitted = trained
    batch = make_disks(60, S, 7)
    out = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    np.testing.assert_allclose(out["prob_disk_raw"], sigmoid(out["logit_disk"]), rtol=1e-5)
    np.testing.assert_allclose(
        out["prob_disk"], sigmoid(out["logit_disk"] / fitted["temperature"][0]), rtol=1e-5
    )
    image, error = (by_band(batch[name], S)[:, BANDS.index("f444w")] for name in ("science", "error"))
    at = np.arange(S) - S // 2
    inside = np.hypot(at[:, None] - batch["dy"][:, None, None], at[None, :] - batch["dx"][:, None, None]) < 10
    snr = (image * inside).sum((1, 2)) / np.sqrt((error**2 * inside).sum((1, 2)))
    np.testing.assert_allclose(out["snr"], snr, rtol=0.02, atol=0.3)


def test_calibration_makes_held_out_objects_more_likely_and_says_how_good_it_is(trained) -> None:
    _, module, fitted = trained
    held_out = make_disks(300, S, 1000, unknown=0.2)
    out = SPEC.predictor(CONFIG, module, fitted, CPU)(held_out)
    label, is_known = held_out["label"], held_out["label"] != UNKNOWN
    before, after = (
        float(np.log(np.where(label == DISK, out[name], 1 - out[name])[is_known]).mean())
        for name in ("prob_disk_raw", "prob_disk")
    )
    assert after > before + 1e-4
    assert fitted["temperature"][0] != pytest.approx(1, abs=0.01)
    assert all(values.dtype == np.float32 for values in fitted.values())
    assert fitted["reliability_raw"][:, 0].sum() == fitted["reliability_calibrated"][:, 0].sum() < 300
    right = (label == DISK)[is_known].astype(float)
    table = reliability(out["prob_disk_raw"][is_known], right, CONFIG.num_bins)
    assert fitted["calibration_error"][0] == pytest.approx(calibration_error(table), abs=1e-4)
    assert fitted["brier"][0] == pytest.approx(
        np.mean((out["prob_disk_raw"][is_known] - right) ** 2), abs=1e-4
    )
    assert fitted["brier"][1] < 0.1


def test_an_object_without_one_of_the_three_bands_is_not_scored(trained) -> None:
    _, module, fitted = trained
    predict = SPEC.predictor(CONFIG, module, fitted, CPU)
    batch = make_disks(6, S, 7)
    wanted = predict(batch)
    hide_band(batch, 2, S, BANDS.index("f277w"))
    hide_band(batch, 4, S, BANDS.index("f115w"))  # not used
    out = predict(batch)
    assert (out["flags"] & NOT_SCORED.value).tolist() == [0, 0, NOT_SCORED.value, 0, 0, 0]
    for name in ("logit_disk", "prob_disk_raw", "prob_disk"):
        assert np.isnan(out[name][2])
        np.testing.assert_allclose(np.delete(out[name], 2), np.delete(wanted[name], 2), rtol=1e-5)
    np.testing.assert_allclose(out["snr"], wanted["snr"], rtol=1e-5)


def test_brightness_alone_changes_no_probability(trained) -> None:
    _, module, fitted = trained
    predict = SPEC.predictor(CONFIG, module, fitted, CPU)
    batch = make_disks(20, S, 7)
    batch["science"] *= 300
    brighter = {
        name: values * 10 if name in ("science", "error") else values for name, values in batch.items()
    }
    np.testing.assert_allclose(predict(brighter)["prob_disk"], predict(batch)["prob_disk"], atol=1e-4)


def test_probability_with_denoised_images_is_of_them(trained) -> None:
    _, module, _ = trained
    batch = with_denoised(make_disks(80, S, 3))
    batch["denoised"][1] = batch["denoised"][0]
    fitted = SPEC.fit(DENOISED, module, [], [batch])
    out = SPEC.predictor(DENOISED, module, fitted, CPU)(batch)
    np.testing.assert_allclose(out["prob_disk_raw"], sigmoid(out["logit_disk"]), rtol=1e-5)
    assert out["prob_disk"][0] == out["prob_disk"][1]
    assert out["prob_disk_denoised"][0] == out["prob_disk_denoised"][1]
    assert out["prob_disk_raw"][0] != out["prob_disk_raw"][1]
    assert fitted["temperature_measured"] != fitted["temperature"]
    np.testing.assert_allclose(
        out["prob_disk_raw_calibrated"],
        sigmoid(out["logit_disk"] / fitted["temperature_measured"]),
        rtol=1e-5,
    )
    of_measured = SPEC.fit(CONFIG, module, [], [batch])
    for name, values in of_measured.items():
        np.testing.assert_allclose(fitted[f"{name}_measured"], values, rtol=1e-4, atol=1e-5, err_msg=name)
    old = {name: values for name, values in fitted.items() if not name.endswith(("_measured", "_halves"))}
    before = SPEC.predictor(DENOISED, module, old, CPU)(batch)
    assert np.isnan(before["prob_disk_raw_calibrated"]).all(), (
        "checkpoints without a temperature of these images"
    )
    np.testing.assert_array_equal(before["prob_disk"], out["prob_disk"])
    assert set(out) - {"flags"} == {column.name for column in SPEC.writes(DENOISED)}
    assert "denoised" in {column.name for column in SPEC.reads(DENOISED)}
    assert "denoised" in next(c.description for c in SPEC.writes(DENOISED) if c.name == "prob_disk")
    both = {"prob_disk_denoised", "prob_disk_raw_calibrated"}
    assert not both & {column.name for column in SPEC.writes(CONFIG)}


def test_training_takes_both_kinds_of_images() -> None:
    task = started(DENOISED)
    batch = with_denoised(make_disks(16, S, 3))
    both = task.step(batch, 0)["loss"]
    other = started(DENOISED).step(batch | {"denoised": batch["science"]}, 0)["loss"]
    assert both != other
    assert np.isfinite(task.evaluate(batch)["loss"])


def test_training_on_denoised_images_alone_never_sees_the_others() -> None:
    config = dataclasses.replace(DENOISED, denoised_share=1.0)
    batch = with_denoised(make_disks(16, S, 3))
    whole = whole_views(config, batch, CPU)
    assert whole.denoised is not None
    for share, wanted in ((0.0, whole.science), (1.0, whole.denoised)):
        plain = dataclasses.replace(config, augment=False, denoised_share=share)
        found = examples(plain, whole, np.random.default_rng(0))
        torch.testing.assert_close(found.science, centre(plain, wanted).science)


def test_objects_of_unknown_class_teach_nothing() -> None:
    batch = make_disks(12, S, 5)
    batch["label"][:4] = UNKNOWN
    hide_band(batch, 5, S, BANDS.index("f444w"))
    changed = {name: values.copy() for name, values in batch.items()}
    changed["label"][5] = UNKNOWN
    first, second = started(CONFIG), started(CONFIG)
    assert first.step(batch, 0) == second.step(changed, 0)
    batch["label"][:] = UNKNOWN
    assert first.step(batch, 1)["loss"] == 0
    assert first.evaluate(batch) == {}


def test_one_class_alone_has_no_auroc() -> None:
    batch = make_disks(6, S, 5)
    batch["label"][:] = DISK
    assert set(started(CONFIG).evaluate(batch)) == {"loss", "accuracy"}


def test_labels_outside_the_classes_are_refused() -> None:
    batch = make_disks(4, S, 5)
    batch["label"][1] = 7
    with pytest.raises(ValueError, match=r"label holds 7, must be 1 \(disk\), 0 \(not\) or -1 \(unknown\)"):
        started(CONFIG).step(batch, 0)


@pytest.mark.parametrize("label", [UNKNOWN, DISK, NO_DISK])
def test_calibration_needs_both_classes(label: int) -> None:
    batch = make_disks(8, S, 5)
    batch["label"][:] = label
    with pytest.raises(
        ValueError, match=r"held_out has 8 objects .*must have 2 of label 1 \(disk\) and of 0"
    ):
        SPEC.fit(CONFIG, built(CONFIG), [], [batch])


def test_the_source_is_in_the_middle_of_what_the_network_sees() -> None:
    for size in (S, S + 1):
        batch = make_disks(1, size, 0)
        by_band(batch["science"], size)[:] = 0
        by_band(batch["science"], size)[:, :, size // 2, size // 2] = 1
        seen = views(dataclasses.replace(CONFIG, size=size), batch, CPU)
        assert seen.science.science.shape == (1, 3, 25, 25)
        assert (seen.science.science[0, :, 12, 12] == 1).all()


def test_each_object_is_turned_by_a_symmetry_of_its_own() -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 5, 5).expand(400, 3, 5, 5)
    found = turned_at_random(Cutouts(image, image, image > 0), np.random.default_rng(0))
    distinct, counts = torch.unique(found.science, dim=0, return_counts=True)
    assert len(distinct) == 8
    assert counts.min() > 25
    torch.testing.assert_close(found.science, found.error)
    torch.testing.assert_close(found.science > 0, found.usable)


def test_classes_are_unknown_where_the_object_was_not_observed() -> None:
    batch = make_disks(4, S, 5)
    hide_band(batch, 1, S, BANDS.index("f150w"))
    assert classes(batch, views(CONFIG, batch, CPU)).tolist() == [0, UNKNOWN, 0, 1]


def test_cutouts_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"science is \(2, 3456\), must be \[rows, 6144\]: 32 pixels"):
        views(CONFIG, make_disks(2, 24), CPU)


def test_cutouts_of_another_number_of_bands_are_refused() -> None:
    batch = make_disks(2, S)
    for num_bands in (3, 4):
        fewer = {
            n: batch[n].reshape(2, 6, -1)[:, :num_bands].reshape(2, -1) for n in ("science", "error", "mask")
        }
        with pytest.raises(
            ValueError, match=rf"science is \(2, {num_bands * S * S}\), must be \[rows, 6144\]"
        ):
            views(CONFIG, batch | fewer, CPU)


def test_an_image_without_a_usable_pixel_has_no_probability_and_a_flag(trained) -> None:
    _, module, fitted = trained
    predict = SPEC.predictor(CONFIG, module, fitted, CPU)
    batch = make_disks(4, S, 7)
    wanted = predict(batch)
    batch["mask"][1] = True
    batch["science"][2] = np.nan
    batch["error"][3] = 0
    out = predict(batch)
    assert (out["flags"] & NOT_SCORED.value).tolist() == [
        0,
        NOT_SCORED.value,
        NOT_SCORED.value,
        NOT_SCORED.value,
    ]
    assert out["disk_class"].tolist() == [wanted["disk_class"][0], UNKNOWN, UNKNOWN, UNKNOWN]
    for name in ("logit_disk", "prob_disk_raw", "prob_disk", "half_light_radius"):
        assert np.isnan(out[name][1:]).all(), name
    assert out["prob_disk"][0] == pytest.approx(wanted["prob_disk"][0], rel=1e-5)


def test_a_checkpoint_of_another_group_is_refused_with_what_was_expected(tmp_path) -> None:
    """Settings of 4 rotations and weights of 8: such a checkpoint is whole, and no network of ours."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in SETTINGS.items()}
    module = SPEC.build(dataclasses.replace(CONFIG, rotations=8))
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    uri = str(tmp_path / "checkpoint")
    save(Checkpoint(SPEC.name, SPEC.version, settings, {}, weights, {}), uri, Storage())
    with pytest.raises(CheckpointError, match=r"blocks.0.convolution.* \(32, .*\(16, ") as raised:
        open_model(SPEC, load(uri, Storage(), SPEC.name, SPEC.version), uri)
    assert uri in str(raised.value)


def test_what_is_fitted_is_refused_in_another_shape(trained) -> None:
    _, module, fitted = trained
    with pytest.raises(ValueError, match=r"reliability_raw: got \(15, 3\), expected an array \(10, 3\)"):
        SPEC.predictor(dataclasses.replace(CONFIG, num_bins=10), module, fitted, CPU)


def test_prediction_never_imports_escnn() -> None:
    code = (
        "import sys, torch\n"
        "from models.disk_classifier import SPEC\n"
        f"config = SPEC.config(**{SETTINGS!r})\n"
        "module = SPEC.build(config)\n"
        "from tests.disks import make_disks\n"
        "fitted = SPEC.fit(config, module, [], [make_disks(20, config.size)])\n"
        "SPEC.predictor(config, module, fitted, torch.device('cpu'))(make_disks(2, config.size))\n"
        "sys.exit('escnn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_engine_trains_exports_and_runs_it_as_any_other_model(tmp_path) -> None:
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in SETTINGS.items()}
    config = model_config(SPEC, settings, "model")
    assert config == CONFIG
    columns = tuple(column.name for column in SPEC.learns_from(config))
    assert columns[-1] == "label"
    table = _table(make_disks(120, S, 1, unknown=0.1))
    table = table.append_column("split_hash", pa.array(np.linspace(0, 0.99, 120)))
    task = started(config)
    plan = EpochPlan(columns, 32, 64, 0.3, 0.3, 0)
    epoch = run_epoch(task, task.modules, [table[:50], table[50:]], plan, 0, 0, lambda *_: None)
    assert epoch.next_step == 2
    assert {"val_loss", "val_auroc", "val_accuracy", "train_accuracy"} <= epoch.metrics.keys()
    module = built(config, task)
    fitted = SPEC.fit(config, module, [], [to_arrays(table[:36], columns)])
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    uri, storage = str(tmp_path / "checkpoint"), Storage()
    save(Checkpoint(SPEC.name, SPEC.version, settings, {}, weights, fitted), uri, storage, "float16")
    rows = (
        _table(make_disks(9, S, 3))
        .drop_columns("label")
        .append_column("flags", pa.array([4] * 9, pa.int32()))
    )
    out = InferStage.from_checkpoint(SPEC, uri).open()(UnitTable(rows, rejected_table([]), 9)).rows
    assert np.isfinite(out["prob_disk"].to_numpy()).all()
    assert all(flags & 4 for flags in out["flags"].to_pylist())


def _table(batch: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({k: list_array(v) if v.ndim == 2 else pa.array(v) for k, v in batch.items()})


def test_faint_objects_are_flagged_and_classes_follow_the_threshold(trained) -> None:
    _, module, fitted = trained
    batch = make_disks(8, S, seed=9)
    out = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    np.testing.assert_array_equal(out["disk_class"], (out["prob_disk"] >= 0.5).astype(np.int8))
    assert (out["half_light_radius"] > 0).all()
    strict = dataclasses.replace(CONFIG, threshold=0.99, min_snr=1e9)
    out = SPEC.predictor(strict, module, fitted, CPU)(batch)
    assert ((out["flags"] & LOW_SNR.value) != 0).all()
    assert (out["disk_class"] == (out["prob_disk"] >= 0.99)).all()


def test_objects_whose_light_reaches_beyond_the_cutout_are_flagged_unless_too_faint(trained) -> None:
    _, module, fitted = trained
    batch, ones = make_disks(8, S, seed=9), np.ones(8)
    scales = np.repeat([1.2, 6.0], 4)  # of exponential disks; S // 3 pixels around the middle count
    disks = 1e4 * profile(S, batch["dx"], batch["dy"], scales, ones, ones).astype(np.float32)
    batch["science"] += np.tile(disks.reshape(8, -1), len(BANDS))
    out = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    np.testing.assert_array_equal((out["flags"] & TRUNCATED.value) != 0, np.repeat([False, True], 4))
    faint = dataclasses.replace(CONFIG, min_snr=1e9)
    out = SPEC.predictor(faint, module, fitted, CPU)(batch)
    assert not (out["flags"] & TRUNCATED.value).any()
