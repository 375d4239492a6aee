import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.checkpoint import Checkpoint, save
from engine.errors import CheckpointError, ConfigError, SchemaError
from engine.infer import InferStage, model_config, open_model
from engine.schema import arrow_schema, list_array
from engine.stage import UnitTable, check, rejected_table
from engine.storage import Storage
from engine.train.fit import FitConfig, fit_scoring
from tests import toymodel

STORAGE = Storage()
SPEC = toymodel.SPEC


def make_weights(length: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    state = toymodel.build(toymodel.ToyConfig(length=length), seed).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def make_checkpoint(**changes) -> Checkpoint:
    config = {"length": 4, "widths": [1, 2]}
    checkpoint = Checkpoint("toy", 1, config, {}, make_weights(), {"mean_y": np.array(0.5)})
    return dataclasses.replace(checkpoint, **changes)


def make_unit(num: int) -> UnitTable:
    flux = np.random.default_rng(2).normal(size=(num, 4)).astype(np.float32)
    targetid = pa.array(np.arange(num, dtype=np.int64) + (1 << 53) + 1)
    rows = pa.table(
        {"targetid": targetid, "flux": list_array(flux), "flags": pa.array([2] * num, pa.int32())}
    )
    return UnitTable(rows, rejected_table([]), num)


@pytest.fixture
def uri(tmp_path) -> str:
    uri = str(tmp_path / "checkpoint")
    save(make_checkpoint(), uri, STORAGE)
    return uri


def test_columns_are_added_and_everything_else_stays(uri):
    stage = InferStage.from_checkpoint(SPEC, uri, batch_rows=8)
    unit = make_unit(21)
    rows = stage.open()(unit).rows
    weights = make_weights()
    flux = np.stack(unit.rows["flux"].to_pylist())
    y = flux @ weights["weight"][0] + weights["bias"]
    np.testing.assert_allclose(rows["score"], y - 0.5, rtol=1e-5)
    assert rows["targetid"].equals(unit.rows["targetid"])
    assert rows.schema.field("pair").type == pa.list_(pa.float32(), 2)
    np.testing.assert_allclose(np.stack(rows["pair"].to_pylist())[:, 1], -y, rtol=1e-5)
    assert rows["flags"].to_pylist() == [2 | (1 << 16) if value > 0 else 2 for value in y]


def test_scores_do_not_depend_on_the_size_of_the_batches(uri):
    unit = make_unit(21)
    tables = [InferStage.from_checkpoint(SPEC, uri, batch_rows=n).open()(unit).rows for n in (1, 8, 100)]
    for table in tables[1:]:
        np.testing.assert_allclose(table["score"], tables[0]["score"], rtol=1e-5)


def test_an_empty_unit_gets_the_declared_columns(uri):
    stage = InferStage.from_checkpoint(SPEC, uri)
    empty, full = (stage.open()(make_unit(num)).rows for num in (0, 3))
    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema, check_metadata=True)


def test_the_stage_declares_what_it_does(uri):
    stage = InferStage.from_checkpoint(SPEC, uri)
    columns = check([stage], stage.requires)
    rows = stage.open()(make_unit(2)).rows
    assert set(rows.column_names) - {"targetid"} == {column.name for column in columns}
    fields = arrow_schema(stage.provides)
    assert all(rows.schema.field(field.name).equals(field, check_metadata=True) for field in fields)


def test_a_stage_before_it_must_give_the_length_that_the_model_reads(uri):
    stage = InferStage.from_checkpoint(SPEC, uri)
    wrong = [dataclasses.replace(column, length=5 if column.length else 0) for column in stage.requires]
    with pytest.raises(SchemaError, match="made for another preparation"):
        check([stage], wrong)


def test_the_stage_is_small_and_picklable(uri):
    from ray import cloudpickle  # what carries a stage to a worker

    stage = InferStage.from_checkpoint(SPEC, uri)
    data = cloudpickle.dumps(stage)
    assert len(data) < 20_000
    assert pickle.loads(data).open()(make_unit(2)).rows.num_rows == 2


def test_settings_come_from_the_checkpoint(uri):
    assert InferStage.from_checkpoint(SPEC, uri).config == toymodel.ToyConfig(length=4, widths=(1, 2))


@pytest.mark.parametrize(
    ("config", "message"),
    [({"length": 0}, "length is 0"), ({"lenght": 4}, "lenght: "), ({"length": "x"}, "length: ")],
)
def test_settings_that_the_model_refuses_are_named(uri, config, message):
    save(make_checkpoint(config=config), uri, STORAGE)
    with pytest.raises(CheckpointError, match=message):
        InferStage.from_checkpoint(SPEC, uri)


def test_settings_of_a_user_are_refused_all_at_once():
    with pytest.raises(
        ConfigError, match=r"^model.settings: .* 'toy'; got lenght: unknown key; length: Input"
    ):
        model_config(SPEC, {"lenght": 4, "length": "x"}, "model.settings")
    assert model_config(SPEC, {"length": 3}, "model.settings").length == 3


def test_weights_of_another_shape_are_refused(uri):
    save(make_checkpoint(weights=make_weights(length=5)), uri, STORAGE)
    with pytest.raises(CheckpointError, match=r"weight is \(1, 5\), not \(1, 4\)"):
        InferStage.from_checkpoint(SPEC, uri).open()


def test_a_checkpoint_that_was_replaced_after_planning_is_refused(uri):
    stage = InferStage.from_checkpoint(SPEC, uri)
    save(make_checkpoint(weights=make_weights(seed=1)), uri, STORAGE)
    with pytest.raises(CheckpointError, match="replaced while the job ran"):
        stage.open()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"score": np.zeros(3, np.float32)}, "other columns than the model declares"),
        ({"score": np.zeros(2, np.float32), "pair": np.zeros((3, 2), np.float32)}, "another number of rows"),
        ({"score": np.zeros(3, np.float32), "pair": np.zeros((3, 5), np.float32)}, "another shape"),
    ],
)
def test_a_model_that_breaks_its_promise_is_named(uri, output, message):
    broken = dataclasses.replace(SPEC, predictor=lambda *_: lambda _: output)
    with pytest.raises(SchemaError, match=message):
        InferStage.from_checkpoint(broken, uri).open()(make_unit(3))


def test_weights_reach_the_module_exactly():
    config, module = open_model(SPEC, make_checkpoint(), "here")
    assert config == toymodel.ToyConfig(widths=(1, 2))
    assert not module.training
    assert torch.equal(module.state_dict()["weight"], torch.from_numpy(make_weights()["weight"]))


def test_scoring_is_fitted_on_both_sides_of_the_split(tmp_path):
    rng = np.random.default_rng(3)
    uris = []
    for index in range(3):
        flux, y = rng.normal(size=(50, 4)).astype(np.float32), np.full(50, 2.0, np.float32)
        hashes = np.where(np.arange(50) < 10, 0.1, 0.9)
        table = pa.table({"flux": list_array(flux), "y": y, "split_hash": hashes})
        uris.append(str(tmp_path / f"{index}.parquet"))
        pq.write_table(table, uris[-1])
    module, config = toymodel.build(toymodel.ToyConfig()), toymodel.ToyConfig()
    settings = FitConfig(reference_rows=70, held_out_rows=1000, batch_rows=16)
    arguments = (SPEC, config, module, uris, STORAGE)
    fitted = fit_scoring(*arguments, 0.2, settings, "cpu")
    assert int(fitted["num_reference"]) == 70
    assert int(fitted["num_held_out"]) == 30
    assert fitted["mean_y"] == 2
    with pytest.raises(ConfigError, match="no objects are held out"):
        fit_scoring(*arguments, 0.0, settings)
