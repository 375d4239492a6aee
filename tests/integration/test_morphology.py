"""A denoiser and a disk classifier, from nothing to the published catalogue, with the configurations of the demo."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalogs import CATALOGS
from catalogs.check import check_catalog
from catalogs.query import open_catalog, run_query
from engine.checkpoint import load as load_checkpoint
from engine.checkpoint import save as save_checkpoint
from engine.commit import read_manifest
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables
from jobs.__main__ import main
from tests.inprocess import in_process
from tests.integration.conftest import manifest_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SMALL = {
    "synthesize.width_px": 384, "synthesize.height_px": 384, "train.max_validation_rows": 64,
    "scoring.min_held_out_rows": 5, "report.gallery": 6, "cluster.num_cpus": 3,
    "cluster.object_store_memory_gib": 0.3, "pipeline.workers": 1,
}  # fmt: skip
NUM_GALAXIES = (384 // 64) ** 2
"""One a square of 64 pixels."""
REALISATIONS, BATCH_ROWS, VALIDATION_FRACTION = 2, 16, 0.1


def run(job: str, name: str, folder: Path, **more: object) -> int:
    """Run a job of a configuration of the demo, small, with everything below a folder."""
    settings = SMALL | {
        "release.uri": folder / name, "staged.uri": folder / f"staged-{name}",
        "release.settings.catalogue.uri": folder / name / "truth.parquet",
    } | more  # fmt: skip
    return main(
        [job, str(CONFIGS / f"demo_{name}.toml"), *(f"-o{key}={value}" for key, value in settings.items())]
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both demos."""
    folder = tmp_path_factory.mktemp("morphology")
    denoiser = {"checkpoint.uri": folder / "a-denoiser", "contaminate.realisations": REALISATIONS,
                "train.global_batch_rows": BATCH_ROWS, "train.validation_fraction": VALIDATION_FRACTION}  # fmt: skip
    with in_process():
        assert run("demo", "denoiser", folder, **denoiser) == 0
    classifier = {
        "checkpoint.uri": folder / "a-classifier", "output.uri": folder / "catalogue", "train.epochs": 1,
        "upstream": f'[{{uri = "{folder / "a-denoiser"}"}}]', "train.global_batch_rows": BATCH_ROWS,
        "infer.publish_images": "true", "morphology": '{image = "denoised", band = "f277w"}',
    }  # fmt: skip
    with in_process():
        assert run("demo", "morphology", folder, **classifier) == 0
    return folder


def test_the_denoiser_has_seen_every_galaxy_in_each_realisation(made: Path) -> None:
    manifest = read_manifest(str(made / "staged-denoiser"), Storage())
    assert manifest.rows == NUM_GALAXIES
    files = [str(made / "staged-denoiser" / path) for path in manifest.paths("data")]
    hashes = [table[SPLIT_COLUMN].to_numpy() for table in read_tables(files, [SPLIT_COLUMN], Storage())]
    training_rows = int(np.sum(np.concatenate(hashes) >= VALIDATION_FRACTION))
    history = load_checkpoint(str(made / "a-denoiser"), Storage()).history
    assert len(history) == 1
    assert history[0]["step"] == REALISATIONS * training_rows // BATCH_ROWS > training_rows // BATCH_ROWS
    assert np.isfinite(history[0]["val_loss"])


def test_the_catalogue_is_whole_and_answers(made: Path) -> None:
    root = str(made / "catalogue")
    manifest = manifest_of(made / "catalogue")
    assert manifest["rows"] + sum(manifest["rejected"].values()) == manifest["rows_in"] == NUM_GALAXIES
    assert len(manifest["provenance"]["checkpoints"]) == 2, "denoiser and classifier"
    assert check_catalog(root).ok
    with open_catalog(root) as connection:
        for question, sql in CATALOGS["nircam_morphology"].examples:
            assert run_query(connection, sql).read_all().num_columns, question
        rows = run_query(connection, "SELECT * FROM catalog").read_all()
    probability = rows["prob_disk"].to_numpy()
    assert ((probability >= 0) & (probability <= 1)).all()
    assert set(rows["label"].to_pylist()) >= {0, 1}
    np.testing.assert_array_equal(rows["disk_class"].to_numpy(), (probability >= 0.5).astype(np.int8))
    assert {"prob_disk_raw", "prob_disk_denoised", "denoised", "denoised_fraction"} <= {*rows.column_names}
    assert len(rows["denoised"][0].as_py()) == 4 * 6 * 64 * 64
    sizes = rows["half_light_radius"].to_numpy()
    assert np.nanmedian(sizes) == pytest.approx(0.2, abs=0.15), "arcsec"


def test_the_report_shows_classes_and_three_galleries(made: Path) -> None:
    html = (made / "catalogue" / "reports" / "000001.html").read_text()
    assert 'id="classes"' in html
    assert "#scores" not in html, "nothing links to what is not there"
    for title in ("Most probable disks", "Least probable disks", "Farthest from the class that was given"):
        assert f"<h3>{title}</h3>" in html
    assert html.count("What the model was given and what it made of it") == 6
    assert "objects with a given class are predicted to have it" in html
    assert 'id="latent"' not in html


def test_staged_rows_of_the_classifier_hold_what_the_denoiser_made(made: Path) -> None:
    names = [column["name"] for column in read_manifest(str(made / "staged-morphology"), Storage()).columns]
    assert {"label", "denoised", "science"} <= {*names}


def test_statmorph_quantities_are_in_the_catalogue_where_they_are_asked_for(made: Path) -> None:
    with open_catalog(str(made / "catalogue")) as connection:
        rows = run_query(connection, "SELECT morph_gini AS gini, morph_flag AS flag FROM catalog").read_all()
    gini = rows["gini"].to_numpy()
    assert np.isfinite(gini[rows["flag"].to_numpy() < 4]).all()
    assert np.isfinite(gini).mean() > 0.5


def test_classes_that_are_not_named_stop_the_job(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"upstream": "[]", "release.settings.catalogue.label.values": "{disk = 1}"}
    assert run("ingest", "morphology", made, **more) == 2
    assert "holds classes without a label" in capsys.readouterr().err


def test_a_classifier_of_another_group_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of 8 rotations do not fit a network of 4, though the checkpoint is whole."""
    other = made / "other-group"
    ours = load_checkpoint(str(made / "a-classifier"), Storage())
    save_checkpoint(replace(ours, config=ours.config | {"rotations": 4}), str(other), Storage())
    more = {
        "checkpoint.uri": other,
        "output.uri": made / "never",
        "upstream": f'[{{uri = "{made / "a-denoiser"}"}}]',
    }
    assert run("reprocess", "morphology", made, **more) in (1, 2)
    told = capsys.readouterr().err
    assert "other-group" in told
    assert "blocks.0.convolution" in told
