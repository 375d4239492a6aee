"""A unit stays one block from read to write, wherever it runs; whatever dies, nothing is lost or doubled."""

import pickle
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.commit import CatalogConfig, FragmentSink, publish
from engine.errors import CheckpointError
from engine.ledger import Ledger
from engine.pipeline import UnitDatasource, map_tasks, run_units
from engine.placement import PipelineConfig
from engine.sealed import seal, unseal
from engine.stage import UnitTable
from engine.storage import Storage, StorageOptions
from engine.units import Unit, Work, given_up_id
from engine.worker import Branch, UnitError, UnitWorker, name_unit, read_unit
from tests.toy import COLUMNS, SOURCE_COLUMNS, TOY_KEY, ToySource, ToyStage, toy_units, write_all

CONFIG = CatalogConfig(max_rows_per_partition=50, key=TOY_KEY)
TINY_AND_HUGE = {"toy-0": 0, "toy-1": 1, "toy-2": 50_000}
STAGES = (ToyStage(),)


def catalogue_files(root: Path, source: ToySource) -> dict[str, str]:
    """Publish what the ledger holds and return the files' checksums."""
    ids = [unit.id for unit in toy_units(source)]
    manifest = publish(str(root), Storage(), ids, COLUMNS, CONFIG)
    return {
        f.path.removeprefix(manifest.path): f.sha256 for f in manifest.files if f.role in ("data", "rejected")
    }


def local_files(root: Path, source: ToySource) -> dict[str, str]:
    write_all(FragmentSink(str(root), StorageOptions(), COLUMNS), source, toy_units(source))
    return catalogue_files(root, source)


def run(root: Path, source: ToySource, stages=STAGES, units=None, **settings) -> list:
    records: list = []
    sink = FragmentSink(str(root), StorageOptions(), COLUMNS)
    config = PipelineConfig(**{"workers": 2, **settings})
    work = [Work(unit, (unit.id,)) for unit in units or toy_units(source)]
    run_units(work, source, [Branch(tuple(stages), sink)], config, lambda _, record: records.append(record))
    return records


# --- without Ray ---


def test_sealed_unit_keeps_rows_types_and_metadata():
    source = ToySource(num_units=2, sizes=TINY_AND_HUGE)
    for unit in toy_units(source):
        table = source.read(unit)
        block = seal(table, Work(unit, (unit.id,)))
        assert block.num_rows == 1
        back = unseal(pickle.loads(pickle.dumps(block)))
        assert back.rows.equals(table.rows)
        assert back.rows.schema.equals(table.rows.schema, check_metadata=True)
        assert back.rejected.equals(table.rejected)
        assert (back.rows_in, back.stats) == (table.rows_in, table.stats)


def test_unsealing_copies_nothing():
    unit = toy_units(ToySource())[0]
    block = seal(ToySource().read(unit), Work(unit, (unit.id,)))
    data = block["rows"].chunk(0).buffers()[2]
    values = unseal(block).rows["ra"].chunk(0).buffers()[1]
    assert data.address <= values.address < data.address + data.size


def test_two_units_in_one_block_are_refused():
    works = [Work(unit, (unit.id,)) for unit in toy_units(ToySource())]
    blocks = pa.concat_tables([seal(ToySource().read(work.unit), work) for work in works[:2]])
    with pytest.raises(ValueError, match="one row, got 2"):
        unseal(blocks)


def test_datasource_makes_one_task_of_one_block_a_unit():
    source = ToySource(num_units=5)
    works = [Work(unit, (unit.id,)) for unit in toy_units(source)]
    datasource = UnitDatasource(works, lambda work: read_unit(source, [ToyStage()], work))
    for parallelism in (1, 5, 200):
        tasks = datasource.get_read_tasks(parallelism)
        assert [task.metadata.num_rows for task in tasks] == [1] * 5
        assert [[block.num_rows for block in task()] for task in tasks] == [[1]] * 5
    assert datasource.estimate_inmemory_data_size() == 5 * 1010


def test_error_names_the_unit():
    source = ToySource(broken="toy-2")
    units = toy_units(source)
    branch = Branch((), FragmentSink("unused", StorageOptions(), SOURCE_COLUMNS))
    worker = UnitWorker(source, [], [branch])
    with pytest.raises(
        UnitError, match=rf"unit toy-2 \({units[2].id}\) failed: RuntimeError: the reader is broken"
    ):
        worker(name_unit(Work(units[2], (units[2].id,))))


class CountingSource(ToySource):
    """Counts its own bytes, as `Storage` does: a source that threads share counts those of others too."""

    bytes_fetched = 0.0

    def read(self, unit: Unit) -> UnitTable:
        before = self.bytes_fetched
        for _ in range(7):
            count = self.bytes_fetched
            time.sleep(0.002)
            object.__setattr__(self, "bytes_fetched", count + 1)
        return replace(super().read(unit), stats={"bytes_fetched": self.bytes_fetched - before})


def test_worker_threads_do_not_share_a_source(tmp_path):
    shared = CountingSource()
    sink = FragmentSink(str(tmp_path), StorageOptions(), COLUMNS)
    worker = UnitWorker(shared, [ToyStage()], [Branch((), sink)])
    units = toy_units(ToySource(num_units=8))
    threads = [threading.Thread(target=worker, args=(name_unit(Work(unit, (unit.id,))),)) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = Ledger(str(tmp_path), Storage()).done()
    assert {unit_id: record.stats["bytes_fetched"] for unit_id, record in records.items()} == {
        unit.id: 7 for unit in units
    }
    assert shared.bytes_fetched == 0


# --- on Ray ---


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_tiny_and_huge_units_stay_one_block_and_equal_the_local_run(ray_session, tmp_path, placement):
    source = ToySource(num_units=6, sizes=TINY_AND_HUGE)
    records = run(tmp_path / "ray", source, placement=placement)
    by_key = {record.unit_key: record for record in records}
    assert len(records) == 6
    assert {key: record.rows for key, record in by_key.items()} == {
        f"toy-{i}": source.sizes.get(f"toy-{i}", source.rows) for i in range(6)
    }
    for record in records:
        if record.fragment:
            assert pq.read_metadata(tmp_path / "ray" / record.fragment).num_rows == record.rows
    assert catalogue_files(tmp_path / "ray", source) == local_files(tmp_path / "local", source)


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_killed_worker_changes_nothing(ray_session, tmp_path, placement):
    source = ToySource(num_units=6, kills=str(tmp_path / "killed"))
    records = run(tmp_path / "ray", source, placement=placement)
    assert Path(source.kills).exists()
    assert {record.unit_key for record in records} == {f"toy-{i}" for i in range(6)}
    calm = ToySource(num_units=6)
    assert catalogue_files(tmp_path / "ray", source) == local_files(tmp_path / "local", calm)


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_unit_that_kills_each_worker_is_given_up_and_no_other(ray_session, tmp_path, placement):
    source = ToySource(num_units=6, deadly="toy-1")
    records = run(tmp_path / "ray", source, placement=placement, units_per_worker=2, max_attempts=2)
    calm = ToySource(num_units=6)
    unit = toy_units(calm)[1]
    (given_up,) = (record for record in records if record.is_given_up)
    assert given_up.unit_id == given_up_id(unit.id)
    assert (given_up.unit_key, given_up.rows_in, given_up.rejected) == ("toy-1", 0, {"worker_died": 1})
    (rejected,) = pq.read_table(tmp_path / "ray" / given_up.rejected_fragment).to_pylist()
    assert (rejected["uri"], rejected["reason"], rejected["kind"]) == ("toy://1", "worker_died", "fault")
    assert "unit toy-1" in rejected["detail"]
    ledger = Ledger(str(tmp_path / "ray"), Storage())
    assert ledger.ids() == {u.id for u in toy_units(calm) if u != unit} | {given_up.unit_id}

    again = run(tmp_path / "ray", ToySource(num_units=6), units=[unit])
    assert [record.unit_id for record in again] == [unit.id]
    assert catalogue_files(tmp_path / "ray", calm) == local_files(tmp_path / "local", calm)


@pytest.mark.ray
def test_stage_that_kills_each_worker_ends_the_run(ray_session, tmp_path):
    with pytest.raises(UnitError, match=r"a worker cannot be started: .* killed"):
        run(tmp_path, ToySource(), stages=[ToyStage(deadly=True)], workers=1, max_attempts=2)


@pytest.mark.ray
def test_worker_that_is_killed_while_it_starts_is_replaced(ray_session, tmp_path):
    """Ray takes that for an error of the stage, and would end the job."""
    source, stage = ToySource(num_units=3), ToyStage(kills=str(tmp_path / "killed"))
    records = run(tmp_path / "ray", source, stages=[stage])
    assert Path(stage.kills).exists()
    assert {record.unit_key for record in records} == {f"toy-{i}" for i in range(3)}
    assert catalogue_files(tmp_path / "ray", source) == local_files(tmp_path / "local", source)


@pytest.mark.ray
@pytest.mark.parametrize(("what", "text"), [("disk", "File too large"), ("memory", "MemoryError")])
def test_starved_worker_stops_the_run_and_a_rerun_ends_it(ray_session, tmp_path, what, text):
    """Nothing is rejected for it."""
    source, stage = ToySource(num_units=3), ToyStage(starves=str(tmp_path / "starved"), starves_of=what)
    with pytest.raises(UnitError, match=rf"^unit toy-\d \(\w+\) failed: .*{text}"):
        run(tmp_path / "ray", source, stages=[stage])
    done = Ledger(str(tmp_path / "ray"), Storage()).ids()
    run(tmp_path / "ray", source, stages=[stage])
    assert len(done) < 3
    assert catalogue_files(tmp_path / "ray", source) == local_files(tmp_path / "local", source)


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["fused", "split"])
def test_failing_unit_stops_the_run_and_is_named(ray_session, tmp_path, placement):
    with pytest.raises(UnitError, match=r"^unit toy-2 \(\w+\) failed: RuntimeError: the reader is broken$"):
        run(tmp_path, ToySource(broken="toy-2"), placement=placement)


@pytest.mark.ray
def test_stage_that_cannot_be_opened_says_why(ray_session, tmp_path):
    with pytest.raises(UnitError, match="weights are gone"):
        run(tmp_path, ToySource(), stages=[ToyStage(broken=True)])


@pytest.mark.ray
def test_nothing_to_do_starts_nothing(tmp_path):
    assert run(tmp_path, ToySource(num_units=0)) == []


def _square(number: int) -> int:
    if number < 0:
        raise CheckpointError("negative", "here", got=str(number))
    return number * number


def _fail(error: Exception) -> None:
    raise error


def _touch(path: Path) -> None:
    path.touch()


@pytest.mark.ray
def test_tasks_give_results_in_order(ray_session):
    assert list(map_tasks(_square, range(20), num_cpus=3)) == [n * n for n in range(20)]
    assert list(map_tasks(_square, [])) == []


@pytest.mark.ray
def test_error_of_a_task_is_one_line_of_its_own_kind(ray_session):
    with pytest.raises(CheckpointError) as caught:
        list(map_tasks(_square, [1, -1]))
    assert str(caught.value) == "here: negative; got -1"
    assert caught.value.where == "here"
    with pytest.raises(UnitError) as wrapped:
        list(map_tasks(_fail, [ValueError("no such thing")]))
    assert str(wrapped.value) == "ValueError: no such thing"


@pytest.mark.ray
def test_tasks_are_submitted_only_a_little_ahead_of_what_is_taken(ray_session, tmp_path):
    results = map_tasks(_touch, [tmp_path / str(n) for n in range(50)], num_cpus=3)
    for _ in range(10):
        next(results)
    assert 10 <= len(list(tmp_path.iterdir())) <= 10 + 2 * 2
    assert len(list(results)) == 40
    assert len(list(tmp_path.iterdir())) == 50
