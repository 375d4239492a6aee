"""A denoiser and a classifier in one pass: each row is what the two give one after the other."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.checkpoint import Checkpoint, save
from engine.errors import CheckpointError
from engine.images.prepare import CutoutPrep
from engine.schema import column_array, set_column
from engine.stage import UnitTable, check, rejected_table
from engine.storage import Storage
from jobs import applied
from jobs.config import JobConfig, Place, ReleaseConfig
from models import MODELS
from models.spec import Batch
from tests.disks import make_disks

SIZE = 24
SETTINGS = {
    "unet_vae": {"size": SIZE, "width": 8, "levels": 2, "num_latent": 4, "skip_levels": (0, 1)},
    "disk_classifier": {
        "size": SIZE, "network_pixels": 17, "rotations": 4, "fields": (2, 3, 4), "halvings": (1, 2),
        "aperture_radius_arcsec": 0.25, "use_denoised": True,
    },
}  # fmt: skip


def write(folder: Path, name: str, batch: Batch, prepare: CutoutPrep) -> Place:
    """Save a model that learned nothing, fitted to a batch."""
    spec = MODELS[name]
    config = spec.config(**SETTINGS[name])
    module = spec.build(config).eval()
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    fitted = spec.fit(config, module, [batch], [batch])
    saved = Checkpoint(name, spec.version, SETTINGS[name], prepare.model_dump(mode="json"), weights, fitted)
    save(saved, str(folder / name), Storage())
    return Place(uri=str(folder / name))


def rows_of(batch: Batch) -> pa.Table:
    """Cutouts as a source of images gives them, as far as the models read."""
    spec = MODELS["unet_vae"]
    columns = {column.name: column for column in spec.reads(spec.config(**SETTINGS["unet_vae"]))}
    table = pa.table({"flags": pa.array(np.zeros(len(batch["dx"]), np.int32))})
    for name, column in columns.items():
        table = set_column(table, column, column_array(column, batch[name]))
    return table


@pytest.fixture
def batch() -> Batch:
    disks = make_disks(12, SIZE, seed=3, unknown=0.0)
    return disks | {"denoised": disks["science"]}


def test_a_classifier_reads_what_the_denoiser_before_it_wrote(tmp_path: Path, batch: Batch) -> None:
    places = [write(tmp_path, name, batch, CutoutPrep(size=SIZE)) for name in SETTINGS]
    release = ReleaseConfig(uri=str(tmp_path), source="stamps", settings={"size": SIZE, "unit": "nJy"})
    config = JobConfig(release=release, upstream=(places[0],), checkpoint=places[1])
    chain = applied.open_all(config)
    stages = applied.stages(config, chain)
    check(stages, config.release.open().columns)
    unit = UnitTable(rows_of(batch), rejected_table([]), 12)
    for stage in stages[1:]:
        unit = stage.open()(unit)
    denoiser, classifier = (stage.open() for stage in stages[1:])
    clean = denoiser(UnitTable(rows_of(batch), rejected_table([]), 12))
    again = classifier(clean).rows
    for name in ("prob_disk", "prob_disk_raw", "prob_disk_denoised"):
        values = unit.rows[name].to_numpy()
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, again[name].to_numpy())
    assert (unit.rows["prob_disk_raw"].to_numpy() != unit.rows["prob_disk_denoised"].to_numpy()).any()


def test_checkpoints_of_differently_prepared_rows_are_not_applied_together(
    tmp_path: Path, batch: Batch
) -> None:
    first = write(tmp_path / "a", "unet_vae", batch, CutoutPrep(size=SIZE + 8))
    second = write(tmp_path / "b", "disk_classifier", batch, CutoutPrep(size=SIZE))
    with pytest.raises(CheckpointError, match="prepared differently"):
        applied.open_all(JobConfig(upstream=(first,), checkpoint=second))
