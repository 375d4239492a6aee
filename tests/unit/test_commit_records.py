import json
from pathlib import Path

import pytest

from engine.errors import CommitError
from engine.ledger import Ledger
from tests.toy import ToyCatalogue


def test_records_that_are_known_are_not_read_again(catalogue: ToyCatalogue, monkeypatch) -> None:
    records = list(Ledger(catalogue.root, catalogue.storage).done(catalogue.ids).values())
    monkeypatch.setattr(Ledger, "done", lambda *_: pytest.fail("the ledger is read"))
    assert catalogue.publish(records=records[::-1]).num_units == len(catalogue.ids)


def test_records_of_other_units_are_left_out_and_missing_ones_refused(catalogue: ToyCatalogue) -> None:
    records = list(Ledger(catalogue.root, catalogue.storage).done(catalogue.ids).values())
    assert catalogue.publish(ids=catalogue.ids[:2], records=records).num_units == 2
    with pytest.raises(CommitError, match="1 of 4 units have no record"):
        catalogue.publish(records=records[1:])


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
