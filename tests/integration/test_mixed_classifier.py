"""Generated cutouts in the training of the disk classifier and the band GAN, as the README has it, job by job."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.checkpoint import load
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.images.columns import DX, DY, LABEL, OBJECT_ID, PIXEL_SCALE, pixel_columns, quantity_columns
from engine.images.prepare import CutoutPrep
from engine.partition import split_hash
from engine.schema import arrow_schema, column_array
from engine.stage import UnitTable, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import FileRef, Unit, with_ids
from jobs.__main__ import main
from jobs.ingest import SPLIT
from tests.disks import make_disks
from tests.inprocess import in_process

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]

SIZE, ROWS = 32, 160
SNR = "snr"
COLUMNS = (
    OBJECT_ID, *pixel_columns(SIZE), DX, DY, PIXEL_SCALE, LABEL, SPLIT, *quantity_columns({SNR: "SNR"}),
)  # fmt: skip
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
    conditions = ["label", "snr"]
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
MIXED = """
    [mix]
    staged = {{ uri = "{folder}/augmentations/model=image_vae" }}
    alpha = 1.0
    columns = {{ science = "image", error = 20.0, mask = 0, dx = 0.0, dy = 0.0, pixel_scale = 0.03 }}
    [checkpoint]
    uri = "{folder}/mixed"
    [model]
"""
LEARNERS = {
    "disk_classifier": """
    name = "disk_classifier"
    [model.settings]
    size = 32
    network_pixels = 17
    fields = [2, 3, 4]
    halvings = [1, 2]
    architecture = "plain"
    dropout = 0.0
    """,
    "band_gan": """
    name = "band_gan"
    [model.settings]
    size = 32
    width = 8
    levels = 2
    discriminator_width = 8
    [model.settings.scoring]
    num_reference = 100
    num_neighbours = 5
    num_latent = 3
    """,
}


def stage_disks(folder: Path) -> None:
    """Publish cutouts as `ingest` stages them, a fifth of them without a class, with a number of the catalogue."""
    values = make_disks(ROWS, SIZE, 1, unknown=0.2)
    ids = np.arange(ROWS)
    values |= {"object_id": ids, SPLIT.name: split_hash(ids), SNR: np.linspace(5.0, 50.0, ROWS)}
    table = pa.table([column_array(one, values[one.name]) for one in COLUMNS], schema=arrow_schema(COLUMNS))
    (unit,) = with_ids([Unit("disks", (FileRef("made", 1, "f"),))], {})
    FragmentSink(str(folder), StorageOptions(), COLUMNS).write(
        unit, UnitTable(table, rejected_table([]), ROWS)
    )
    staged = CatalogConfig(name="staged", kind="flat", key=())
    facts = {"config": {"prepare": CutoutPrep(size=SIZE).model_dump()}}
    publish(str(folder), Storage(), [unit.id], COLUMNS, staged, facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with staged cutouts, a generator that is told their class, and 96 of its samples."""
    folder = tmp_path_factory.mktemp("mixed")
    stage_disks(folder / "staged")
    config = folder / "generator.toml"
    config.write_text((COMMON + GENERATOR).format(folder=folder))
    with in_process():
        assert main(["train", str(config)]) == 0
        assert main(["augment", str(config)]) == 0
    return folder


def run(config: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    capsys.readouterr()
    assert main(["train", str(config), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_generator_of_cutouts_is_not_given_is_measured(folder: Path) -> None:
    learned = load(str(folder / "generator"), Storage())
    assert [*learned.config["stretched_std"]] != [1.0] * 6
    assert [*learned.config["stretched_mean"]] != [0.0] * 6
    low, high = ([*learned.config[f"condition_{end}"]] for end in ("low", "high"))
    assert (low[0], high[0]) == (0.0, 1.0)
    assert 5.0 <= low[1] < 10.0 < 45.0 < high[1] <= 50.0, "of those that have a class"
    assert 0.1 * ROWS < learned.metrics["rows_without_condition"] < 0.3 * ROWS, "a fifth have no class"


@pytest.mark.parametrize("name", list(LEARNERS))
def test_samples_train_the_classifier_and_the_band_gan(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = folder / f"{name}.toml"
    config.write_text((COMMON + MIXED + LEARNERS[name]).format(folder=folder))
    summary = run(config, capsys, "-o", f"checkpoint.uri={folder / name}")
    assert (summary["rows"], summary["mixed_rows"], summary["alpha"]) == (ROWS, 96, 1.0)
    mixed = load(str(folder / name), Storage())
    assert np.isfinite(mixed.history[-1]["val_loss"])
    real = run(config, capsys, "-o", "mix.alpha=0.0", "-o", f"checkpoint.uri={folder / name}-real")
    assert real["metrics"]["train_loss"] != mixed.history[-1]["train_loss"], "other images were learned from"
