"""What workers and reading tasks tell of themselves while they work: numbers, stages, beats, log."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from engine.metrics import STAGE_SECONDS
from engine.runs import Beat, InHand, RunFolder
from engine.storage import Storage
from engine.units import Work
from engine.worker import Branch, UnitError, UnitWorker, Watch, name_unit, read_unit
from tests.toy import Same, ToyCatalogue, ToySource, ToyStage
from tests.unit.test_status import wait_for


@pytest.fixture
def catalogue(tmp_path: Path) -> ToyCatalogue:
    return ToyCatalogue(tmp_path / "catalogue")


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, dict[str, str]]] = []

    def add(self, metric, amount: float, **labels: str) -> None:
        assert set(labels) == set(metric.labels)
        self.told.append((metric.name, amount, labels))

    def total(self, name: str) -> float:
        return sum(amount for told, amount, _ in self.told if told == name)

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, each told once."""
        told = [(labels["stage"], amount) for name, amount, labels in self.told if name == STAGE_SECONDS.name]
        assert len(dict(told)) == len(told)
        return dict(told)


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_worker_tells_numbers_stages_and_beats(tmp_path: Path, placement: str) -> None:
    catalogue, notes, read = ToyCatalogue(tmp_path / "like"), Notes(), Notes()
    folder = RunFolder(str(tmp_path / "watched"), Storage(), "run")
    source, unit, is_split = ToySource(), catalogue.units[0], placement == "split"
    sink = type(catalogue.sink)(folder.root, catalogue.sink.storage_options, catalogue.sink.columns)
    watch = Watch((folder,), 0.01, None, lambda: notes)
    work = Work(unit, (unit.id,))
    worker = UnitWorker(None if is_split else source, [], [Branch((ToyStage(),), sink)], watch)
    by_reader = replace(watch, make_meter=lambda: read)
    block = read_unit(source, [Same()], work, watch=by_reader) if is_split else name_unit(work)
    (record,) = worker(block)["record"].to_pylist()
    assert (notes.total("trawl_units"), notes.total("trawl_rows")) == (1, 20)
    assert notes.total("trawl_rejected") == 2
    assert notes.total("trawl_bytes_fetched") + read.total("trawl_bytes_fetched") == 7
    by_worker = {"toy", "write"} if is_split else {"read", "toy", "write"}
    assert set(notes.stages()) == by_worker
    assert set(read.stages()) == ({"read", "same"} if is_split else set())
    stats = json.loads(record)["stats"]
    seconds = {f"{stage}_seconds": spent for stage, spent in {**notes.stages(), **read.stages()}.items()}
    del seconds["write_seconds"]  # the record is written by then
    assert {name: stats[name] for name in seconds} == seconds
    assert "worker_seconds" in stats
    wait_for(lambda: list(Path(folder.uri("beats")).glob("worker-*.json")))
    broken = UnitWorker(ToySource(broken="toy-0"), [], [Branch((), sink)], watch)
    with pytest.raises(UnitError):
        broken(name_unit(work))
    assert broken._steps.in_hand() == ()


def test_reader_is_heard_while_it_reads_long_and_logs_like_a_worker(
    catalogue: ToyCatalogue, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(catalogue.root, catalogue.storage, "run")
    heard: list[InHand] = []
    plain = RunFolder.beat

    def beat(self: RunFolder, beat: Beat, number: int) -> None:
        plain(self, beat, number)
        heard.extend(beat.in_hand)

    monkeypatch.setattr(RunFolder, "beat", beat)
    work, before = Work(catalogue.units[1], ("x",)), logging.getLogger().handlers[:]
    read_unit(catalogue.source, [Same()], work, watch=Watch((folder,), 3600.0))
    assert heard == [], "what is short costs no request"
    capsys.readouterr()

    def until_heard() -> None:
        logging.getLogger("engine.test").info("waiting")
        wait_for(lambda: any((one.unit, one.step) == ("toy-1", "same") for one in heard))

    slow = Same(meanwhile=until_heard)
    try:
        read_unit(catalogue.source, [slow], work, watch=Watch((folder,), 0.01, "json"))
    finally:
        logging.getLogger().handlers[:] = before
    assert list(Path(folder.uri("beats")).glob("*")) == [], "nobody is there any more"
    waiting, done = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: waiting[name] for name in ("run", "unit", "stage", "message")} == {
        "run": "run", "unit": "toy-1", "stage": "same", "message": "waiting",
    }  # fmt: skip
    assert (done["unit"], done["message"].startswith("read in ")) == ("toy-1", True)
