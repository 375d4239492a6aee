"""Training of generators: what it refuses, how it goes on, what is stored, and golden losses."""

import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.flags import NOT_SCORED
from engine.images.columns import pixel_columns
from engine.train.epochs import module_weights
from models import MODELS
from models.generators import stylegan
from models.generators import task as tasks
from models.generators.average import AVERAGE, TRAINED, Averaged, exported
from models.generators.distances import distance_metrics
from models.generators.images import STRETCH, Normaliser, measured_stretch, predicted_rows, stretch_settings
from models.generators.vae import ImageVAEConfig
from models.training import unwrapped
from tests.blobs import make_blobs
from tests.cutouts import make_cutouts
from tests.tinygenerators import (
    CPU,
    PRESETS,
    TOLD,
    blobs,
    built,
    families,
    sampler,
    started,
    tiny,
    told,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "generators.json"


@families
def test_bad_images_are_refused_in_training_and_flagged_after(name: str) -> None:
    config, spec = told(name), MODELS[name]
    batch, module = blobs(config, 12), built(name, config)
    predict = spec.predictor(config, module, spec.fit(config, module, [batch], []), CPU)
    wanted = predict(batch)
    for row, key, value, message in (
        (2, "image", np.nan, "image of row 2 holds NaN or infinite values"),
        (3, "image", 7.0, "image of row 3 is constant"),
        (5, "axis_ratio", 0.1, r"axis_ratio of row 5 is 0.1, must be in the trained range \[0.4, 1\]"),
    ):
        bad = {name: values.copy() for name, values in batch.items()}
        bad[key][row] = value
        for call in (lambda task, b: task.step(b, 0), lambda task, b: task.evaluate(b)):
            with pytest.raises(ValueError, match=message):
                call(started(name, config), bad)
        out = predict(bad)
        assert list(np.flatnonzero(out["flags"])) == [row]
        assert out["flags"][row] == NOT_SCORED.value
        verdict = next(values for key, values in out.items() if key not in ("flags", "latent"))
        assert list(np.flatnonzero(np.isnan(verdict))) == [row]
        good = np.arange(12) != row
        np.testing.assert_allclose(out[next(iter(out))][good], wanted[next(iter(out))][good], 1e-4, 1e-4)


@families
def test_rows_without_a_condition_are_left_out_of_training(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="models")
    config, spec = told(name), MODELS[name]
    batch, condition = blobs(config, 12), config.conditions[0]
    some = {key: values[2:] for key, values in batch.items()}
    null = {**batch, condition: np.array([None, None, *batch[condition][2:].tolist()], object)}
    assert started(name, config).step(null, 0) == started(name, config).step(some, 0)
    assert "left out 2 of 12 rows of a batch: a condition is null" in caplog.text
    fitted, wanted = (spec.fit(config, built(name, config), [one], []) for one in (null, some))
    for key, values in wanted.items():
        np.testing.assert_array_equal(fitted[key], values)
    none = {**batch, condition: np.full(12, np.nan)}
    with pytest.raises(ValueError, match="none of 12 rows has all of"):
        started(name, config).step(none, 0)


@families
def test_as_many_rows_as_the_specification_says_are_enough_for_a_loss(name: str) -> None:
    config, least = tiny(name), MODELS[name].judged_rows
    assert "loss" in started(name, config).evaluate(blobs(config, least))
    assert "loss" not in started(name, config).evaluate(blobs(config, least - 1))


@families
def test_a_distance_is_of_all_rows_at_once_and_few_go_through_the_networks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def distances(real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        compared.append((len(real), len(fake)))
        return distance_metrics(real, fake)

    monkeypatch.setattr(tasks, "distance_metrics", distances)
    config = tiny(name)
    batch, one = blobs(config, 40), started(name, config).evaluate(blobs(config, 16))
    monkeypatch.setattr(tasks, "PIECE_ROWS", 16)
    assert started(name, config).evaluate(blobs(config, 16)) == one, "one piece is as without pieces"
    many = started(name, config).evaluate(batch)
    assert compared == [(16, 16), (16, 16), (40, 40)]
    assert many.keys() == one.keys()
    assert np.isfinite([*many.values()]).all()
    assert many == started(name, config).evaluate(batch), "deterministic"


@families
def test_objects_of_unknown_class_are_left_out_of_training_and_flagged_after(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="models")
    config = tiny(name, conditions=("label",), condition_low=(0.0,), condition_high=(1.0,))
    label = np.array([0, 1, 1, 0, -1, 1, -1, 0, 1, 0, 1, 0], np.int8)
    batch = blobs(tiny(name), 12) | {"label": label}
    known = {key: values[label >= 0] for key, values in batch.items()}
    assert started(name, config).step(batch, 0) == started(name, config).step(known, 0)
    assert np.isfinite(started(name, config).evaluate(batch)["loss"])
    assert "left out 2 of 12 rows of a batch: a condition is null" in caplog.text
    seen = predicted_rows(config, batch, CPU)
    assert seen.usable.tolist() == (label >= 0).tolist()
    assert torch.isfinite(seen.condition).all()
    wide = dataclasses.replace(config, condition_low=(-2.0,))
    assert predicted_rows(wide, batch, CPU).usable.tolist() == (label >= 0).tolist()


def test_an_angle_may_be_a_condition_of_images_that_are_not_turned() -> None:
    angle = {"conditions": ("position_angle_deg",), "condition_low": (0.0,), "condition_high": (180.0,)}
    assert tiny("image_flow", augment=False, **angle).conditions == ("position_angle_deg",)


def test_minus_one_is_a_value_of_any_other_condition() -> None:
    config = tiny("image_vae", conditions=("tilt",), condition_low=(-1.0,), condition_high=(1.0,))
    batch = blobs(tiny("image_vae"), 4) | {"tilt": np.array([-1.0, 0.0, 1.0, -1.0])}
    assert predicted_rows(config, batch, CPU).usable.all()


def test_images_of_another_size_are_refused() -> None:
    config = tiny("image_flow")
    with pytest.raises(
        ValueError, match=r"image is \(4, 1024\), must be \[rows, 256\]: 1 channels of 16 x 16"
    ):
        started("image_flow", config).step(make_blobs(4, 32), 0)


def test_a_channel_may_hold_one_number() -> None:
    config = tiny("image_vae", num_channels=2, stretched_mean=(0.0, 0.0), stretched_std=(1.0, 1.0))
    batch = blobs(config, 4)
    batch["image"].reshape(4, 2, -1)[:, 1] = 0.3
    assert np.isfinite(started("image_vae", config).step(batch, 0)["loss"])


@families
def test_staged_cutouts_are_learned_from_as_they_are(name: str) -> None:
    six = {"num_channels": 6, "stretched_mean": (0.0,) * 6, "stretched_std": (1.0,) * 6, "softening": 30.0}
    config = tiny(name, image_column="science", **six)
    (column,) = MODELS[name].reads(config)
    staged = pixel_columns(config.size)[0]
    assert (column.name, column.dtype, column.length, column.packed) == (
        staged.name, staged.dtype, staged.length, staged.packed,
    )  # fmt: skip
    batch = make_cutouts(8, config.size)
    task = started(name, config)
    assert np.isfinite(task.step(batch, 0)["loss"])
    assert np.isfinite(task.evaluate(batch)["loss"])
    assert sampler(name, config).sample(np.arange(2))["image"].shape == (2, 6 * config.size**2)


@families
def test_epochs_are_chosen_by_the_distance_of_samples(name: str) -> None:
    """The loss of `evaluate` is that of images drawn from the mean weights, whatever is trained by."""
    config = tiny(name)
    task, batch = started(name, config), blobs(config, 32, 1)
    before = task.evaluate(batch)
    assert {"loss", "distance_pixels", "distance_power"} <= before.keys()
    assert before["loss"] == pytest.approx(before["distance_pixels"] + before["distance_power"])
    for step in range(20):
        task.step(blobs(config, 16, 2 + step), step)
    assert task.evaluate(batch)["loss"] < before["loss"]


def test_epochs_of_a_flow_are_judged_by_images_drawn_as_samples_are() -> None:
    """With fewer steps the solver is judged, and networks that need them all look worse."""
    every, same, fewer = (
        tiny("image_flow", monitor_steps=steps) for steps in (0, tiny("image_flow").steps, 2)
    )
    batch = blobs(every, 16, 1)
    found = [started("image_flow", config).evaluate(batch)["loss"] for config in (every, same, fewer)]
    assert found[0] == found[1] != found[2]


@families
def test_resumed_training_repeats_the_next_step_and_its_metrics(name: str) -> None:
    config = told(name)
    first, second = started(name, config), started(name, config, seed=0)
    for step in range(5):
        first.step(blobs(config, 8, step), step)
    second.load_state_dict({k: _copied(v) for k, v in first.state_dict().items()})
    assert first.evaluate(blobs(config, 8)) == second.evaluate(blobs(config, 8))
    for step in range(5, 10):
        assert first.step(blobs(config, 8, step), step) == second.step(blobs(config, 8, step), step)


@families
def test_training_in_bfloat16_has_nearly_the_losses_of_float32(name: str) -> None:
    exact, rough = (started(name, told(name, precision=kind)) for kind in ("float32", "bfloat16"))
    for step in range(3):
        wanted, found = (task.step(blobs(told(name), 16, step), step) for task in (exact, rough))
        assert found.keys() == wanted.keys()
        assert found["loss"] == pytest.approx(wanted["loss"], rel=0.03)


@families
def test_what_is_kept_and_sampled_is_the_mean_of_the_weights(name: str) -> None:
    config, spec = tiny(name, ema_decay=0.5), MODELS[name]
    task = started(name, config)
    bare = {key: unwrapped(module) for key, module in task.modules.items()}
    averaged = {key: module for key, module in bare.items() if isinstance(module, Averaged)}
    before = {key: _parameters(module.trained) for key, module in averaged.items()}
    task.step(blobs(config, 8), 0)
    for key, module in averaged.items():
        means, after = dict(module.average.named_buffers()), _parameters(module.trained)
        for parameter, value in after.items():
            # (1 + step) / (10 + step) in step 0
            torch.testing.assert_close(means[parameter], 0.1 * before[key][parameter] + 0.9 * value)
    weights = {key: value.numpy() for key, value in module_weights(bare).items()}
    module = spec.build(config)
    module.load_state_dict({k: torch.tensor(v) for k, v in spec.to_build(config, weights).items()})
    assert spec.sampler is not None
    images = spec.sampler(config, module, CPU).sample(np.arange(4))["image"]
    raw = {
        ".".join(part for part in key.split(".") if part != TRAINED): torch.tensor(value)
        for key, value in weights.items()
        if AVERAGE not in key.split(".")
    }
    module.load_state_dict(raw)
    assert not np.allclose(spec.sampler(config, module, CPU).sample(np.arange(4))["image"], images, atol=1e-5)


def test_export_leaves_what_has_no_mean() -> None:
    one = np.ones(1)
    found = exported(
        None, {"generator.trained.a.average": 2 * one, "generator.average.a.average": one, "judge.b": one}
    )
    assert set(found) == {"generator.a.average", "judge.b"}
    assert found["generator.a.average"] is one


def test_a_logit_does_not_depend_on_the_batch_it_is_found_in() -> None:
    config = tiny("image_stylegan")
    spec, module = stylegan.SPEC, built("image_stylegan", config)
    batch = blobs(config, 16)
    predict = spec.predictor(config, module, spec.fit(config, module, [batch], []), CPU)
    same = {"image": np.repeat(batch["image"][:1], 16, 0)}
    np.testing.assert_allclose(
        predict(same)["discriminator_logit"], predict(batch)["discriminator_logit"][0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["image_alae", "image_stylegan"])
def test_too_few_images_are_no_distribution_to_measure_a_distance_from(name: str) -> None:
    task = started(name, tiny(name))
    assert {"loss", "discriminator"} <= set(task.evaluate(blobs(tiny(name), 8)))
    assert "loss" not in task.evaluate(blobs(tiny(name), 7))


def test_measured_stretch_gives_networks_mean_0_and_variance_1() -> None:
    config = tiny("image_vae", num_channels=2, stretched_mean=(0.0, 0.0), stretched_std=(1.0, 1.0))
    images = blobs(config, 50)["image"]
    mean, std = measured_stretch(config, images)
    config = dataclasses.replace(config, stretched_mean=mean, stretched_std=std)
    normaliser = Normaliser(config)
    seen = normaliser(torch.tensor(images).view(-1, 2, 16, 16))
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    np.testing.assert_allclose(normaliser.inverse(seen).flatten(1), images, rtol=1e-4, atol=1e-5)


def test_stretch_is_measured_in_pieces_and_without_broken_images() -> None:
    config = ImageVAEConfig(size=16, num_channels=2, softening=0.5)
    assert (config.stretched_mean, config.stretched_std) == ((0.0, 0.0), (1.0, 1.0))
    images = blobs(config, 50)["image"]
    broken = np.concatenate([images, np.full((1, 512), np.nan, np.float32)])
    found = stretch_settings(config, ({"image": broken[start : start + 20]} for start in (0, 20, 40)))
    mean, std = measured_stretch(config, images)
    np.testing.assert_allclose([found[name] for name in STRETCH], [mean, std], rtol=1e-4)
    with pytest.raises(ValueError, match="no finite image to measure stretched_mean"):
        stretch_settings(config, [{"image": broken[-1:]}])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("image_vae", {"size": 48}, "size is 48, must be 4 times a power of 2"),
        ("image_vae", {"stretch": "log"}, "stretch is log, must be asinh or linear"),
        ("image_vae", {"softening": 0.0}, "softening is 0.0, must be positive"),
        ("image_vae", {"stretched_std": (0.0,)}, "stretched_std is .* must be positive"),
        ("image_vae", {"num_channels": 2}, "stretched_mean is .* must be 2 values"),
        ("image_vae", {"max_width": 4}, "max_width is 4, must be at least width = 8"),
        (
            "image_vae",
            {"conditions": ("a",), "condition_high": (1,)},
            r"condition_low is \(\), must be 1 values",
        ),
        ("image_vae", TOLD | {"condition_low": (5.0, 0.4)}, "range of condition half_light_radius_pixels is"),
        (
            "image_vae",
            {
                "conditions": ("dx", "position_angle_deg"),
                "condition_low": (0.0,) * 2,
                "condition_high": (1.0,) * 2,
            },
            "augment is True, must be false with condition dx, position_angle_deg: .* out of conditions",
        ),
        ("image_vae", {"ema_decay": 1.0}, r"ema_decay is 1.0, must be in \[0, 1\)"),
        ("image_vae", {"num_latent": 0}, "num_latent is 0"),
        ("image_vae", {"least_scatter": 0.0}, "least_scatter is 0.0"),
        ("image_vae", {"beta": -1.0}, "beta is -1.0"),
        ("image_alae", {"latent_weight": 0.0}, "latent_weight is 0.0"),
        ("image_alae", {"judge_layers": 0}, "judge_layers is 0"),
        ("image_stylegan", {"mixing_probability": 1.5}, "mixing_probability is 1.5"),
        ("image_stylegan", {"r1_weight": -1.0}, "r1_weight is -1.0"),
        ("image_stylegan", {"path_interval": 0}, "path_interval is 0"),
        ("image_flow", {"patch": 3}, "patch is 3, must be 1 or 2 or 4"),
        ("image_flow", {"prediction": "noise"}, "prediction is noise, must be data or velocity"),
        ("image_flow", {"halvings": 4}, "size is 16, must be at least 64 for patch 2 and 4 halvings"),
        ("image_flow", {"time_power": 0.0}, "time_power is 0.0"),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(name, **settings)


@families
def test_presets_have_the_sizes_that_their_names_say(name: str) -> None:
    sizes = {preset: config.size for preset, config in PRESETS[name].items()}
    assert sizes.pop("published256_sersic", 256) == 256
    assert sizes == {"tiny": 16, "cpu64": 64, "published256": 256}
    assert {c.name: c.length for c in MODELS[name].reads(PRESETS[name]["published256"])}["image"] == 256**2
    assert sum(p.numel() for p in MODELS[name].build(PRESETS[name]["cpu64"]).parameters()) < 5_000_000


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    losses = {name: _curve(name) for name in PRESETS}
    if rewrite_golden:
        golden = {
            "what": "loss of the first 20 steps of each tiny generator on exponential profiles",
            "losses": losses,
            "rtol": 2e-3,
            "reason": "sums of float32 in another order: 1e-7 a step, growing with the steps",
            "command": "make golden",
            "device": f"cpu {platform.machine()}, float32, 1 thread",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for name, curve in losses.items():
        np.testing.assert_allclose(curve, golden["losses"][name], rtol=golden["rtol"], err_msg=name)


def _curve(name: str) -> list[float]:
    config = told(name)
    task = started(name, config)
    return [task.step(blobs(config, 8, step), step)["loss"] for step in range(20)]


def _parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def _copied(value):
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value.clone()
