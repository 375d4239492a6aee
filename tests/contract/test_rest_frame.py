"""The rest-frame configuration that comes with the project: it is the preset, and it runs from files to scores."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import Checkpoint, save
from engine.flags import LOW_COVERAGE
from engine.infer import InferStage
from engine.schema import to_arrays
from engine.sources.desi import DesiSource
from engine.spectra.prepare import PrepareSpectra, SpectrumPrep
from engine.stage import UnitTable, check, columns_by_name, run_local
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, write_task
from jobs.config import load, model_of
from jobs.ingest import AddSplit
from jobs.job import Options
from models import MODELS
from models.scoring.spectral import ScoringConfig
from models.spectral_vae_config import PRESETS

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "desi_rest.toml"
PRESET = PRESETS["rest_2860x10"]
SPEC = MODELS["spectral_vae"]


@pytest.fixture(scope="module")
def prepare() -> PrepareSpectra:
    config = load(Options(str(CONFIG)))
    return PrepareSpectra(SpectrumPrep.model_validate(config.prepare))


@pytest.fixture(scope="module")
def staged(prepare: PrepareSpectra, tmp_path_factory: pytest.TempPathFactory) -> UnitTable:
    """What `ingest` would stage of two coadds, of which one has no redshifts."""
    folder = tmp_path_factory.mktemp("release")
    config = SynthesizeConfig(num_spectra=96, spectra_per_file=48, seed=3)
    for index in range(2):
        write_task(config, index, str(folder), Storage())
    sorted(folder.rglob("redrock-*.fits*"))[0].unlink()
    source = DesiSource(str(folder))
    stages = [prepare, AddSplit(*columns_by_name(source.columns, source.split_by))]
    check(stages, source.columns)
    lost, kept = sorted((run_local(stages, source.read(u)) for u in source.plan()), key=lambda t: len(t.rows))
    assert not lost.rows.num_rows
    assert set(lost.rejected["reason"].to_pylist()) <= {"no_redshift", "sky_fibre", "fiberstatus"}
    assert "no_redshift" in lost.rejected["reason"].to_pylist()
    return kept


def test_settings_are_the_preset_on_the_grid_of_the_preparation(prepare: PrepareSpectra) -> None:
    spec, settings = model_of(load(Options(str(CONFIG))))
    assert (spec.name, settings) == (SPEC.name, PRESET)
    wave = prepare.config.wave
    assert prepare.config.frame == "rest"
    assert len(wave) == PRESET.num_pixels
    np.testing.assert_allclose(wave[[0, -1]], (PRESET.wave_min_angstrom, PRESET.wave_max_angstrom))
    # Both sides mean equal steps of the logarithm: edges of windows lie half a pixel before their first one.
    step = np.log(wave[1] / wave[0])
    np.testing.assert_allclose(
        np.log(PRESET.wave_edges[:-1]), np.log(wave[:: PRESET.window_pixels]) - step / 2
    )


def test_spectra_with_a_redshift_are_staged(staged: UnitTable) -> None:
    assert staged.rows.num_rows > 24
    assert (staged.rows["z"].to_numpy() > -1).all()
    assert staged.rows["split_hash"].null_count == 0


def test_staged_spectra_train_a_model_that_scores_them(
    staged: UnitTable, prepare: PrepareSpectra, tmp_path: Path
) -> None:
    config = replace(
        PRESET,
        precision="float32",
        scoring=ScoringConfig(num_reference=20, num_neighbours=3, min_class_rows=20),
    )
    batch = to_arrays(staged.rows, [column.name for column in SPEC.reads(config)])
    task = SPEC.task(config, 0)
    task.start(torch.device("cpu"), 10)
    losses = [task.step(batch, step)["loss"] for step in range(10)]
    assert losses[-1] < losses[0]

    module = task.modules["vae"]
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    fitted = SPEC.fit(config, module, [batch], [batch])
    made = Checkpoint(SPEC.name, SPEC.version, asdict(config), prepare.config.model_dump(), weights, fitted)
    save(made, str(tmp_path), Storage())
    stage = InferStage.from_checkpoint(SPEC, str(tmp_path), batch_rows=16)
    check([stage], prepare.provides + DesiSource("").columns[:9])
    rows = stage.open()(staged).rows
    scores = rows["anomaly_score"].to_numpy()
    assert len(scores) == staged.rows.num_rows
    assert np.isfinite(scores).all()
    assert (rows["worst_wave_min"].to_numpy() >= 635).all()
    assert not (rows["flags"].to_numpy() & LOW_COVERAGE.value).all(), "no spectrum can fill this grid"
