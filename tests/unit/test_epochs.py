import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.errors import ConfigError
from engine.schema import list_array
from engine.train.epochs import module_weights, run_epoch, with_modules
from engine.train.plan import (
    EpochPlan,
    TrainConfig,
    TrainData,
    check_rows,
    epoch_plan,
    expected_steps,
    ordered_files,
    run_name,
)
from engine.units import FileRef
from tests import toymodel

PLAN = EpochPlan(("flux", "y"), 8, 32, 0.25, 0.25, 0)


def make_table(num: int = 100) -> pa.Table:
    rng = np.random.default_rng(0)
    flux = rng.normal(size=(num, 4)).astype(np.float32)
    return pa.table({"flux": list_array(flux), "y": flux[:, 0], "split_hash": np.linspace(0, 0.999, num)})


def make_data(*rows: int) -> TrainData:
    files = tuple(FileRef(f"/staged/{i}.parquet", n, "f") for i, n in enumerate(rows))
    return TrainData(files, sum(rows), ("flux",))


def start_task() -> toymodel.ToyTask:
    task = toymodel.ToyTask(toymodel.ToyConfig(), 0)
    task.start(torch.device("cpu"), 10)
    return task


def test_an_epoch_trains_on_one_side_of_the_split_and_evaluates_on_the_other():
    task, table, steps = start_task(), make_table(), []
    epoch = run_epoch(task, task.modules, [table], PLAN, 0, 5, lambda step, _: steps.append(step))
    hashes = table["split_hash"].to_numpy()
    assert steps == list(range(5, 5 + (hashes >= 0.25).sum() // 8))
    assert epoch.next_step == steps[-1] + 1
    assert epoch.metrics["train_loss"] == pytest.approx(np.mean(epoch.step_losses))
    held_out = table.filter(pa.array(hashes < 0.25))
    batch = {"flux": np.stack(held_out["flux"].to_pylist()).astype(np.float32), "y": held_out["y"].to_numpy()}
    assert epoch.metrics["val_loss"] == pytest.approx(task.evaluate(batch)["loss"], rel=1e-5)
    assert epoch.metrics["rows_per_s"] > 0


def test_validation_batches_are_large_enough_for_a_distance_however_small_a_step_is():
    task, sizes = start_task(), []
    task.evaluate = lambda batch: sizes.append(len(batch["y"])) or {"loss": 1.0}
    for least, wanted in ((0, [8, 8, 8, 1]), (16, [16, 9]), (4, [8, 8, 8, 1])):
        sizes.clear()
        plan = dataclasses.replace(PLAN, least_evaluated_rows=least)
        run_epoch(task, task.modules, [make_table()], plan, 0, 0, lambda *_: None)
        assert sizes == wanted


def test_too_few_validation_rows_are_refused_where_a_distance_is_the_loss():
    config = TrainConfig(global_batch_rows=4, validation_fraction=0.05, num_workers=2)
    data = dataclasses.replace(make_data(700), judged_rows=8)
    assert epoch_plan(data, config).evaluated_rows == 512
    check_rows(data, config)
    check_rows(make_data(200), config)
    for other in ({"num_workers": 4}, {"validation_fraction": 0.04}, {"max_validation_rows": 20}):
        with pytest.raises(ConfigError, match=r"too few validation rows .* expected at least 16"):
            check_rows(data, config.model_copy(update=other))
    with pytest.raises(ConfigError, match=r"validation_fraction: .* got about 0 for each of 2 workers"):
        check_rows(data, config.model_copy(update={"validation_fraction": 0.0}))


def test_modules_are_back_in_training_mode_after_evaluation():
    task = start_task()
    run_epoch(task, task.modules, [make_table()], PLAN, 0, 0, lambda *_: None)
    assert task.modules["linear"].training


def test_evaluation_uses_the_modules_without_wrapping():
    task = start_task()
    bare = dict(task.modules)
    task.modules["linear"] = torch.nn.Sequential(bare["linear"])
    with with_modules(task, bare):
        assert task.modules["linear"] is bare["linear"]
    assert isinstance(task.modules["linear"], torch.nn.Sequential)


def test_weights_are_copies_and_carry_names_only_where_needed():
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    alone = module_weights({"a": first})
    assert set(alone) == {"weight", "bias"}
    assert set(module_weights({"a": first, "b": second})) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    with torch.no_grad():
        first.bias += 1
    assert not torch.equal(alone["bias"], first.bias)


def test_monitored_rows_are_bounded():
    data = make_data(1_000_000)
    config = TrainConfig(validation_fraction=0.05, max_validation_rows=4096)
    assert epoch_plan(data, config).monitored_fraction == pytest.approx(0.004096)
    assert epoch_plan(make_data(1000), config).monitored_fraction == 0.05


def test_the_batch_is_divided_among_workers():
    config = TrainConfig(global_batch_rows=256, num_workers=4)
    assert epoch_plan(make_data(1000), config).batch_rows == 64
    with pytest.raises(ConfigError, match="does not divide among the workers"):
        check_rows(make_data(1000), TrainConfig(global_batch_rows=256, num_workers=3))


def test_too_few_rows_are_refused_before_anything_starts():
    config = TrainConfig(global_batch_rows=96, validation_fraction=0.05)
    check_rows(make_data(60, 42), config)
    with pytest.raises(ConfigError, match="fewer training rows than one batch; got 95 rows in 2 files"):
        check_rows(make_data(60, 40), config)


def test_steps_are_those_of_the_training_rows():
    assert expected_steps(1000, TrainConfig(epochs=3, global_batch_rows=100, validation_fraction=0.1)) == 27
    assert expected_steps(10, TrainConfig(epochs=3, global_batch_rows=100)) == 3


def test_order_of_files_follows_the_seed_and_not_the_listing():
    data = make_data(*range(1, 9))
    backwards = TrainData(data.files[::-1], data.num_rows, data.columns)
    assert ordered_files(data, 1) == ordered_files(backwards, 1) != ordered_files(data, 2)
    assert sorted(ordered_files(data, 1), key=lambda file: file.uri) == list(data.files)


def test_the_run_is_named_by_what_changes_the_result():
    data, config, model = make_data(5, 6), TrainConfig(), {"model": "toy"}
    name = run_name(data, config, model)
    assert name == run_name(data, config.model_copy(update={"max_failures": 9}), model)
    others = [
        run_name(make_data(5, 7), config, model),
        run_name(data, config.model_copy(update={"epochs": 3}), model),
        run_name(data, config, {"model": "vae"}),
        run_name(dataclasses.replace(data, judged_rows=8), config, model),
    ]
    assert len({name, *others}) == 5
