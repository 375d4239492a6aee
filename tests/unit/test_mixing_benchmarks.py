"""Experiments on mixing generated images in: what is tested on, what is chosen by, what a rerun makes again."""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from benchmarks import augmentation, mixed_classifier, mixing
from benchmarks.augmentation import SHIFTS, error, fitted, num_held_out, restorer_config
from benchmarks.sersic_generators import sersic_images
from engine.checkpoint import save
from engine.storage import Storage
from models.restorer import IMAGE, NETWORK, RestorerTask, blurred
from models.restorer_config import PRESETS, RestorerConfig

SIZE = 16


def test_batches_of_an_experiment_are_as_many_as_asked_for_and_of_both_sets(tmp_path: Path) -> None:
    parser = mixing.options("", alphas=[0.0, 0.5, 1.0], batch_rows=8, steps=40, folder=tmp_path)
    real, made = (pa.table({"image": [value] * 20, "label": [value] * 20}) for value in (0, 1))
    for alpha, wanted in ((0.0, {0}), (0.5, {0, 1}), (1.0, {1})):
        batches = list(mixing.mixed(mixing.parsed(parser, []), alpha, 1, real, made))
        assert [len(batch["image"]) for batch in batches] == [8] * 40
        assert {float(batch["label"].mean()) for batch in batches} == wanted
    with pytest.raises(SystemExit):
        mixing.parsed(parser, ["--alphas", "0.5"])


def test_measures_are_compared_seed_by_seed() -> None:
    shifts = mixed_classifier.SHIFTS
    found = {
        0.0: [{"auroc": dict.fromkeys(shifts, 0.5) | {"none": value}} for value in (0.5, 0.7)],
        1.0: [{"auroc": dict.fromkeys(shifts, 0.4) | {"none": value}} for value in (0.6, 0.8)],
    }
    lines = mixed_classifier.table(found, "auroc")
    assert lines[1].split() == ["none", "0.600", "+0.100", "+-", "0.000"]
    assert lines[2].split() == ["noise", "x2", "0.500", "-0.100", "+-", "0.000"]
    assert len(lines) == 1 + len(shifts) == 5


def test_larger_pixels_are_means_about_the_same_middle(tmp_path: Path) -> None:
    args = mixing.parsed(mixed_classifier.arguments(), ["--size", "32", "--folder", str(tmp_path)])
    images, _ = mixed_classifier.centred(3, 32, 1)
    square = images.reshape(3, 32, 32)
    made = mixed_classifier.coarser(square, 2)
    assert made.shape == square.shape
    assert made.sum() == pytest.approx(square.sum() / 4, rel=1e-5)
    np.testing.assert_allclose(made[:, 15, 15], square[:, 14:16, 14:16].mean((1, 2)), rtol=1e-5)
    assert not made[:, :8].any()
    label = np.zeros(3, np.int8)
    fine, coarse = (mixed_classifier.observed(args, images, label, [1], binned) for binned in (1, 2))
    assert coarse["pixel_scale"] == pytest.approx(2 * fine["pixel_scale"])
    assert coarse["science"].shape == fine["science"].shape


def augmentation_args(folder: Path, *words: str) -> argparse.Namespace:
    small = ("--size 16 --num-real 128 --num-generated 64 --num-test 8 --steps 2 --batch-rows 4 --seeds 2 --alphas 0 1 "
             "--generator image_vae --generator-preset tiny --generator-steps 2 --num-threads 1 --folder")  # fmt: skip
    return mixing.parsed(augmentation.arguments(), [*small.split(), str(folder), *words])


def identity(config: RestorerConfig) -> RestorerTask:
    task = RestorerTask(config, 1)
    task.modules[NETWORK] = nn.Identity()
    return task


def test_shifts_are_those_that_are_published() -> None:
    assert {name: SHIFTS[name] for name in ("none", "pixels x2", "noise x5", "both")} == {
        "none": (1, 1), "pixels x2": (2, 1), "noise x5": (1, 5), "both": (2, 5),
    }  # fmt: skip
    assert SHIFTS["noise x4"] == (1, 4), "what the README of the released code says"


@pytest.mark.parametrize("shift", list(SHIFTS))
def test_a_restorer_that_does_nothing_has_the_variance_of_the_noise_as_error(shift: str) -> None:
    config = RestorerConfig(num_channels=1, size=64, noise_sigma=3.0, psf_sigma_px=0.0)
    test = torch.from_numpy(sersic_images(32, 64, 1) / 1000)
    found = error(config, identity(config), test, *SHIFTS[shift])
    assert found == pytest.approx((3 * SHIFTS[shift][1]) ** 2, rel=0.02)


def test_images_are_blurred_before_their_pixels_grow() -> None:
    config = RestorerConfig(num_channels=1, size=64, noise_sigma=0.0)
    test = torch.from_numpy(sersic_images(3, 64, 1) / 1000)
    images = test.view(3, 1, 64, 64)
    difference = blurred(images, 2.0, 41) - images
    binned = difference.view(3, 1, 32, 2, 32, 2).mean((3, 5))
    found = error(config, identity(config), test, *SHIFTS["pixels x2"])
    assert found == pytest.approx(float(binned.square().mean()), rel=1e-4)


def test_the_restorer_has_one_band_and_its_rate_falls_all_through_the_training(tmp_path: Path) -> None:
    config = restorer_config(augmentation_args(tmp_path, "--noise-sigma", "2", "--steps", "240"))
    assert (config.size, config.num_channels, config.noise_sigma, config.scale) == (SIZE, 1, 2, 8)
    assert config.width == PRESETS["small"].width
    assert config.rate(240) == pytest.approx(config.learning_rate * config.learning_rate_factor**12)


class Scripted:
    """A task whose weight is its number of steps, and whose validation errors are given."""

    def __init__(self, losses: list[float]) -> None:
        self.modules: dict[str, nn.Module] = {NETWORK: nn.Linear(1, 1, bias=False)}
        self._losses = iter(losses)

    def step(self, batch: Any, step: int) -> dict[str, float]:
        del batch
        nn.init.constant_(self.modules[NETWORK].get_parameter("weight"), step + 1)
        return {"loss": 0.0}

    def evaluate(self, batch: Any) -> dict[str, float]:
        del batch
        return {"loss": next(self._losses)}


@pytest.mark.parametrize(
    ("losses", "steps", "wanted"),
    [
        ([3, 1, 2, 0], 160, (160, 160)),  # the last step is looked at too
        ([3, 2, 1], 150, (150, 150)),
        ([1, 2, 3, 0], 1000, (50, 150)),  # no gain in two looks: what follows is not tried
        ([2, 3, 1, 4, 5, 0], 1000, (150, 250)),
    ],
)
def test_the_weights_of_the_least_validation_error_are_kept(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], steps: int, wanted: tuple[int, int]
) -> None:
    monkeypatch.setattr(augmentation, "PATIENCE", 2)
    task: Any = Scripted(losses)
    assert fitted(task, itertools.repeat({}, steps), {}, steps) == wanted
    assert task.modules[NETWORK].weight.item() == wanted[0]


def test_held_out_images_train_neither_generator_nor_restorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, seen = augmentation_args(tmp_path), dict[str, np.ndarray]()
    real = np.arange(128, dtype=np.float32)[:, None] * np.ones((1, SIZE * SIZE), np.float32)
    chosen = real[: num_held_out(args)]

    def batches_of(images: np.ndarray, rows: int) -> Any:
        seen["generator"] = images
        raise InterruptedError

    def restored(task: Any, batches: Any, validation: Any, steps: int) -> tuple[int, int]:
        seen["restorer"] = np.concatenate([batch[IMAGE] for batch in batches])
        np.testing.assert_array_equal(validation[IMAGE], chosen)
        return steps, steps

    monkeypatch.setattr(augmentation, "batches_of", batches_of)
    monkeypatch.setattr(augmentation, "fitted", restored)
    with pytest.raises(InterruptedError):
        augmentation.learned(args, real)
    augmentation.errors_of(args, 0.0, 1, real, real)
    for images in seen.values():
        assert images.min() >= len(chosen)


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, names: list[str]) -> list[str]:
    """Note each call of some functions of a module."""
    calls: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (calls.append(name), function(*args))[1]

    for name in names:
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    return calls


def test_a_rerun_makes_only_what_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch, augmentation, ["learned", "sampled", "errors_of"])
    first = augmentation.experiment(augmentation_args(tmp_path))
    assert calls == ["learned", "sampled", *["errors_of"] * 4]
    again = augmentation.experiment(augmentation_args(tmp_path, "--json", "elsewhere.json"))
    assert len(calls) == 6
    assert again.errors == first.errors
    more = augmentation.experiment(augmentation_args(tmp_path, "--alphas", "0", "0.5", "1"))
    assert calls[6:] == ["errors_of"] * 2
    assert more.errors[1.0] == first.errors[1.0]
    augmentation.experiment(augmentation_args(tmp_path, "--num-generated", "32"))
    assert calls[8:] == ["sampled", *["errors_of"] * 2], "without a generated image nothing has changed"


def test_a_generator_that_is_trained_already_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = augmentation_args(tmp_path, "--alphas", "0", "--seeds", "1")
    checkpoint = save(
        augmentation.learned(args, sersic_images(128, SIZE, 5)), str(tmp_path / "mine"), Storage()
    )
    calls = counting(monkeypatch, augmentation, ["learned", "sampled"])
    args.checkpoint = str(tmp_path / "mine")
    made = augmentation.generated(args, sersic_images(128, SIZE, 6))
    np.testing.assert_array_equal(made, augmentation.sampled(args, checkpoint)[IMAGE])
    assert "learned" not in calls


def test_classifiers_of_a_rerun_are_those_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--size 32 --num-real 40 --num-generated 64 --num-test 32 --steps 2 --batch-rows 8 --seeds 1 --alphas 0 1 "
             "--generator-preset tiny --generator-core-s 0.5 --num-threads 1 --folder")  # fmt: skip
    args = mixing.parsed(mixed_classifier.arguments(), [*words.split(), str(tmp_path)])
    calls = counting(monkeypatch, mixed_classifier, ["learned", "sampled", "trained_and_measured"])
    first = mixed_classifier.experiment(args)
    assert calls == ["learned", "sampled", *["trained_and_measured"] * 2]
    assert mixed_classifier.experiment(args) == first
    assert len(calls) == 4
    args.generator = "truth"
    assert mixed_classifier.experiment(args)[0.0] == first[0.0]
    assert calls[4:] == ["trained_and_measured"], "nothing is mixed in at alpha = 0"
