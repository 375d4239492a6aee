"""Samples of generators: each depends on its own seed and condition alone, and what cannot be drawn is refused."""

import numpy as np
import pytest
import torch

from models import MODELS
from models.generators import stylegan
from models.generators.images import Normaliser
from models.generators.sampling import MAX_CONDITIONS, drawn_conditions, fit_conditions
from models.spec import ModelSpec
from tests.tinygenerators import CPU, blobs, built, conditions, encoders, families, sampler, tiny, told


@families
def test_samples_have_the_shape_of_images_and_their_latents(name: str) -> None:
    config = told(name, num_channels=2, stretched_mean=(0.0, 1.0), stretched_std=(1.0, 2.0))
    made = sampler(name, config)
    out = made.sample(np.arange(11), conditions(11))
    assert out["image"].shape == (11, 2 * 16 * 16)
    assert out["latent"].shape == (11, made.num_latent)
    assert {values.dtype for values in out.values()} == {np.dtype(np.float32)}
    assert np.isfinite(out["image"]).all()
    empty = made.sample(np.arange(0), conditions(0))
    assert empty["image"].shape == (0, 2 * 16 * 16)
    assert empty["latent"].shape == (0, made.num_latent)


@families
def test_a_sample_depends_on_its_own_seed_and_condition_alone(name: str) -> None:
    torch.set_num_threads(1)
    config = told(name, **({"noise_inputs": True} if name in ("image_alae", "image_stylegan") else {}))
    made, seeds, condition = sampler(name, config), np.arange(100, 121), conditions(21)
    whole = made.sample(seeds, condition)
    torch.manual_seed(5)
    again = made.sample(seeds, condition)
    others = conditions(21, 3)
    others[9] = condition[9]
    amid = made.sample(np.where(np.arange(21) == 9, 109, seeds + 1000), others)
    alone, shuffled = made.sample(seeds[9:10], condition[9:10]), made.sample(seeds[::-1], condition[::-1])
    for key, values in whole.items():
        np.testing.assert_array_equal(again[key], values)
        np.testing.assert_array_equal(amid[key][9], values[9])
        np.testing.assert_array_equal(alone[key][0], values[9])
        np.testing.assert_array_equal(shuffled[key][::-1], values)
    assert len(np.unique(whole["image"].round(5), axis=0)) == 21
    assert not np.allclose(made.sample(seeds[:1], condition[1:2])["image"], whole["image"][0], atol=1e-4)


def test_seeds_that_share_a_place_in_a_batch_are_all_there() -> None:
    made = sampler("image_vae", tiny("image_vae"))
    found = made.sample(np.array([3, 11, 3, 19, 4]))["image"]
    for row, seed in enumerate((3, 11, 3, 19, 4)):
        np.testing.assert_array_equal(found[row], made.sample(np.array([seed]))["image"][0])


@families
def test_latents_that_come_out_make_the_same_image_when_they_go_in(name: str) -> None:
    config = tiny(name)
    made = sampler(name, config)
    out = made.sample(np.arange(8))
    again = made.sample(np.arange(8), latent=out["latent"])
    np.testing.assert_array_equal(again["latent"], out["latent"])
    np.testing.assert_allclose(again["image"], out["image"], rtol=1e-5, atol=1e-5)
    moved = made.sample(np.arange(8), latent=np.roll(out["latent"], 1, 0))
    np.testing.assert_allclose(moved["image"], np.roll(out["image"], 1, 0), rtol=1e-4, atol=1e-4)


def test_noise_that_a_latent_does_not_hold_is_that_of_the_seed() -> None:
    config = tiny("image_stylegan", noise_inputs=True)
    module = built("image_stylegan", config)
    for parameter_name, parameter in module.named_parameters():
        if parameter_name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    made = stylegan.SPEC.sampler(config, module, CPU) if stylegan.SPEC.sampler else None
    assert made is not None
    latent = made.sample(np.array([3]))["latent"].repeat(2, 0)
    first, second = made.sample(np.array([3, 4]), latent=latent)["image"]
    np.testing.assert_allclose(first, made.sample(np.array([3]))["image"][0], rtol=1e-5, atol=1e-5)
    assert np.abs(first - second).max() > 0.1


@encoders
def test_encoding_gives_the_latent_of_the_predictor(name: str) -> None:
    config, spec = told(name), MODELS[name]
    batch, module = blobs(config, 9), built(name, config)
    fitted = spec.fit(config, module, [batch], [])
    predicted = spec.predictor(config, module, fitted, CPU)(batch)
    table = np.stack([batch[key] for key in config.conditions], 1)
    latent = sampler(name, config).encode(batch["image"], table)
    np.testing.assert_allclose(latent, predicted["latent"], rtol=1e-4, atol=1e-5)
    decoded = sampler(name, config).sample(np.arange(9), table, latent)["image"]
    seen, back = (
        Normaliser(config)(torch.tensor(image).view(-1, 1, 16, 16)) for image in (batch["image"], decoded)
    )
    error = (seen - back).square().mean((1, 2, 3)).sqrt()
    np.testing.assert_allclose(predicted["reconstruction_error"], error, rtol=1e-3, atol=1e-5)


def test_a_stylegan_cannot_encode() -> None:
    with pytest.raises(TypeError, match="no encoder"):
        sampler("image_stylegan", tiny("image_stylegan")).encode(blobs(tiny("image_stylegan"), 2)["image"])


def test_bad_requests_for_samples_are_refused_with_what_was_expected() -> None:
    made = sampler("image_vae", told("image_vae"))
    seeds, condition = np.arange(3), conditions(3)
    for value, message in (
        (9.0, r"half_light_radius_pixels of row 1 is 9, must be in the trained range \[1, 4\]"),
        (np.nan, "half_light_radius_pixels of row 1 is nan, must be in the trained range"),
    ):
        strange = condition.copy()
        strange[1, 0] = value
        with pytest.raises(ValueError, match=message):
            made.sample(seeds, strange)
    with pytest.raises(
        ValueError, match=r"condition is \(3, 0\), must be \(3, 2\): one column each for half_"
    ):
        made.sample(seeds)
    with pytest.raises(ValueError, match=r"condition is \(2, 2\), must be \(3, 2\)"):
        made.sample(seeds, condition[:2])
    with pytest.raises(ValueError, match=r"latent is \(3, 5\), must be \(3, 8\)"):
        made.sample(seeds, condition, np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="seed -1 of row 1 must be 0 or positive"):
        made.sample(np.array([0, -1, 2]), condition)
    with pytest.raises(ValueError, match="seeds are float64"):
        made.sample(np.zeros(3), condition)
    with pytest.raises(ValueError, match=r"must be \(3, 0\): None: the generator has no condition"):
        sampler("image_vae", tiny("image_vae")).sample(seeds, condition)


def test_conditions_of_training_images_are_kept_and_drawn_by_seed() -> None:
    config = told("image_flow")
    batches = [blobs(config, 3000, seed) for seed in range(3)]
    fitted = fit_conditions(config, batches)
    kept = fitted["conditions"]
    assert kept.shape == (MAX_CONDITIONS, 2)
    np.testing.assert_array_equal(kept[:3000, 1], batches[0]["axis_ratio"])
    drawn = drawn_conditions(fitted, np.arange(500))
    np.testing.assert_array_equal(drawn[7], drawn_conditions(fitted, np.array([7]))[0])
    assert len(np.unique(drawn, axis=0)) > 400
    assert fit_conditions(tiny("image_flow"), batches) == {}
    with pytest.raises(ValueError, match="at least 1"):
        fit_conditions(config, [])
    with pytest.raises(ValueError, match="fitted has no conditions"):
        drawn_conditions({}, np.arange(2))


@families
def test_a_checkpoint_of_another_model_is_refused(name: str) -> None:
    spec: ModelSpec = MODELS[name]
    assert spec.sampler is not None
    with pytest.raises(TypeError, match="module is a Linear, expected"):
        spec.sampler(tiny(name), torch.nn.Linear(1, 1), CPU)
