from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from engine.errors import CommitError
from engine.ledger import Ledger, LedgerRecord
from engine.storage import Storage

RECORD = LedgerRecord(
    "aa", "main-dark-1", "t1", "fragments/aa-t1.parquet", "", 3, 2, {"no_camera": 1, "not_fits": 1}, 1
)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(str(tmp_path), Storage())


def test_record_survives_storage(ledger):
    record = replace(RECORD, pixels={"7": 2}, stats={"seconds": 0.5}, unit="{}")
    assert ledger.record(record)
    assert ledger.done() == {"aa": record}
    assert (record.rejected_rows, record.rejected_files) == (2, 1)


def test_units_are_left_out_where_they_are_known(ledger, monkeypatch):
    monkeypatch.setattr("engine.ledger.READ_AHEAD", 2)
    records = {name: replace(RECORD, unit_id=name, unit='{"key": 1}') for name in ("aa", "bb", "cc")}
    assert all(map(ledger.record, records.values()))
    assert ledger.done() == records
    assert ledger.done(with_units=False) == {
        name: replace(record, unit="") for name, record in records.items()
    }


def test_first_record_wins(ledger):
    assert ledger.record(RECORD)
    assert not ledger.record(replace(RECORD, attempt="t2"))
    assert ledger.read("aa").attempt == "t1"


def test_one_of_many_writers_wins(ledger):
    attempts = [replace(RECORD, attempt=f"t{i}") for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(ledger.record, attempts))
    assert sum(created) == 1
    assert ledger.read("aa").attempt == attempts[created.index(True)].attempt


def test_empty_ledger_and_selection(ledger):
    assert ledger.ids() == set()
    assert ledger.done() == {}
    for unit in ("aa", "bb", "cc"):
        ledger.record(replace(RECORD, unit_id=unit))
    assert ledger.ids() == {"aa", "bb", "cc"}
    assert set(ledger.done({"aa", "cc", "zz"})) == {"aa", "cc"}


@pytest.mark.parametrize("text", [b"", b"[]", b'{"unit_id": "aa"}', b'{"nonsense": 1}'])
def test_damaged_record_is_named(ledger, tmp_path, text):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "aa.json").write_bytes(text)
    with pytest.raises(CommitError, match=r"aa\.json"):
        ledger.done()


def test_record_under_the_name_of_another_unit_is_refused(ledger, tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "bb.json").write_text(RECORD.to_json())
    with pytest.raises(CommitError, match="another unit"):
        ledger.done()
