"""What benchmarks of generators share: weights kept by the measured distance, tables, sets measured in pieces."""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import generator_metrics, generators, sersic_generators
from benchmarks.gathering import Passing
from benchmarks.keeping import content_of, kept_arrays, kept_numbers
from benchmarks.measuring import measure_piece, measures_of, tell
from benchmarks.sersic_generators import NUM_CHECKS, batches_of, pieces, sersic_images, settings_for, trained
from engine.images.measures import usable
from engine.images.morphology import PUBLISHED
from engine.images.nearest import NearestConfig
from engine.images.own_size import at_own_size, size_channel
from engine.images.power import radial_amplitude
from engine.train.epochs import module_weights
from models import MODELS
from models.evaluation.distances import PROPERTIES, cut_size
from models.evaluation.table import SetMeasures
from models.evaluation.verdict import Value, verdict
from models.spec import Batch, TrainTask

CPU = torch.device("cpu")
TINY = {"width": 8, "max_width": 16, "num_latent": 8, "batch_rows": 8, "ema_decay": 0.5}


def test_the_weights_that_are_kept_are_those_of_the_least_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    images = sersic_images(48, 16, 1)
    distances, seen = iter([3.0, 1.0, 2.0, *[5.0] * NUM_CHECKS]), []

    def distance(task: TrainTask, held_out: Batch) -> float:
        seen.append(module_weights(task.modules))
        return next(distances)

    monkeypatch.setattr("benchmarks.sersic_generators._distance", distance)
    settings, spec = settings_for(16, **TINY), MODELS["image_vae"]
    made = trained("image_vae", settings, batches_of(images, 8), {"image": images[:16]}, CPU, steps=8)
    assert [check["step"] for check in made.checkpoint.history] == [*range(1, 9)]
    assert (made.checkpoint.metrics["best_step"], made.steps) == (2, 8)
    samples = []
    for weights in seen[:2]:
        module = spec.build(config := spec.config(**settings))
        built = spec.to_build(config, {name: value.numpy() for name, value in weights.items()})
        module.load_state_dict({name: torch.from_numpy(value) for name, value in built.items()})
        assert spec.sampler is not None
        samples.append(spec.sampler(config, module.eval(), CPU).sample(np.arange(3))["image"])
    kept = made.sampler(CPU).sample(np.arange(3))["image"]
    np.testing.assert_array_equal(kept, samples[1])
    assert not np.allclose(kept, samples[0])


def test_a_batch_holds_conditions_of_its_own_images() -> None:
    images = np.arange(20, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    batch = batches_of(images, 6, number=np.arange(20.0))(3)
    np.testing.assert_array_equal(batch["image"][:, 0], batch["number"])
    again = batches_of(images, 6, number=np.arange(20.0))(3)
    np.testing.assert_array_equal(batch["image"], again["image"])


def test_failures_of_a_set_are_counted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    images = np.concatenate([sersic_images(3, 64, 1), np.zeros((2, 64 * 64), np.float32)])
    found = measures_of(pieces(images, 64, 2), PUBLISHED["sersic"], map, "set")
    assert len(found) == 5
    tell("set", found, 64)
    printed = capsys.readouterr().out
    assert "'not_detected': 2" in printed or "'failed': 2" in printed
    assert "3 of 5 kept (2 undefined)" in printed
    with pytest.raises(SystemExit, match="nothing: no image in it that can be measured"):
        measures_of([], PUBLISHED["sersic"], map, "nothing")


def test_images_without_light_or_not_finite_are_unusable() -> None:
    images = np.random.default_rng(1).normal(size=(5, 5, 8, 8))
    images[:, 4] = 0.5  # of SKIRT images how large they were, constant in each
    images[1, 2] = 3.0
    images[2, 0, 1, 1] = np.nan
    images[3, 4] = np.inf
    assert usable(images).tolist() == [True, False, False, False, True]
    assert not usable(np.ones((1, 1, 8, 8)))[0]
    passing = Passing(
        [([7, 8, 9], images[:3]), ([10], images[3:4]), ([11], images[4:])], NearestConfig(), None, None
    )
    assert [ids for ids, _ in passing] == [[7], [11]]
    assert passing.num_unusable == 3


def test_tables_show_what_a_family_lacks_and_hundredths() -> None:
    rows = {"floor": {"average": Value(0.012, 0.01, 0.02), "precision": Value(0.9)}, "image_vae": {}}
    head, average, precision = generators.table(rows)
    assert head.split() == ["x", "0.01", "floor", "vae"]
    assert average.split() == ["average", "1.20", "[1.00,", "2.00]", "-"]
    assert precision.split() == ["precision", "0.90", "-"]
    text = generator_metrics.lines(
        {"average": Value(0.0719), "fid": Value(0.55)}, {"average": Value(0.01, 0.008, 0.012)}
    )
    assert text[1].split() == ["average", "7.19", "1.00", "[0.80,", "1.20]"]
    assert text[2].split() == ["fid", "0.55"]


def test_tables_say_which_power_spectra_are_the_published_ones() -> None:
    row = {"power": Value(0.05), "power_partitions": Value(0.06)}
    for lines in (generators.table({"floor": row}), generator_metrics.lines(row, row)):
        assert lines[1].startswith("power (released, averaged) ")
        assert lines[2].startswith("power (partitions, intended) ")
        assert len({len(line) for line in lines}) == 1, "columns are aligned"


def test_a_result_is_read_again_with_its_own_settings_only(tmp_path: Path) -> None:
    made: list[float] = []

    def make(value: float) -> dict[str, np.ndarray]:
        made.append(value)
        return {"x": np.full(3, value)}

    for value in (1.0, 2.0, 1.0, 2.0):
        found = kept_arrays(tmp_path, "set", {"core_s": value, "size": 8}, lambda value=value: make(value))
        np.testing.assert_array_equal(found["x"], np.full(3, value))
    assert made == [1.0, 2.0]
    assert kept_numbers(tmp_path, "run", {"b": 1, "a": 2}, lambda: [1.5]) == [1.5]
    assert kept_numbers(tmp_path, "run", {"a": 2, "b": 1}, lambda: [2.5]) == [1.5], "order does not matter"
    assert not [*tmp_path.glob("*.part*")]


def test_arrays_are_known_by_their_values_type_and_shape() -> None:
    values = np.arange(6, dtype=np.float32)
    others = (values + 1, values.astype(np.float64), values.reshape(2, 3))
    assert content_of(values) == content_of(values.copy())
    assert len({content_of(one) for one in (values, *others)}) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("core_s", 60.0), ("size", 32), ("num_train", 0), ("preset", "cpu64"), ("device", "cuda")],
)
def test_weights_of_another_training_are_not_taken_for_those_asked_for(name: str, value: Any) -> None:
    told: dict[str, Any] = {
        "core_s": 30.0, "size": 16, "batch_rows": 8, "num_train": 64, "preset": "tiny", "device": "cpu",
    }  # fmt: skip
    before, after = (
        generators.settings_of(argparse.Namespace(**one), "image_vae") for one in (told, told | {name: value})
    )
    assert before != after


def test_more_samples_are_of_the_weights_that_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "NUM_CHECKED", 8)
    monkeypatch.setattr(sersic_generators, "NUM_CHECKS", 1)
    monkeypatch.setattr(sersic_generators, "TRIAL_STEPS", 2)
    args = argparse.Namespace(
        core_s=0.01, size=16, batch_rows=8, num_train=64, preset="tiny", device="cpu", folder=tmp_path, num=2
    )
    few = generators.samples(args, "image_vae")["image"]
    args.num = 4
    more = generators.samples(args, "image_vae")["image"]
    np.testing.assert_allclose(more[:2], few, rtol=1e-4)
    assert capsys.readouterr().out.count(" steps in ") == 1


def test_a_set_is_measured_anew_when_its_images_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def measured(parts: Any, *_: Any) -> SetMeasures:
        images = np.concatenate([images for _, images in parts])
        seen.append(len(images))
        return SetMeasures({"gini": images.mean((1, 2, 3))}, images[:, 0, 0])

    monkeypatch.setattr(generators, "measures_of", measured)
    monkeypatch.setattr(generators, "tell", lambda *_: None)
    args = argparse.Namespace(folder=tmp_path, size=16, num=4)
    first, second = (sersic_images(4, 16, seed) for seed in (1, 2))
    for images in (first, second, first):
        found = generators.measures(args, map, "set", images)
        np.testing.assert_allclose(found.morphology["gini"], images.mean(1), rtol=1e-5)
    assert seen == [4, 4]
    monkeypatch.setattr(generators, "MEASURED_AS", {"version": 2})
    generators.measures(args, map, "set", first)
    assert seen == [4, 4, 4], "measures of other code are not taken"


def noise_images(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, (rows, 64 * 64)).astype(np.float32)


def metrics_arguments(**settings: Any) -> argparse.Namespace:
    told = {"size": 64, "workers": 1, "pool": True, "circular": False, "exact": True, "softening": 100.0, "inception": "",
            "repeats": 2, "bootstrap": 0, "scaling": [1]}  # fmt: skip
    return argparse.Namespace(**(told | settings))


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sets are measured in this process, by numbers of their images: statmorph is not what is tested."""
    sizes: list[int] = []

    def measure_piece(settings: Any, piece: Any) -> Any:
        images = piece[1][:, 0]
        sizes.append(len(images))
        rng = np.random.default_rng(int(images.sum()))
        values = {name: rng.uniform(0.01, 0.1, len(images)) for name in PROPERTIES}
        return values | dict.fromkeys(("flag", "flag_sersic"), np.zeros(len(images), int)), radial_amplitude(
            images
        )

    monkeypatch.setattr("benchmarks.measuring.measure_piece", measure_piece)
    monkeypatch.setattr("benchmarks.measuring.failures", lambda _: {})
    monkeypatch.setattr(generators, "verdict", partial(verdict, repeats=2))
    for command in (generator_metrics, generators):
        monkeypatch.setattr(command, "mapper", lambda *_: nullcontext(map))
    return sizes


@pytest.mark.usefixtures("measured_here")
def test_copies_of_training_images_are_told_beside_a_floor_of_as_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, training = (list(pieces(noise_images(n, seed), 64)) for n, seed in ((40, 1), (100, 2)))
    copies = [
        (ids[:most], images[:most]) for (ids, images), most in zip(training, (8, 8, 8, 6), strict=False)
    ]
    found = generator_metrics.compared(metrics_arguments(), PUBLISHED["sersic"], real, copies, training)
    assert found["distances"]["nearer"].value == 1
    assert found["floor"]["precision"] == found["distances"]["precision"], "the same 30 images are its floor"
    assert {*found["floor"]} == {*found["distances"]} - {"nearer"}
    assert "training: 30 images" in capsys.readouterr().out


@pytest.mark.usefixtures("measured_here")
def test_images_that_cannot_be_measured_are_counted_in_the_table_and_stop_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, training = (list(pieces(noise_images(40, seed), 64)) for seed in (1, 2))
    bad = noise_images(40, 3)
    bad[3], bad[5, 7] = 1.0, np.nan
    made = list(pieces(bad, 64))
    found = generator_metrics.compared(metrics_arguments(), PUBLISHED["sersic"], real, made, training)
    row = found["distances"]
    assert (row["kept"].value, row["unusable"].value) == (38 / 40, 2)
    assert (found["floor"]["kept"].value, found["real"]["unusable"].value) == (1.0, 0)
    assert np.isfinite([row["average"].value, row["nearer"].value]).all()
    shown = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert (shown["kept"], shown["unusable"]) == (["0.95", "1.00"], ["2.00", "0.00"])


@pytest.mark.usefixtures("measured_here")
def test_a_set_without_distances_still_has_its_counts(capsys: pytest.CaptureFixture[str]) -> None:
    real, few = list(pieces(noise_images(40, 1), 64)), list(pieces(noise_images(5, 2), 64))
    found = generator_metrics.compared(metrics_arguments(), PUBLISHED["sersic"], real, few, [])
    assert {*found["distances"]} == {"kept", "unusable"}
    assert "average" in found["floor"]
    told = capsys.readouterr().out
    for group in ("morphology", "power (released, averaged)", "coverage"):
        assert f"generated: no {group}: " in told


def judged_families(tmp_path: Path) -> dict[str, dict[str, Value]]:
    """A family with a constant and a NaN sample, one that makes nothing at all, and one that is sound."""
    sound = noise_images(40, 5)
    bad, nothing = sound.copy(), np.full_like(sound, np.nan)
    bad[0], bad[1, 0] = 0.0, np.nan
    made = {"image_vae": {"image": bad}, "image_alae": {"image": nothing}, "image_flow": {"image": sound}}
    args = metrics_arguments(num=40, num_train=30, folder=tmp_path)
    return generators.judged(args, made)


@pytest.mark.usefixtures("measured_here")
def test_a_family_with_bad_samples_keeps_its_row_and_all_are_counted_again_from_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = judged_families(tmp_path)
    assert {*rows} == {"real", "floor", "image_vae", "image_alae", "image_flow"}
    assert (rows["image_vae"]["kept"].value, rows["image_vae"]["unusable"].value) == (38 / 40, 2)
    assert rows["image_vae"]["average"].value > 0
    assert "nearer" in rows["image_vae"]
    assert rows["image_alae"] == {"kept": Value(0.0), "unusable": Value(40.0)}
    assert rows["image_flow"]["unusable"].value == 0
    capsys.readouterr()
    again = judged_families(tmp_path)
    assert again == rows
    printed = capsys.readouterr().out
    assert " a second" not in printed, "measured once only"
    assert "image_vae: 2 images left out before" in printed
    assert printed.count("  flags:") == 4


def test_the_flow_is_drawn_from_with_other_steps_without_a_second_training(tmp_path: Path) -> None:
    args = metrics_arguments(
        size=16, num=6, num_train=64, folder=tmp_path, preset="tiny", core_s=0.01, batch_rows=8, device="cpu"
    )
    own, few, as_own = (generators.samples(args, "image_flow", steps)["image"] for steps in (0, 2, 8))
    assert len([*tmp_path.glob("*.checkpoint")]) == 1
    assert not np.allclose(own, few)
    np.testing.assert_array_equal(own, as_own)


@pytest.mark.usefixtures("measured_here")
def test_without_training_images_the_floor_is_between_halves(capsys: pytest.CaptureFixture[str]) -> None:
    real, made = (list(pieces(noise_images(48, seed), 64)) for seed in (1, 2))
    found = generator_metrics.compared(metrics_arguments(), PUBLISHED["sersic"], real, made, [])
    assert "nearer" not in found["distances"]
    assert {*found["floor"]} == {*found["distances"]}
    assert "floor, of halves" in capsys.readouterr().out


def test_scaling_measures_all_images_with_each_number_of_workers(measured_here: list[int]) -> None:
    real = list(pieces(noise_images(20, 1), 64))
    rates = generator_metrics.scaling(metrics_arguments(scaling=[1, 2]), real, PUBLISHED["sersic"])
    head, *rows = generator_metrics.scaling_lines(rates)
    assert head.split()[:2] == ["workers", "images/s"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert rows[0].split()[2] == "1.00"
    assert measured_here == [8, 8, 8, 4, 8, 8, 8, 8, 4], "a piece a worker to start, then all"


def test_skirt_images_are_measured_at_the_size_that_their_fifth_channel_says() -> None:
    images = np.random.default_rng(1).normal(1, 0.1, (2, 5, 64, 64))
    images[0, 4], images[1, 4] = size_channel(96.5), size_channel(256.5)
    first, second = at_own_size(images, 2)
    assert (first.shape, second.shape) == ((48, 48), (128, 128))
    assert first.mean() == pytest.approx(images[0, 2].mean(), rel=1e-2)
    (plain,) = at_own_size(images[:1, :1], 0)
    np.testing.assert_array_equal(plain, images[0, 0])
    assert (cut_size(5, 64), cut_size(1, 64)) == (256, 64)
    nircam = np.ones((1, 6, 64, 64))
    assert next(at_own_size(nircam, 2)).shape == (64, 64), "six channels are bands"


def test_power_of_skirt_images_is_that_of_the_r_band_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave of 12 cycles an image of 96 pixels, resized to 64: bins are of the 96, and there are as many."""
    monkeypatch.setattr("engine.images.measures.measure", lambda *_: {})
    images = np.random.default_rng(1).normal(5, 0.01, (2, 5, 64, 64))
    images[0, 1] += np.cos(2 * np.pi * 12 * np.arange(64) / 64)
    images[0, 4], images[1, 4] = size_channel(192.5), size_channel(67.0)
    _, spectra = measure_piece(PUBLISHED["skirt"], ([1, 2], images))
    assert (~np.isnan(spectra)).sum(axis=1).tolist() == [68, 23], "96 and 33 pixels a side"
    assert 1 + spectra[0, 1:68].argmax() == 12
    found = measures_of([([1], images[:1]), ([2], images[1:])], PUBLISHED["skirt"], map, "skirt")
    np.testing.assert_array_equal(found.spectra, spectra)
