"""Samples of a generator as a catalogue: made again from their rows, exactly once, and asked by SQL."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from catalogs.augmentations import EXAMPLES
from catalogs.check import check_catalog
from catalogs.query import open_catalog, run_query
from engine.checkpoint import Checkpoint, load, save
from engine.commit import read_manifest
from engine.errors import CheckpointError
from engine.images.morphology import MeasureMorphology
from engine.images.nearest import NearestConfig, features, nearest
from engine.infer import open_model
from engine.sampling import SampleStage
from engine.schema import matrix
from engine.sources.seeds import SeedsConfig, SeedSource
from engine.storage import Storage, StorageOptions
from jobs.__main__ import main
from models import MODELS
from models.generators.sampling import drawn_conditions
from tests.blobs import CONDITIONS, make_blobs
from tests.inprocess import in_process

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]

MODEL = MODELS["image_vae"]
SETTINGS = {
    "size": 16, "width": 8, "max_width": 16, "num_latent": 8, "batch_rows": 8,
    "conditions": list(CONDITIONS), "condition_low": [1.0, 0.4], "condition_high": [4.0, 1.0],
}  # fmt: skip


def make_checkpoint(folder: Path, seed: int = 1) -> str:
    """Write a generator that has learned nothing; returns where."""
    config = MODEL.config(**SETTINGS)
    torch.manual_seed(seed)
    module = MODEL.build(config)
    batch = make_blobs(40, 16, seed, tuple(CONDITIONS))
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    fitted = MODEL.fit(config, module, [batch], [])
    save(
        Checkpoint(MODEL.name, MODEL.version, SETTINGS, {}, weights, fitted, {}, [], {}),
        str(folder),
        Storage(),
    )
    return str(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a checkpoint, a configuration, and its catalogue of 21 samples, which two workers made."""
    folder = tmp_path_factory.mktemp("augment")
    make_checkpoint(folder / "checkpoint")
    (folder / "augment.toml").write_text(f"""
        [checkpoint]
        uri = "{folder / "checkpoint"}"
        [output]
        uri = "{folder / "out"}"
        [augment]
        num_samples = 21
        first_seed = 5
        unit_rows = 9
        [augment.morphology]
        [pipeline]
        workers = 1
        [cluster]
        num_cpus = 3
    """)
    assert run(folder, "-o", "pipeline.workers=2") == 0
    return folder


@pytest.fixture(scope="module")
def other(site: Path) -> str:
    """Name of a catalogue of the same samples in other units."""
    with in_process():
        assert run(site, "-o", "augment.unit_rows=16", "-o", f"output.uri={site / 'other'}") == 0
    return "other"


def run(folder: Path, *more: str) -> int:
    return main(["augment", str(folder / "augment.toml"), *more])


def rows_of(folder: Path, root: str = "out") -> pa.Table:
    with open_catalog(str(folder / root / "model=image_vae")) as connection:
        names = run_query(connection, "SELECT * FROM catalog LIMIT 0").read_all().column_names
    manifest = read_manifest(str(folder / root / "model=image_vae"), Storage())
    files = [file.path for file in manifest.files if file.role == "data"]
    tables = [pq.read_table(folder / root / "model=image_vae" / path) for path in files]
    return pa.concat_tables(tables).select(names).sort_by("seed")


def test_a_sample_is_made_again_from_its_row_bit_for_bit(site: Path) -> None:
    torch.set_num_threads(1)
    table, checkpoint = rows_of(site), load(str(site / "checkpoint"), Storage())
    assert set(table["checkpoint_id"].to_pylist()) == {checkpoint.id}
    config, module = open_model(MODEL, checkpoint, "test")
    assert MODEL.sampler is not None
    sampler = MODEL.sampler(config, module, torch.device("cpu"))
    for row in (0, 8, 9, 20):
        condition = np.array([[table[name][row].as_py() for name in CONDITIONS]])
        again = sampler.sample(np.array([table["seed"][row].as_py()]), condition)
        np.testing.assert_array_equal(again["image"][0], matrix(table, "image")[row])
        np.testing.assert_array_equal(again["latent"][0], matrix(table, "latent")[row])


def test_the_catalogue_is_whole_and_answers(site: Path) -> None:
    root = str(site / "out" / "model=image_vae")
    assert check_catalog(root).ok
    sql = (
        "SELECT count(*) AS n, count(DISTINCT seed) AS seeds, min(seed) AS first, max(seed) AS last, "
        "count(DISTINCT axis_ratio) AS conditions, count(morph_flag) AS measured, any_value(field) AS field "
        "FROM catalog"
    )
    with open_catalog(root) as connection:
        (row,) = run_query(connection, sql).read_all().to_pylist()
    assert {k: row[k] for k in ("n", "seeds", "first", "last", "measured")} == {
        "n": 21, "seeds": 21, "first": 5, "last": 25, "measured": 21,
    }  # fmt: skip
    assert row["conditions"] > 5
    assert row["field"] == "image_vae"


def test_other_units_give_the_same_samples(site: Path, other: str) -> None:
    columns = ["seed", *CONDITIONS, "image", "latent", "split_hash"]
    first, second = (rows_of(site, root).select(columns) for root in ("out", other))
    assert first.equals(second)


def test_a_rerun_computes_nothing_and_more_samples_only_what_is_new(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def summary(*more: str) -> dict:
        capsys.readouterr()
        assert run(site, "--json", *more) == 0
        return json.loads(capsys.readouterr().out)

    assert (summary()["computed"], summary()["version"]) == (0, 1)
    planned = summary("--plan", "-o", "augment.num_samples=27")
    assert (planned["units"], planned["pending"]) == (3, 1), "the last unit was not full"
    assert (site / "out" / "model=image_vae" / "versions" / "000001.json").exists()
    shutil.copytree(site / "out", site / "growing")
    more = summary("-o", "augment.num_samples=36", "-o", f"output.uri={site / 'growing'}", "--limit", "3")
    assert (more["units"], more["computed"], more["rows"], more["version"]) == (3, 1, 27, 2)


def test_it_is_said_that_samples_of_another_checkpoint_are_replaced(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(site / "out", site / "shared")
    line = ("-o", f"output.uri={site / 'shared'}", "-o", f"checkpoint.uri={make_checkpoint(site / 'second', 2)}",
            "-o", "augment.num_samples=9")  # fmt: skip
    first, second = (load(str(site / name), Storage()).id for name in ("checkpoint", "second"))
    capsys.readouterr()
    assert run(site, "--plan", *line) == 0
    assert f"samples of checkpoint {first}, which remain in version 1" in capsys.readouterr().out
    assert run(site, *line) == 0
    assert set(rows_of(site, "shared")["checkpoint_id"].to_pylist()) == {second}
    capsys.readouterr()
    assert run(site, "--plan", *line) == 0
    assert "replaces" not in capsys.readouterr().out


def test_samples_are_compared_with_staged_images(site: Path) -> None:
    near = {"augment.nearest.staged.uri": f"'{site / 'out' / 'model=image_vae'}'", "augment.nearest.side": 4,
            "output.uri": site / "near", "train.validation_fraction": 0}  # fmt: skip
    assert run(site, *(part for key, value in near.items() for part in ("-o", f"{key}={value}"))) == 0
    with open_catalog(str(site / "near" / "model=image_vae")) as connection:
        for question, sql in EXAMPLES:
            assert run_query(connection, sql).read_all().num_columns, question
    table = rows_of(site, "near")
    assert table["nearest_object_id"].to_pylist() == table["seed"].to_pylist(), "each is nearest to itself"
    np.testing.assert_allclose(table["nearest_distance"].to_numpy(), 0, atol=1e-3)
    near |= {"train.validation_fraction": 0.5, "output.uri": site / "apart"}
    assert run(site, *(part for key, value in near.items() for part in ("-o", f"{key}={value}"))) == 0
    split = dict(zip(table["seed"].to_pylist(), table["split_hash"].to_pylist(), strict=True))
    apart = rows_of(site, "apart")
    for seed, found in zip(apart["seed"].to_pylist(), apart["nearest_object_id"].to_pylist(), strict=True):
        assert split[found] >= 0.5, "held-out rows are no training images"
        assert (found == seed) == (split[seed] >= 0.5)
    facts = read_manifest(str(site / "apart" / "model=image_vae"), Storage()).provenance["nearest"]
    num = sum(value >= 0.5 for value in split.values())
    assert (facts["searched"], facts["trained_on"], facts["held_out"]) == (num, num, 0.5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("augment.condition.colour=1.0", "colour; expected of half_light_radius_pixels, axis_ratio"),
        ("augment.condition.axis_ratio=3.0", r"trained range [0.4, 1]"),
        ("augment.morphology.channel=2", "channel 2 of images with 1"),
        ("augment.num_samples=0", "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_made_is_told_before_it_starts(
    site: Path, override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(site, "-o", override) == 2
    assert words in capsys.readouterr().err


def test_samples_are_mixed_into_the_training_of_a_restorer(
    site: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = site / "restorer.toml"
    config.write_text(f"""
        [staged]
        uri = "{site / "out" / "model=image_vae"}"
        [mix]
        staged.uri = "{site / other / "model=image_vae"}"
        alpha = 0.5
        [model]
        name = "restorer"
        [model.settings]
        size = 16
        num_channels = 1
        width = 4
        blocks = 1
        [train]
        epochs = 2
        global_batch_rows = 4
        validation_fraction = 0.25
        device = "cpu"
        [scoring]
        min_held_out_rows = 1
        [checkpoint]
        uri = "{site / "restorer"}"
        [cluster]
        num_cpus = 3
    """)
    capsys.readouterr()
    assert main(["train", str(config), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["mixed_rows"], summary["alpha"]) == (21, 21, 0.5)
    assert np.isfinite(load(str(site / "restorer"), Storage()).history[-1]["val_loss"])


def test_the_report_shows_real_and_generated_of_a_condition(site: Path) -> None:
    real = site / "out" / "model=image_vae"
    errors = {alpha: [{"none": 2.0 - alpha, "noise x5": 10.0}] * 2 for alpha in (0.0, 0.5, 1.0)}
    (site / "curves.json").write_text(json.dumps({"errors": errors, "options": {"generator": "image_flow"}}))
    options = {
        "output.uri": site / "shown", "staged.uri": real, "augment.robustness.uri": site / "curves.json",
        "augment.num_samples": 9, "augment.condition.axis_ratio": 0.5,
    }  # fmt: skip
    assert run(site, *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))) == 0
    assert set(rows_of(site, "shown")["axis_ratio"].to_pylist()) == {0.5}
    html = (site / "shown" / "model=image_vae" / "reports" / "000001.html").read_text()
    for part in ("grid", "properties", "power", "distances", "copies", "robustness"):
        assert f'id="{part}"' in html
    assert "no morphology: " in html, "nothing of an untrained generator can be measured"
    assert "Copies were not looked for: distances of generated images: 9 values, at least 20" in html
    assert "+50.0 &plusmn; 0.0 %" in html, "half of the error at alpha = 1"


def test_a_report_says_how_near_samples_are_to_training_images(site: Path) -> None:
    """Other samples of the same generator as the real set: neither part of it is copied."""
    real = {"output.uri": site / "many", "augment.num_samples": 60}
    more = {
        "output.uri": site / "copies", "staged.uri": site / "many" / "model=image_vae", "augment.num_samples": 60,
        "augment.first_seed": 100, "train.validation_fraction": 0.5,
    }  # fmt: skip
    for options in (real, more):
        assert run(site, *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))) == 0
    html = (site / "copies" / "model=image_vae" / "reports" / "000001.html").read_text()
    assert "The median sample is" in html
    found = re.search(r"probability\s+(\d\.\d+) &plusmn; (\d\.\d+)", html)
    assert found
    nearer, error = map(float, found.groups())
    assert abs(nearer - 0.5) < 3.5 * error


class Broken:
    """Makes an image of NaN for seed 1, one of one value for seed 2."""

    num_latent = 8

    def sample(
        self, seeds: np.ndarray, condition: np.ndarray | None = None, latent=None
    ) -> dict[str, np.ndarray]:
        images = np.arange(256, dtype=np.float32) * np.ones((len(seeds), 1), np.float32)
        images[seeds == 1], images[seeds == 2] = np.nan, 3.0
        return {"image": images, "latent": np.zeros((len(seeds), 8), np.float32)}

    def encode(self, images: np.ndarray, condition: np.ndarray | None = None) -> np.ndarray:
        raise TypeError


def test_what_is_no_image_is_rejected_and_counted(site: Path) -> None:
    spec = dataclasses.replace(MODEL, sampler=lambda config, module, device: Broken())
    stage = SampleStage.from_checkpoint(spec, str(site / "checkpoint"), StorageOptions(), drawn_conditions)
    source = SeedSource("here", config=SeedsConfig(num_samples=5), model="image_vae")
    (unit,) = source.plan()
    table = MeasureMorphology(16).open()(stage.open()(source.read(unit)))
    assert table.rows["seed"].to_pylist() == [0, 3, 4]
    assert [(row["object_id"], row["reason"]) for row in table.rejected.to_pylist()] == [
        (1, "not_finite"), (2, "constant_image"),
    ]  # fmt: skip
    assert table.rows_in == 5
    assert np.isfinite(table.rows["morph_flag"].to_numpy()).all()


def test_a_model_that_generates_nothing_is_refused(site: Path) -> None:
    spec = dataclasses.replace(MODEL, sampler=None)
    with pytest.raises(CheckpointError, match="the model generates nothing"):
        SampleStage.from_checkpoint(spec, str(site / "checkpoint"), StorageOptions(), drawn_conditions)


def test_distance_from_the_nearest_sees_turns_and_needs_a_sample() -> None:
    real = make_blobs(12, 16, 3)["image"].reshape(12, 1, 16, 16)
    config = NearestConfig(side=4)
    reference = features(real, config)
    distance, row = nearest(np.rot90(real, 1, (2, 3))[..., ::-1], reference, config)
    np.testing.assert_array_equal(row, np.arange(12))
    np.testing.assert_allclose(distance, 0, atol=1e-3)
    far, _ = nearest(real + 100, reference, config)
    assert far.min() > 3
    with pytest.raises(ValueError, match="do not differ"):
        nearest(real, reference[:1], config)
    with pytest.raises(ValueError, match="do not divide"):
        features(real, NearestConfig(side=5))
