"""Checkpoints that a job applies: what does not fit is told when they are opened, not by a worker."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint import Checkpoint, load, save
from engine.errors import CheckpointError
from engine.sources.base import Source
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from jobs import applied
from jobs.config import JobConfig, Place, ReleaseConfig
from models import MODELS
from tests.contract.test_models import SMALL, make_batch, small_config

SPEC = MODELS["spectral_vae"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    config = small_config(SPEC)
    module = SPEC.build(config)
    fitted = SPEC.fit(config, module, *([make_batch(SPEC, config, 80, seed)] for seed in (1, 2)))
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    prepare = SpectrumPrep().model_dump(mode="json")
    return Checkpoint(SPEC.name, SPEC.version, SMALL[SPEC.name], prepare, weights, fitted)


@pytest.mark.parametrize(
    "name", ["latent_reference", "reference_id", "calibration_quantiles", "latent_density_weights"]
)
def test_checkpoint_without_what_scoring_fits_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, name: str
) -> None:
    left = {key: value for key, value in checkpoint.fitted.items() if key != name}
    save(replace(checkpoint, fitted=left), str(tmp_path), Storage())
    with pytest.raises(
        CheckpointError, match=f"lacks what scoring fits(.|\n)*{name}: got nothing(.|\n)*refit it"
    ):
        applied.open_one(Place(uri=str(tmp_path)))


def test_checkpoint_that_is_whole_is_opened(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, str(tmp_path), Storage())
    opened = applied.open_one(Place(uri=str(tmp_path)))
    assert opened.spec is SPEC
    np.testing.assert_array_equal(
        opened.checkpoint.fitted["reference_id"], load(str(tmp_path), Storage()).fitted["reference_id"]
    )


def test_spectra_are_explained_after_they_are_scored(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, str(tmp_path), Storage())
    place = Place(uri=str(tmp_path))
    config = JobConfig(release=ReleaseConfig(uri=str(tmp_path)), checkpoint=place)
    chain = [applied.open_one(place)]
    stages = applied.stages(config, chain)
    assert [stage.name for stage in stages] == ["prepare", "infer spectral_vae", "name lines"]
    assert [stage.name for stage in applied.stages_before(config, chain)] == ["prepare"]
    assert isinstance(config.release, ReleaseConfig)
    assert isinstance(config.release.open(), Source)
