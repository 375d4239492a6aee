"""Checkpoints that a job applies: what does not fit is told when they are opened, not by a worker."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.checkpoint import Checkpoint, load, save
from engine.errors import CheckpointError, ConfigError
from engine.schema import column_array, set_column
from engine.sources.base import Source
from engine.spectra.explain import NameLines
from engine.spectra.prepare import SpectrumPrep
from engine.stage import UnitTable, rejected_table, run_local
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN
from engine.train.fit import FitConfig, fit_scoring
from jobs import applied
from jobs.config import JobConfig, ModelConfig, Place, ReleaseConfig
from models import MODELS
from tests.smallmodels import SMALL, make_batch, small_config

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


@pytest.fixture(scope="module", params=list(MODELS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Checkpoint of a small model of each kind, fitted to something."""
    spec, folder = MODELS[request.param], tmp_path_factory.mktemp(request.param)
    config = small_config(spec)
    module = spec.build(config)
    fitted = spec.fit(config, module, *([make_batch(spec, config, 80, seed)] for seed in (1, 2)))
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    save(Checkpoint(spec.name, spec.version, SMALL[spec.name], {}, weights, fitted), str(folder), Storage())
    return Place(uri=str(folder))


def test_settings_that_a_checkpoint_has_are_taken(place: Place) -> None:
    name = Path(place.uri).name[:-1]  # pytest numbers its folders
    told = json.loads(json.dumps(SMALL[name]))  # lists, as TOML has them
    for model in (ModelConfig(name=name, settings=told), ModelConfig(name=name), ModelConfig()):
        assert applied.open_last(JobConfig(checkpoint=place, model=model)).spec.name == name


def test_settings_that_a_checkpoint_has_otherwise_are_refused_and_named(place: Place) -> None:
    name = Path(place.uri).name[:-1]
    (key, value), *_ = SMALL[name].items()
    model = ModelConfig(name=name, settings={key: 3, "learning_rat": 1.0, "learning_rate": 0.5})
    with pytest.raises(ConfigError) as refused:
        applied.open_last(JobConfig(checkpoint=place, model=model))
    told = str(refused.value)
    assert f"model.settings.{key}, model.settings.learning_rat, model.settings.learning_rate: " in told
    assert "got 3, 1.0, 0.5; " in told
    assert f"expected {value!r}, 'no such setting', " in told
    assert f"as {place.uri} has" in told


def test_the_preset_of_a_configuration_must_be_that_of_the_checkpoint(tmp_path: Path) -> None:
    spec = MODELS["image_vae"]
    config = replace(spec.presets["tiny"], stretched_mean=(2.0,), stretched_std=(3.0,))
    torch.manual_seed(1)
    weights = {name: value.numpy() for name, value in spec.build(config).state_dict().items()}
    save(Checkpoint(spec.name, spec.version, asdict(config), {}, weights), str(tmp_path), Storage())
    for preset, settings, other in (("tiny", {}, ""), ("cpu64", {}, "size"), ("tiny", {"beta": 9.0}, "beta")):
        model = ModelConfig(name="image_vae", preset=preset, settings=settings)
        job = JobConfig(checkpoint=Place(uri=str(tmp_path)), model=model)
        if not other:
            applied.open_last(job)  # what was measured in training is no setting of the preset
            continue
        with pytest.raises(ConfigError, match=rf"model\.settings\.{other}"):
            applied.open_last(job)


def test_settings_inside_of_others_are_compared_one_by_one(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, str(tmp_path), Storage())
    place = Place(uri=str(tmp_path))
    same = {"num_neighbours": SMALL["spectral_vae"]["scoring"]["num_neighbours"]}
    applied.open_last(JobConfig(checkpoint=place, model=ModelConfig(settings={"scoring": same})))
    other = ModelConfig(settings={"scoring": same | {"num_reference": 7}})
    with pytest.raises(
        ConfigError, match=r"^model\.settings\.scoring\.num_reference: .*got 7; expected 100, as"
    ):
        applied.open_last(JobConfig(checkpoint=place, model=other))


def test_checkpoint_of_another_model_than_told_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, str(tmp_path), Storage())
    config = JobConfig(checkpoint=Place(uri=str(tmp_path)), model=ModelConfig(name="unet_vae"))
    with pytest.raises(ConfigError, match=r"model\.name: .*got unet_vae; expected spectral_vae"):
        applied.open_last(config)


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


def staged(folder: Path, rows: int, seed: int) -> str:
    """Write what the model learns from as `ingest` stages it; some redshifts and classes are null."""
    config = small_config(SPEC)
    batch = make_batch(SPEC, config, rows, seed)
    table = pa.table({SPLIT_COLUMN: np.where(np.arange(rows) % 2, 0.05, 0.9)})
    for column in SPEC.learns_from(config):
        values = pa.array(batch["z"], mask=np.isnan(batch["z"])) if column.name == "z" else None
        array = column_array(column, batch[column.name]) if values is None else values
        table = set_column(table, column, array)
    uri = str(folder / f"{seed}.parquet")
    pq.write_table(table, uri)
    return uri


def test_reference_of_staged_spectra_keeps_their_names_and_scores_units(tmp_path: Path) -> None:
    config = small_config(SPEC)
    module = SPEC.build(config)
    uris = [staged(tmp_path, 160, seed) for seed in (1, 2)]
    settings = FitConfig(reference_rows=120, batch_rows=50)
    fitted = fit_scoring(SPEC, config, module, uris, Storage(), 0.1, settings, "cpu")
    assert fitted["reference_id"].min() >= 10**15
    assert len(np.unique(fitted["reference_id"] % 10**15)) >= 60
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    prepare = SpectrumPrep().model_dump(mode="json")
    save(
        Checkpoint(SPEC.name, SPEC.version, SMALL[SPEC.name], prepare, weights, fitted),
        str(tmp_path),
        Storage(),
    )
    rows = pq.read_table(uris[0]).append_column("flags", pa.array(np.zeros(160, np.int32)))
    stage = applied.open_one(Place(uri=str(tmp_path))).stage(JobConfig().infer)
    named = NameLines.of("observed", stage.provides)
    assert named is not None
    out = run_local([stage, named], UnitTable(rows, rejected_table([]), 160)).rows
    known = set(fitted["reference_id"].tolist())
    assert {name for row in out["neighbour_id"].to_pylist() for name in row} <= known
    assert out["window_lines"].null_count == rows["z"].null_count > 0
    assert out["artefact_probability"].to_numpy().shape == (160,)
