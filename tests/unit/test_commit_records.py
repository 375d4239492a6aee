import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.errors import CommitError
from engine.ledger import Ledger
from engine.units import Unit, given_up_id
from tests.toy import TOY_CATALOG, ToyCatalogue


def test_records_that_are_known_are_not_read_again(catalogue: ToyCatalogue, monkeypatch) -> None:
    records = list(Ledger(catalogue.root, catalogue.storage).done(catalogue.ids).values())
    monkeypatch.setattr(Ledger, "done", lambda *_: pytest.fail("the ledger is read"))
    assert catalogue.publish(records=records[::-1]).num_units == len(catalogue.ids)


def test_records_of_other_units_are_left_out_and_missing_ones_refused(catalogue: ToyCatalogue) -> None:
    records = list(Ledger(catalogue.root, catalogue.storage).done(catalogue.ids).values())
    assert catalogue.publish(ids=catalogue.ids[:2], records=records).num_units == 2
    with pytest.raises(CommitError, match="1 of 4 units have no record"):
        catalogue.publish(records=records[1:])


def test_table_of_units_is_the_same_from_records_and_from_units(catalogue: ToyCatalogue, monkeypatch) -> None:
    monkeypatch.setattr("engine.commit.parquet.ROW_GROUP_ROWS", 3)
    ledger = Ledger(catalogue.root, catalogue.storage)
    ledger.forget(catalogue.ids[1])
    lost = catalogue.sink.give_up(catalogue.units[1], "killed")
    units = [
        replace(unit, id=lost.unit_id) if unit.key == lost.unit_key else unit for unit in catalogue.units
    ]
    records = list(ledger.done(with_units=False).values())
    tables = []
    for name, known in (("a", {}), ("b", {"units": units, "records": records}), ("c", {"units": units})):
        config = TOY_CATALOG.model_copy(update={"name": name})
        manifest = catalogue.publish(config, [unit.id for unit in units], **known)
        (path,) = manifest.paths("units")
        tables.append(pq.ParquetFile(f"{catalogue.root}/{path}"))
    whole, known, read = (table.read() for table in tables)
    assert known == whole == read
    assert tables[1].metadata.num_row_groups == 2, "three units, then one"
    assert {Unit.from_json(text) for text in known["unit"].to_pylist()} == set(units)


def test_numbers_of_a_publication_are_lines_for_dashboards(catalogue: ToyCatalogue) -> None:
    manifest = catalogue.publish()
    (path,) = [path for path in manifest.paths("metadata") if path.endswith("/metrics.jsonl")]
    lines = [json.loads(line) for line in Path(catalogue.root, path).read_text().splitlines()]
    assert all(set(line) == {"time", "name", "value", "unit", "stage"} for line in lines)
    told = {(line["name"], line["stage"]): line for line in lines}
    assert told["rows", "publish"]["value"] == manifest.rows
    assert told["rejected_sky_fibre", ""]["value"] == manifest.rejected["sky_fibre"]
    assert told["bytes_fetched", ""] == {
        "time": manifest.created, "name": "bytes_fetched", "value": 28.0, "unit": "byte", "stage": ""
    }  # fmt: skip


def test_unit_that_is_given_up_is_published_as_rejected_files_and_stays_to_be_done(
    catalogue: ToyCatalogue,
) -> None:
    lost, ledger = catalogue.units[1], Ledger(catalogue.root, catalogue.storage)
    whole = catalogue.publish()
    ledger.forget(lost.id)
    first, again = (catalogue.sink.give_up(lost, detail) for detail in ("killed", "killed again"))
    assert first == again
    assert (first.unit_id, first.unit_key) == (given_up_id(lost.id), lost.key)
    assert lost.id not in ledger.ids()
    ids = [unit.id for unit in catalogue.units if unit != lost]
    manifest = catalogue.publish(ids=[*ids, first.unit_id])
    assert manifest.rejected["worker_died"] == 1, "the redrock file goes with the spectra"
    assert manifest.rows_in == whole.rows_in - 21
    told = [
        row for row in catalogue.table(manifest, "rejected").to_pylist() if row["reason"] == "worker_died"
    ]
    assert [(row["uri"], row["row"], row["detail"]) for row in told] == [("toy://1", None, "killed")]


def test_unit_that_has_a_record_is_not_given_up(catalogue: ToyCatalogue) -> None:
    ledger = Ledger(catalogue.root, catalogue.storage)
    assert catalogue.sink.give_up(catalogue.units[0], "killed") == ledger.read(catalogue.ids[0])
    assert ledger.ids() == set(catalogue.ids)
