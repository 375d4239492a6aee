"""Generated cutouts in the training of the disk classifier, as the README has it: job by job, with unknown classes."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.checkpoint import load
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.images.columns import DX, DY, LABEL, OBJECT_ID, PIXEL_SCALE, pixel_columns
from engine.images.prepare import CutoutPrep
from engine.partition import split_hash
from engine.schema import arrow_schema, column_array
from engine.stage import UnitTable, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import FileRef, Unit, with_ids
from jobs.__main__ import main
from jobs.ingest import SPLIT
from tests.disks import make_disks

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]

SIZE, ROWS = 32, 160
COLUMNS = (OBJECT_ID, *pixel_columns(SIZE), DX, DY, PIXEL_SCALE, LABEL, SPLIT)
COMMON = """
    [staged]
    uri = "{folder}/staged"
    [train]
    epochs = 1
    global_batch_rows = 16
    validation_fraction = 0.25
    device = "cpu"
    [scoring]
    min_held_out_rows = 5
    [cluster]
    num_cpus = 3
"""
GENERATOR = """
    [model]
    name = "image_vae"
    preset = "tiny"
    [model.settings]
    size = 32
    num_channels = 6
    image_column = "science"
    softening = 10.0
    conditions = ["label"]
    [checkpoint]
    uri = "{folder}/generator"
    [output]
    uri = "{folder}/augmentations"
    [augment]
    num_samples = 96
    [report]
    enabled = false
    [pipeline]
    workers = 1
"""
CLASSIFIER = """
    [mix]
    staged = {{ uri = "{folder}/augmentations/model=image_vae" }}
    alpha = 1.0
    columns = {{ science = "image", error = 20.0, mask = 0, dx = 0.0, dy = 0.0, pixel_scale = 0.03 }}
    [model]
    name = "disk_classifier"
    [model.settings]
    size = 32
    network_pixels = 17
    fields = [2, 3, 4]
    halvings = [1, 2]
    architecture = "plain"
    dropout = 0.0
    [checkpoint]
    uri = "{folder}/classifier"
"""


def stage_disks(folder: Path) -> None:
    """Publish cutouts as `ingest` stages them, a fifth of them without a class."""
    values = make_disks(ROWS, SIZE, 1, unknown=0.2)
    ids = np.arange(ROWS)
    values |= {"object_id": ids, SPLIT.name: split_hash(ids)}
    table = pa.table([column_array(one, values[one.name]) for one in COLUMNS], schema=arrow_schema(COLUMNS))
    (unit,) = with_ids([Unit("disks", (FileRef("made", 1, "f"),))], {})
    FragmentSink(str(folder), StorageOptions(), COLUMNS).write(
        unit, UnitTable(table, rejected_table([]), ROWS)
    )
    staged = CatalogConfig(name="staged", kind="flat", key=())
    facts = {"config": {"prepare": CutoutPrep(size=SIZE).model_dump()}}
    publish(str(folder), Storage(), [unit.id], COLUMNS, staged, facts)


def run(job: str, config: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    capsys.readouterr()
    assert main([job, str(config), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_samples_that_are_told_the_class_train_the_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage_disks(tmp_path / "staged")
    generator, classifier = tmp_path / "generator.toml", tmp_path / "classifier.toml"
    for path, text in ((generator, GENERATOR), (classifier, CLASSIFIER)):
        path.write_text((COMMON + text).format(folder=tmp_path))
    run("train", generator, capsys)
    learned = load(str(tmp_path / "generator"), Storage())
    assert [*learned.config["stretched_std"]] != [1.0] * 6, "measured, as it was not given"
    assert learned.config["stretched_mean"] != [0.0] * 6, "measured, as it is not given"
    assert (learned.config["condition_low"], learned.config["condition_high"]) == ([0.0], [1.0]), (
        "and so the range"
    )
    assert 0.1 * ROWS < learned.metrics["rows_without_condition"] < 0.3 * ROWS, "a fifth have no class"
    assert run("augment", generator, capsys)["rows"] == 96
    summary = run("train", classifier, capsys)
    assert (summary["rows"], summary["mixed_rows"], summary["alpha"]) == (ROWS, 96, 1.0)
    mixed = load(str(tmp_path / "classifier"), Storage())
    assert np.isfinite(mixed.history[-1]["val_loss"])
    real = run(
        "train", classifier, capsys, "-o", "mix.alpha=0.0", "-o", f"checkpoint.uri={tmp_path / 'real'}"
    )
    assert real["metrics"]["train_loss"] != mixed.history[-1]["train_loss"], "other images were learned from"
