"""Two sets in one epoch: how many batches are of each, that draws repeat, and that without a mix nothing changes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.errors import ConfigError
from engine.schema import list_array
from engine.storage import Storage
from engine.train.batches import shuffled_batches
from engine.train.epochs import run_epoch
from engine.train.loop import train
from engine.train.mixing import chosen, mixed_batches, thinned
from engine.train.plan import (
    EpochPlan,
    Mix,
    MixPlan,
    TrainConfig,
    TrainData,
    check_rows,
    epoch_plan,
    mix_passes,
    run_name,
)
from engine.units import FileRef
from tests import toymodel
from tests.unit.test_batches import cut, make_table

PLAN = EpochPlan(("flux", "row"), 8, 64, 0.0, 0.0, 3)


def other_table(num: int) -> pa.Table:
    """Rows numbered from a million."""
    table = make_table(num)
    return table.set_column(1, "row", pa.array(np.arange(num) + 1_000_000))


def mixed(alpha: float, steps: int, epoch: int = 0, keep=(1.0, 1.0), rows: int = 4000, **settings):
    plan = replace(PLAN, mix=MixPlan(alpha, steps, keep), **settings)
    first, other = make_table(rows), other_table(rows)
    return [batch["row"] for batch in mixed_batches(cut(first, 1000, 3000), cut(other, 7, 3993), plan, epoch)]


def is_other(batches) -> np.ndarray:
    shares = np.array([(batch >= 1_000_000).mean() for batch in batches])
    assert set(shares) <= {0.0, 1.0}, "a batch is of one set"
    return shares == 1


def test_without_a_mix_batches_are_those_of_the_first_set() -> None:
    table = make_table(300)
    wanted = list(shuffled_batches([table], PLAN.columns, 8, 64, 3, 2))
    found = list(mixed_batches([table], [other_table(99)], PLAN, 2))
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a["row"], b["row"])
    nothing = mixed(0.0, 12, rows=4000)
    alone = list(shuffled_batches([make_table(4000)], PLAN.columns, 8, 64, 3, 0))[:12]
    for a, b in zip(nothing, alone, strict=True):
        np.testing.assert_array_equal(a, b["row"])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_fraction_of_batches_is_alpha_and_their_number_is_fixed(alpha: float) -> None:
    batches = [mixed(alpha, 300, epoch) for epoch in range(3)]
    assert [len(one) for one in batches] == [300] * 3
    fraction = np.mean([is_other(one) for one in batches])
    assert fraction == pytest.approx(alpha, abs=4 * (alpha * (1 - alpha) / 900) ** 0.5)


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    first, again = mixed(0.5, 40), mixed(0.5, 40)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (mixed(0.5, 40, epoch=1), mixed(0.5, 40, seed=4)):
        assert not np.array_equal(is_other(first), is_other(other))
    # Processes with other rows draw the same set in the same step.
    assert chosen(MixPlan(0.5, 40, (1, 1)), 3, 0) == is_other(first).tolist()


def test_each_epoch_takes_other_rows_of_the_whole_set() -> None:
    epochs = [mixed(0.5, 100, epoch, keep=(0.12, 0.12)) for epoch in range(2)]
    own = [np.concatenate([b for b in one if b[0] < 1_000_000]) for one in epochs]
    assert own[0].max() > 3000, "not the beginning of the set alone"
    assert len(np.intersect1d(*own)) < 0.5 * len(own[0])


def test_thinning_does_not_depend_on_how_the_stream_is_cut() -> None:
    table = make_table(1000)
    whole, parts = (
        pa.concat_tables(thinned(tables, 0.3, [1, 2])) for tables in ([table], cut(table, 10, 0, 990))
    )
    assert whole.equals(parts)
    assert whole.num_rows == pytest.approx(300, abs=60)
    assert pa.concat_tables(thinned([table], 1.0, [1])).equals(table)


def test_an_epoch_ends_where_a_set_does() -> None:
    assert len(mixed(1.0, 100, rows=4000, keep=(1.0, 0.05))) < 40


def planned(rows: int, other: int, alpha: float) -> TrainData:
    mix = Mix(TrainData((FileRef("b", 1, "b"),), other, ("row",)), alpha, Storage())
    return TrainData((FileRef("a", 1, "a"),), rows, ("row",), mix=mix)


def test_the_plan_has_the_steps_of_an_epoch_and_reads_a_small_set_again() -> None:
    config = TrainConfig(global_batch_rows=10, validation_fraction=0.1, epochs=3)
    plan = epoch_plan(planned(1000, 5000, 0.5), config).mix
    assert plan is not None
    assert plan.steps == 90
    assert 0.5 < plan.keep[0] < 1
    assert plan.keep[1] < 0.25
    small = planned(1000, 100, 1.0)
    assert small.mix is not None
    assert mix_passes(small.mix, 90, config) == 12
    assert epoch_plan(replace(small, mix=None), config).mix is None


def test_a_mix_gives_a_run_another_name_and_needs_a_batch() -> None:
    config = TrainConfig(global_batch_rows=10, validation_fraction=0.1)
    names = {
        run_name(one, config, {})
        for one in (planned(99, 99, 0.5), planned(99, 99, 0.6), replace(planned(99, 9, 0), mix=None))
    }
    assert len(names) == 3
    with pytest.raises(ConfigError, match="fewer rows to mix in than one batch"):
        check_rows(planned(99, 5, 0.5), config)


COLUMNS = ("flux", "y")


def regression(folder: Path, alpha: float) -> tuple[list[pa.Table], TrainData]:
    """Two sets of a toy problem as tables, and as files of which the second is mixed into the first."""
    tables, files = [], []
    for number in range(2):
        flux = np.random.default_rng(number).normal(number, 1, (200, 4)).astype(np.float32)
        hashes = np.random.default_rng(5).random(200)
        tables.append(pa.table({"flux": list_array(flux), "y": flux[:, 0], "split_hash": hashes}))
        path = folder / f"{number}.parquet"
        pq.write_table(tables[-1], path)
        files.append(FileRef(str(path), path.stat().st_size, str(number)))
    mix = Mix(TrainData((files[1],), 200, COLUMNS), alpha, Storage())
    return tables, TrainData((files[0],), 200, COLUMNS, mix=mix)


TOY = partial(toymodel.ToyTask, toymodel.ToyConfig(), 0)
TOY_TRAINING = TrainConfig(
    global_batch_rows=8, validation_fraction=0.1, epochs=2, device="cpu", shuffle_buffer_rows=32
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_mixes_through_ray_as_a_bare_loop_does(tmp_path: Path) -> None:
    tables, data = regression(tmp_path, 0.5)
    result = train(TOY, data, TOY_TRAINING, str(tmp_path / "runs"), Storage(), {})
    task, bare, step = TOY(), list[float](), 0
    task.start(torch.device("cpu"), 1)
    plan = epoch_plan(data, TOY_TRAINING)
    assert data.mix is not None
    assert plan.mix is not None
    other = tables[1:] * mix_passes(data.mix, plan.mix.steps, TOY_TRAINING)
    for epoch in range(2):
        done = run_epoch(task, task.modules, tables[:1], plan, epoch, step, lambda *_: None, other)
        step, bare = done.next_step, bare + done.step_losses
    np.testing.assert_allclose(result.step_losses, bare, rtol=1e-6)
    assert len(bare) == 2 * plan.mix.steps


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_several_workers_take_the_same_steps_to_the_end(tmp_path: Path) -> None:
    _, data = regression(tmp_path, 0.75)
    config = TOY_TRAINING.model_copy(update={"num_workers": 2, "cpus_per_worker": 1.0})
    result = train(TOY, data, config, str(tmp_path / "runs"), Storage(), {})
    plan = epoch_plan(data, config).mix
    assert plan is not None
    assert 0.9 * plan.steps < len(result.step_losses) / 2 <= plan.steps
    assert np.isfinite([metrics["val_loss"] for metrics in result.history]).all()
