"""The restorer: published size, what the task shows, what it refuses, golden losses."""

import dataclasses

import numpy as np
import pytest
import torch

from models.restorer import SPEC, Restorer, blurred, observed
from models.restorer_config import PRESETS, RestorerConfig
from tests.blobs import make_blobs
from tests.goldenlosses import compare

CPU = torch.device("cpu")
TINY = RestorerConfig(
    size=16, num_channels=1, width=8, blocks=1, psf_size_px=9, noise_sigma=0.3, scale=5.0, learning_rate=3e-3
)


def test_published_widths_have_the_published_number_of_parameters() -> None:
    count = sum(parameter.numel() for parameter in Restorer(PRESETS["published"]).parameters())
    assert count == 522_310, "about 522,000"


def test_the_code_has_two_channels_at_full_resolution() -> None:
    assert Restorer(TINY).encoder(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_blur_is_a_gaussian_that_keeps_the_light() -> None:
    image = torch.zeros(1, 2, 65, 65, dtype=torch.float64)
    image[:, :, 32, 32] = torch.tensor([1.0, 3.0])
    seen = blurred(image, 2.0, 41)
    np.testing.assert_allclose(seen.sum((2, 3)), [[1.0, 3.0]])
    offset = torch.arange(65, dtype=torch.float64) - 32
    for axis in (1, 2):
        variance = (seen[0, 1].sum(2 - axis) * offset**2).sum() / 3
        assert float(variance) == pytest.approx(4.0, rel=1e-6), "sigma of 2 pixels"
    assert blurred(image, 0.0, 41) is image


def test_noise_is_of_the_seed_and_has_its_scatter() -> None:
    config = dataclasses.replace(TINY, noise_sigma=4.0)
    images = torch.zeros(40, 1, 16, 16)
    first, again, other = (observed(config, images, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(4.0, rel=0.03)


def test_learning_rate_falls_in_steps_to_its_floor() -> None:
    config = RestorerConfig()
    assert [config.rate(step) for step in (0, 2499, 2500, 10**7)] == pytest.approx([1e-4, 1e-4, 8e-5, 1e-6])


def test_it_learns_to_restore() -> None:
    task = SPEC.task(TINY, 1)
    task.start(CPU, 80)
    batch = make_blobs(16, 16, 2)
    seen = observed(TINY, torch.tensor(batch["image"]).view(-1, 1, 16, 16), 5)
    before = float((seen.flatten(1) - torch.tensor(batch["image"])).square().mean())
    for step in range(80):
        task.step(batch, step)
    predict = SPEC.predictor(TINY, task.modules["restorer"], {}, CPU)
    after = predict({"image": seen.flatten(1).numpy()})["restored"]
    assert np.square(after - batch["image"]).mean() < before


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"kernel_px": 4}, "kernel_px is 4, must be odd"), ({"scale": 0.0}, "scale is 0.0, must be positive"),
     ({"image_channels": 3}, "image_channels is 3, must be 0, or at least num_channels = 4"),
     ({"noise_sigma": -1.0}, "0 or positive"), ({"width": 0}, "width is 0, must be at least 1")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RestorerConfig(**settings)


def test_leading_channels_of_an_image_are_taken() -> None:
    bands = make_blobs(6, 16, 2, channels=4)["image"]
    skirt = np.concatenate([bands, np.full((6, 256), 0.7, np.float32)], 1)
    own = dataclasses.replace(TINY, num_channels=4)
    with_size = dataclasses.replace(own, image_channels=5)
    assert [SPEC.reads(config)[0].length for config in (own, with_size)] == [4 * 256, 5 * 256]
    assert SPEC.writes(with_size) == SPEC.writes(own)
    losses, restored = [], []
    for config, images in ((own, bands), (with_size, skirt)):
        task = SPEC.task(config, 1)
        task.start(CPU, 3)
        losses.append(task.step({"image": images}, 0)["loss"])
        predict = SPEC.predictor(config, task.modules["restorer"], {}, CPU)
        restored.append(predict({"image": images})["restored"])
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(*restored)


def test_images_of_another_size_are_refused() -> None:
    task = SPEC.task(TINY, 1)
    with pytest.raises(ValueError, match=r"image is \(3, 64\), must be \[rows, 256\]"):
        task.step(make_blobs(3, 8), 0)


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    task = SPEC.task(TINY, 1)
    task.start(CPU, 20)
    losses = [task.step(make_blobs(8, 16, step), step)["loss"] for step in range(20)]
    what = "loss of the first 20 steps of a tiny restorer on exponential profiles"
    compare("restorer", losses, rewrite_golden, what, "make golden", rtol=2e-3)
