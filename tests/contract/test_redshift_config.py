"""The configuration of the redshift-aware autoencoder: from files to scores, and objects without a redshift rejected."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catalogs import CATALOGS
from engine.checkpoint import Checkpoint, save
from engine.infer import InferStage
from engine.schema import to_arrays
from engine.sources.desi import DesiSource
from engine.spectra.prepare import SpectrumPrep
from engine.stage import check, run_local
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, write_task
from jobs.config import load, model_of
from jobs.job import Options
from models import MODELS
from models.scoring.spectral import ScoringConfig

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "redshift_vae.toml"
SPEC = MODELS["redshift_vae"]


def test_files_become_scores_and_objects_without_a_redshift_are_rejected(tmp_path: Path) -> None:
    config = load(Options(str(CONFIG)))
    spec, settings = model_of(config)
    assert spec is SPEC
    prepare = SpectrumPrep.model_validate(config.prepare).stage
    for index in range(2):
        write_task(
            SynthesizeConfig(num_spectra=48, spectra_per_file=24, seed=3), index, str(tmp_path), Storage()
        )
    sorted(tmp_path.rglob("redrock-*.fits*"))[0].unlink()
    source = DesiSource(str(tmp_path))
    lost, kept = sorted(
        (run_local([prepare], source.read(u)) for u in source.plan()), key=lambda t: t.rows.num_rows
    )
    assert lost.rows.num_rows == 0
    assert "no_redshift" in lost.rejected["reason"].to_pylist()

    small = replace(
        settings, hidden=(16, 16), channels=(2, 2, 4), precision="float32",
        scoring=ScoringConfig(num_reference=15, num_neighbours=3, min_class_rows=20),
    )  # fmt: skip
    torch.manual_seed(0)
    module = SPEC.build(small)
    batch = to_arrays(kept.rows, [column.name for column in SPEC.reads(small)])
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    fitted = SPEC.fit(small, module, [batch], [batch])
    made = Checkpoint(SPEC.name, SPEC.version, asdict(small), prepare.config.model_dump(), weights, fitted)
    save(made, str(tmp_path / "checkpoint"), Storage())
    stage = InferStage.from_checkpoint(SPEC, str(tmp_path / "checkpoint"), batch_rows=16)
    check([prepare, stage], source.columns)
    scores = stage.open()(kept).rows["anomaly_score"].to_numpy()
    assert len(scores) == kept.rows.num_rows > 12
    assert np.isfinite(scores).all()


def test_its_scores_are_published_like_those_of_the_spectral_vae() -> None:
    catalog = CATALOGS[load(Options(str(CONFIG))).catalog.name]
    assert catalog.publishes("redshift_vae")
    assert catalog.publishes("spectral_vae")
    assert not catalog.publishes("band_gan")
    settings = MODELS[catalog.model].config(num_latent=SPEC.config().num_latent)
    assert SPEC.writes(SPEC.config()) == MODELS[catalog.model].writes(settings)


@pytest.mark.parametrize("frame", ["observed", "rest"])
def test_preparation_says_whether_it_reads_the_redshift(frame: str) -> None:
    names = [column.name for column in SpectrumPrep(frame=frame, need_redshift=True).stage.requires]
    assert "z" in names
