"""Training images of the disk classifier: what is scattered, and what must not change."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.disk_augment import blurred, enlarged, examples, noisier
from models.disk_classifier import SPEC
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import UNKNOWN, centre, views, whole_views
from models.disk_networks import Preparation
from models.scoring.cutouts import Cutouts
from tests.disks import make_disks

CPU = torch.device("cpu")
S = 32
CONFIG = DiskClassifierConfig(
    size=S,
    network_pixels=17,
    architecture="plain",
    fields=(2, 3),
    halvings=(1, 2),
    augment=False,
    dropout=0.0,
)
JITTERED = dataclasses.replace(
    CONFIG, colour_jitter=0.3, size_jitter=0.5, blur_jitter_pixels=1.0, noise_jitter=0.5, augment=True
)


def planes(values: np.ndarray) -> Cutouts:
    science = torch.tensor(values, dtype=torch.float32)
    return Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))


def gaussian(sigma: float, size: int = S) -> np.ndarray:
    at = np.arange(size) - size // 2
    return np.exp(-0.5 * (at[:, None] ** 2 + at**2) / sigma**2)


def test_without_jitter_examples_are_the_views() -> None:
    batch = make_disks(6, S, 1)
    found = examples(CONFIG, whole_views(CONFIG, batch, CPU), np.random.default_rng(0))
    torch.testing.assert_close(found.science, views(CONFIG, batch, CPU).science.science)


def test_examples_depend_on_the_generator_alone_and_differ_from_image_to_image() -> None:
    batch = make_disks(6, S, 1)
    whole = whole_views(JITTERED, {k: np.repeat(v[:1], 6, 0) for k, v in batch.items()}, CPU)
    first, again = (examples(JITTERED, whole, np.random.default_rng(5)) for _ in range(2))
    torch.testing.assert_close(first.science, again.science, rtol=0, atol=0)
    assert first.science.shape == (6, 3, 17, 17)
    assert len(torch.unique(first.science, dim=0)) == 6


def test_blur_widens_a_gaussian_by_its_square_and_keeps_its_light() -> None:
    light = np.broadcast_to(gaussian(2.0), (3, 3, S, S))
    found = blurred(planes(light), torch.tensor([0.0, 1.0, 1.5])).science.numpy()
    np.testing.assert_allclose(found[0], light[0], atol=1e-6)
    for row, sigma in ((1, 1.0), (2, 1.5)):
        wanted = ndimage.gaussian_filter(light[row, 0], sigma, truncate=3.0, mode="constant")
        np.testing.assert_allclose(found[row, 1], wanted, atol=2e-3)
        assert found[row, 0].sum() == pytest.approx(light[row, 0].sum(), rel=1e-3)


def test_enlarging_by_one_is_the_centre_and_by_two_doubles_the_width() -> None:
    images = planes(np.broadcast_to(gaussian(2.0), (2, 3, S, S)))
    found = enlarged(images, torch.tensor([1.0, 2.0]), 17)
    torch.testing.assert_close(found.science[0], centre(CONFIG, images).science[0], atol=1e-5, rtol=0)
    # Every second pixel lies on one of the image, and is not interpolated.
    middle = slice(S // 2 - 8, S // 2 + 9, 2)
    np.testing.assert_allclose(
        found.science[1, 0, ::2, ::2].numpy(), gaussian(4.0)[middle, middle], atol=1e-5
    )
    assert found.usable.all()


def test_what_lies_beyond_the_cutout_or_is_masked_is_not_usable() -> None:
    images = planes(np.ones((2, 3, S, S)))
    images.usable[1, :, :, S // 2 + 3] = False
    images.science[1, :, :, S // 2 + 3] = 0
    found = enlarged(images, torch.tensor([0.4, 1.0]), 17)
    assert not found.usable[0, :, 0].any(), "8 pixels at 0.4 are 20 of 16"
    assert found.usable[0, :, 8, 8].all()
    assert not found.usable[1, :, :, 11].any()
    assert found.usable[1, :, :, :11].all()
    assert (found.science[~found.usable] == 0).all()


def test_noise_is_as_large_as_its_error_says_and_in_usable_pixels_alone() -> None:
    config = dataclasses.replace(CONFIG, noise_jitter=2.0)
    images = Cutouts(torch.zeros(64, 3, S, S), torch.zeros(64, 3, S, S), torch.ones(64, 3, S, S) > 0)
    images.usable[:, :, 0] = False
    found = noisier(config, images, np.random.default_rng(0))
    ratio = found.science[:, :, 1:].std((2, 3)) / found.error[:, :, 1, 1]
    np.testing.assert_allclose(ratio, 1, atol=0.15)
    assert (found.science[:, :, 0] == 0).all()
    level = found.error[:, 0, 1, 1] / config.noise_njy[0]
    assert level.min() >= 0
    assert 1.5 < level.max() <= 2


def test_stretch_by_band_knows_no_colour_but_how_it_changes_across_the_object() -> None:
    config = dataclasses.replace(CONFIG, stretch="band")
    noise = np.array(config.noise_njy)[:, None, None]
    flux = 500 * noise * gaussian(3.0, 17)[None, None]
    colours = np.array([0.5, 1.0, 4.0])[:, None, None]
    prepare = Preparation(config)
    torch.testing.assert_close(
        prepare(planes(flux * colours)), prepare(planes(flux * np.ones_like(colours))), rtol=1e-4, atol=1e-5
    )
    redder_outside = flux * np.stack([np.ones((17, 17)), np.ones((17, 17)), 2 - gaussian(3.0, 17)])
    assert not torch.allclose(prepare(planes(redder_outside)), prepare(planes(flux)), atol=0.05)
    assert not torch.allclose(
        Preparation(CONFIG)(planes(flux * colours)), Preparation(CONFIG)(planes(flux)), atol=0.05
    )


def test_objects_without_a_class_are_another_domain_if_so_wished() -> None:
    config = dataclasses.replace(CONFIG, adaptation_weight=1.0, adaptation_warmup_fraction=0.3)
    task = SPEC.task(config, 0)
    task.start(CPU, 10)
    batch = make_disks(12, S, 1)
    batch["label"][6:] = UNKNOWN
    batch["science"][6:] *= 3
    batch["error"][6:] *= 3
    cold, warm = task.step(batch, 2), task.step(batch, 3)
    assert cold["divergence"] > 0
    assert warm["divergence"] > 0
    without = SPEC.task(CONFIG, 0)
    without.start(CPU, 10)
    assert without.step(batch, 2)["loss"] == pytest.approx(cold["loss"]), "not before the warm-up is over"
    again = SPEC.task(config, 0)
    again.start(CPU, 10)
    again.load_state_dict(task.state_dict())
    assert again.step(batch, 4) == task.step(batch, 4)
    assert set(task.state_dict()) - set(without.state_dict()) == {"domains"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour_jitter": -0.1}, "colour_jitter is -0.1"),
        ({"size_jitter": -1.0}, "size_jitter is -1.0"),
        ({"blur_jitter_pixels": -1.0}, "blur_jitter_pixels is -1.0"),
        ({"noise_jitter": -1.0}, "noise_jitter is -1.0"),
        ({"adaptation_weight": -1.0}, "adaptation_weight is -1.0"),
        ({"adaptation_warmup_fraction": 1.0}, "adaptation_warmup_fraction is 1.0"),
        ({"stretch": "colour"}, "stretch is colour, must be relative or band or noise"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **settings)
