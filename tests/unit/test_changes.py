"""Units of a release beside those that a version was made from."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine.commit import Changes, changes
from engine.units import FileRef, Unit, with_ids
from tests.toy import ToyCatalogue

SALT = {"checkpoint": "toy"}


@pytest.fixture
def published(catalogue: ToyCatalogue) -> ToyCatalogue:
    catalogue.publish()
    return catalogue


def compared(catalogue: ToyCatalogue, units: list[Unit], salt: dict[str, str] = SALT) -> Changes:
    base = catalogue.publish()  # what is current: nothing new is published
    return changes(catalogue.root, catalogue.storage, base, with_ids(units, salt))


def test_units_of_the_version_are_unchanged(published: ToyCatalogue) -> None:
    assert compared(published, published.units) == Changes(1, unchanged=4)


def test_nothing_published_is_all_new(catalogue: ToyCatalogue) -> None:
    found = changes(catalogue.root, catalogue.storage, None, catalogue.units)
    assert found == Changes(0, new=4)
    assert str(found) == "4 new units, nothing is published yet"


def test_new_changed_and_gone_units_are_told_apart(published: ToyCatalogue) -> None:
    same, other, more, _ = published.units
    changed = replace(other, files=(replace(other.files[0], fingerprint="touched"), *other.files[1:]))
    smaller = replace(more, files=more.files[:1])
    new = Unit("toy-9", (FileRef("toy://9", 10, "f"),))
    found = compared(published, [same, changed, smaller, new])
    assert found == Changes(1, new=1, changed=2, gone=1, unchanged=1)
    assert str(found) == "1 new, 2 changed, 1 gone, 1 unchanged units since version 1"


def test_another_checkpoint_changes_no_file(published: ToyCatalogue) -> None:
    found = compared(published, published.units[:3], {"checkpoint": "another"})
    assert found == Changes(1, rescored=3, gone=1)
    assert "3 computed in another way" in str(found)


def test_file_that_an_index_promised_and_that_has_come_is_a_change(tmp_path: Path) -> None:
    catalogue = ToyCatalogue(tmp_path)
    came = replace(catalogue.units[0], missing=("toy://0/promised",))
    assert compared(catalogue, [came]) == Changes(1, changed=1, gone=3)
