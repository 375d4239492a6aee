"""What a training job asks of staged objects, and which weights it stores."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2.api.exceptions import WorkerGroupError

from engine.column import Column
from engine.commit import read_manifest
from engine.commit.manifest import DataFile
from engine.errors import CheckpointError, ConfigError, EngineError, SchemaError
from engine.schema import arrow_schema, column_array, set_column, to_arrays
from engine.storage import Storage
from engine.train.loop import TrainResult, _run_config
from engine.train.plan import TrainConfig, TrainData, run_name
from engine.train.stream import StagedDatasource
from engine.units import FileRef
from jobs.config import JobConfig, MixConfig, model_of
from jobs.train import (
    _check_columns,
    _checkpoint,
    _fitted,
    _mix,
    identity_of,
    measured,
    surveyed,
    training_data,
)
from models import MODELS
from models.disk_classifier import SPEC as DISKS
from models.disk_classifier_config import PRESETS
from models.generators.images import measured_stretch
from models.generators.vae import SPEC as GENERATOR
from models.scoring import density
from tests.blobs import make_blobs
from tests.smallmodels import SMALL, small_config
from tests.stagedspectra import stage_spectra
from tests.toymodel import SPEC, ToyConfig


def manifest(columns) -> SimpleNamespace:
    provenance = {"config": {"prepare": {}}}
    return SimpleNamespace(
        columns=[dataclasses.asdict(c) for c in columns], provenance=provenance, publish_id="p"
    )


def test_a_model_learns_from_what_it_reads_and_from_labels() -> None:
    assert [column.name for column in SPEC.learns_from(ToyConfig())] == ["flux", "y"]
    alone = dataclasses.replace(SPEC, trains_on=None)
    assert alone.learns_from(ToyConfig()) == SPEC.reads(ToyConfig())


def test_objects_staged_without_a_label_are_refused_before_a_training_starts() -> None:
    small = PRESETS["small"]
    _check_columns(DISKS.learns_from(small), manifest(DISKS.learns_from(small)), "here")
    with pytest.raises(CheckpointError, match=r"learns from column 'label' .* expected int8"):
        _check_columns(DISKS.learns_from(small), manifest(DISKS.reads(small)), "here")


def test_whole_numbers_may_be_conditions_of_a_generator() -> None:
    config = GENERATOR.config(conditions=("label",), condition_low=(-1.0,), condition_high=(1.0,))
    columns = GENERATOR.learns_from(config)
    for dtype in ("int8", "int64", "float64"):
        staged = (columns[0], dataclasses.replace(columns[1], dtype=dtype))
        _check_columns(columns, manifest(staged), "here")
    for other in ({"dtype": "string"}, {"dtype": "int8", "length": 3}):
        staged = (columns[0], dataclasses.replace(columns[1], **other))
        with pytest.raises(CheckpointError, match="learns from column 'label'"):
            _check_columns(columns, manifest(staged), "here")


@pytest.mark.parametrize(
    "given", [{}, {"stretched_std": [2.0]}, {"stretched_mean": [1.0], "stretched_std": [2.0]}]
)
def test_the_stretch_is_measured_on_training_rows_where_it_is_not_given(given: dict, tmp_path: Path) -> None:
    image = GENERATOR.config(size=16, softening=0.5)
    (column,) = GENERATOR.reads(image)
    values = make_blobs(90, 16, 1)["image"]
    values[:30] *= 100  # of rows that do not train
    hashes = pa.array(np.repeat([0.1, 0.9], [30, 60]))
    table = set_column(pa.table({"split_hash": hashes}), column, column_array(column, values))
    pq.write_table(table, tmp_path / "part.parquet")
    data = TrainData((FileRef(str(tmp_path / "part.parquet"), 1, "a"),), 90, ("image",))
    config = JobConfig.model_validate({
        "staged": {"uri": str(tmp_path)}, "train": {"validation_fraction": 0.3},
        "model": {"name": "image_vae", "settings": {"size": 16, "softening": 0.5, **given}},
    })  # fmt: skip
    found = measured(config, data)
    mean, std = measured_stretch(image, values[30:])
    settings = model_of(found)[1]
    assert settings.stretched_mean == pytest.approx(given.get("stretched_mean", mean), rel=1e-4)
    assert settings.stretched_std == pytest.approx(given.get("stretched_std", std), rel=1e-4)
    assert (found is config) == (len(given) == 2)
    assert measured(found, data) == found


def staged_conditions(
    folder: Path, values: list[float | None], **settings: Any
) -> tuple[JobConfig, TrainData]:
    """Rows of a condition in a file, two thirds of them held out, and the configuration of a generator."""
    table = pa.table(
        {"index": pa.array(values, pa.float64()), "split_hash": np.arange(len(values)) / len(values)}
    )
    pq.write_table(table, folder / "part.parquet")
    data = TrainData((FileRef(str(folder / "part.parquet"), 1, "a"),), len(values), ("image", "index"))
    config = JobConfig.model_validate({
        "staged": {"uri": str(folder)}, "train": {"validation_fraction": 0.66},
        "model": {"name": "image_vae", "settings": {"size": 16, "conditions": ["index"], **settings}},
    })  # fmt: skip
    return config, data


def test_ranges_of_conditions_are_those_of_all_that_is_staged(tmp_path: Path) -> None:
    values = [3.0, None, 1.5, 9.0, None, 2.0]
    found, counted = surveyed(*staged_conditions(tmp_path, values))
    settings = model_of(found)[1]
    assert (settings.condition_low, settings.condition_high) == ((1.5,), (9.0,)), (
        "held-out rows are judged, too"
    )
    assert counted == {"rows_without_condition": 2}
    given = {"condition_low": [0.0], "condition_high": [10.0]}
    config, data = staged_conditions(tmp_path, values, **given)
    assert surveyed(config, data) == (config, counted)


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        ([3.0, None, 1.5, 9.0], {"condition_low": [2.0], "condition_high": [8.0]},
         r"index is 1.5 to 9 .* outside of \[2, 8\] in 2 of 3 rows: widen condition_low"),
        ([None, None], {}, "no row has all of index"),
        ([2.0, 2.0, None], {}, "condition index is 2 to 2, must be finite and vary"),
        ([2.0, np.inf], {}, "condition index is 2 to inf, must be finite"),
    ],
)  # fmt: skip
def test_conditions_that_would_stop_a_training_are_refused_before_it(
    values: list, given: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"staged rows do not fit the model(.|\n)*{message}"):
        surveyed(*staged_conditions(tmp_path, values, **given))


def test_a_checkpoint_holds_the_weights_of_the_network_that_predicts() -> None:
    result = TrainResult({"weight": np.ones((1, 4), np.float32)}, {}, [], [], "run")
    doubled = dataclasses.replace(SPEC, exported=lambda config, weights: {"weight": 2 * weights["weight"]})
    for spec, wanted in ((SPEC, 1), (doubled, 2)):
        found = _checkpoint(JobConfig(), spec, ToyConfig(), manifest([]), result)
        np.testing.assert_array_equal(found.weights["weight"], wanted)


@pytest.mark.parametrize("injected_rows", [0, 80])
def test_a_training_stores_how_artefacts_look_unless_it_is_told_not_to(
    injected_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density, "MAX_EPOCHS", 1)  # what the flows learn does not matter here
    stage_spectra(tmp_path, num_files=2)
    spec = MODELS["spectral_vae"]
    settings = small_config(spec)
    config = JobConfig.model_validate({
        "staged": {"uri": str(tmp_path)}, "model": {"settings": SMALL[spec.name]},
        "train": {"validation_fraction": 0.4}, "scoring": {"injected_rows": injected_rows},
    })  # fmt: skip
    staged = read_manifest(str(tmp_path), Storage())
    weights = {name: value.numpy() for name, value in spec.build(settings).state_dict().items()}
    result = TrainResult(weights, {"val_loss": 1.0}, [], [], "run")
    trained = _checkpoint(config, spec, settings, staged, result)
    fitted = _fitted(config, spec, trained, training_data(config, staged, None))
    assert ("kind_scale" in fitted.fitted) == (injected_rows > 0)
    assert fitted.metrics["val_loss"] == 1.0
    confusion = fitted.metrics.get("artefact_confusion", {})
    assert sum(sum(row.values()) for row in confusion.values()) == injected_rows // 4


GENERATED = (
    Column("image", "float32", "Samples", "nJy", length=4, packed=True),
    Column("class", "float64", "Condition"),
    Column("note", "string", "Text"),
)
READ = (
    Column("science", "float32", "Flux", "nJy", length=4, packed=True),
    Column("mask", "bool", "Not usable", length=4, packed=True),
    Column("dx", "float32", "Offset", "pixel"),
    Column("label", "int8", "Class"),
)
GIVEN = {"science": "image", "label": "class", "mask": 0, "dx": 0.25}


def mixed_in(monkeypatch: pytest.MonkeyPatch, columns: dict, realisations: object = None):
    facts = manifest(GENERATED)
    facts.files = [DataFile("part.parquet", 3, 1, "a")]
    monkeypatch.setattr("jobs.train.read_manifest", lambda *_: facts)
    config = MixConfig.model_validate({"staged": {"uri": "samples"}, "columns": columns})
    return _mix(config, READ, realisations)


def test_generated_images_stand_in_for_what_a_classifier_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mixed_in(monkeypatch, GIVEN).data
    assert data.columns == ("science", "mask", "dx", "label")
    assert data.stand_ins is not None
    assert data.stand_ins.reads() == ["image", "class"]
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    values = {"image": image, "class": np.array([1.0, 0.0, 1.0]), "note": np.array(["", "", ""])}
    table = pa.table({c.name: column_array(c, values[c.name]) for c in GENERATED}, arrow_schema(GENERATED))
    path = tmp_path / "part.parquet"
    pq.write_table(table.append_column("split_hash", pa.array([0.1, 0.2, 0.3])), path)

    source = StagedDatasource([(FileRef(str(path), 1, "a"), 0)], [], Storage(), stand_ins=data.stand_ins)
    (read,) = source.get_read_tasks(1)
    (found,) = read()
    assert found.column_names == [*data.columns, "split_hash"]
    arrays = to_arrays(found, data.columns)
    np.testing.assert_array_equal(arrays["science"], image)
    np.testing.assert_array_equal(arrays["mask"], np.zeros((3, 4), bool))
    assert arrays["dx"].tolist() == [0.25] * 3
    assert (arrays["label"].dtype, arrays["label"].tolist()) == (np.int8, [1, 0, 1])
    half = table.set_column(1, "class", pa.array([0.5, 0.0, 1.0]))
    with pytest.raises(SchemaError, match="column 'label' cannot be cast"):
        data.stand_ins(half)


def test_generated_images_are_clipped_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.array([[-3.0, 0.5, np.nan, 2.0]], np.float32)
    values = {"image": image, "class": np.array([-1.0]), "note": np.array([""])}
    table = pa.table({c.name: column_array(c, values[c.name]) for c in GENERATED}, arrow_schema(GENERATED))
    facts = manifest(GENERATED)
    facts.files = [DataFile("part.parquet", 3, 1, "a")]
    monkeypatch.setattr("jobs.train.read_manifest", lambda *_: facts)
    for given in ({}, {"image": "image"}):
        mix = MixConfig.model_validate({"staged": {"uri": "samples"}, "columns": given, "clip_below": 0})
        stand_ins = _mix(mix, GENERATED[:2], None).data.stand_ins
        assert stand_ins is not None
        found = to_arrays(stand_ins(table), ["image", "class"])
        np.testing.assert_array_equal(found["image"], [[0.0, 0.5, np.nan, 2.0]])
        assert found["class"].tolist() == [-1.0]
    with pytest.raises(ConfigError, match=r"mix\.clip_below"):
        _mix(mix.model_copy(update={"columns": {}}), GENERATED[:2], object())  # pyright: ignore[reportArgumentType]


def test_what_is_clipped_names_the_run() -> None:
    configs = [
        JobConfig.model_validate({"mix": {"staged": {"uri": "samples"}, **clip}})
        for clip in ({}, {"clip_below": 0.0}, {"clip_below": 1.0})
    ]
    assert len({str(identity_of(config)) for config in configs}) == 3


def test_what_stands_in_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TrainData((FileRef("b", 1, "b"),), 9, ("science",))
    names = {
        run_name(dataclasses.replace(data, mix=mixed_in(monkeypatch, {**GIVEN, "dx": dx})), TrainConfig(), {})
        for dx in (0.0, 0.5)
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("columns", "realisations", "message"),
    [
        ({**GIVEN, "sciense": 1}, None, "the model does not read these; got sciense; expected science"),
        (GIVEN, object(), "nothing can stand in where realisations are made"),
        ({**GIVEN, "label": "kind"}, None, "learns from column 'kind'"),
        ({**GIVEN, "label": "note"}, None, "learns from column 'note'"),
        ({**GIVEN, "science": "class"}, None, "learns from column 'class'"),
        ({"science": "image", "label": "class", "mask": 0}, None, "learns from column 'dx'"),
    ],
)
def test_what_cannot_stand_in_is_refused(
    columns: dict, realisations: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=message):
        mixed_in(monkeypatch, columns, realisations)


def test_preempted_nodes_are_no_failures_and_workers_that_die_are(
    tmp_path: Path,
) -> None:
    """By Ray's own judgement of our settings; that workers then go on after the last stored epoch is tested with Ray."""
    settings = _run_config(str(tmp_path / "run"), Storage(), TrainConfig(max_failures=2)).failure_config
    policy = DefaultFailurePolicy(settings)
    preempted = WorkerGroupError("rank 1", {0: ConnectionError("reset"), 1: RayActorError(preempted=True)})
    died = WorkerGroupError("rank 1", {1: RayActorError()})
    assert [policy.make_decision(preempted).name for _ in range(9)] == ["RETRY"] * 9
    assert [policy.make_decision(died).name for _ in range(3)] == ["RETRY", "RETRY", "RAISE"]
    assert policy.make_decision(preempted).name == "RETRY"
