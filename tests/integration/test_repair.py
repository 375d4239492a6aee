"""What the runbook says of a damaged catalogue, done: `check` finds it, `reprocess --repair` mends it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StorageError
from engine.ledger import Ledger
from engine.storage import Storage
from jobs import infer
from jobs.__main__ import main
from jobs.config import load_scorings
from jobs.job import Options
from jobs.repair import repairing
from tests.integration.conftest import Site, data_files, manifest_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]


@pytest.fixture
def root(site: Site, published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "damaged"))


def run(site: Site, root: Path, *more: str) -> int:
    return main(["reprocess", str(site.config), "-o", f"output.uri={root}", *more])


def partition(root: Path) -> Path:
    return root / next(file["path"] for file in manifest_of(root)["files"] if file["role"] == "data")


def record(root: Path, number: int) -> tuple[Path, dict[str, Any]]:
    path = sorted((root / "ledger").iterdir())[number]
    return path, json.loads(path.read_text())


def test_damaged_partition_is_merged_again_and_nothing_computed(
    site: Site, published: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = {path: path.stat().st_mtime_ns for path in (root / "ledger").iterdir()}
    data = bytearray(partition(root).read_bytes())
    data[len(data) // 2] ^= 1
    partition(root).write_bytes(data)
    assert main(["check", str(root)]) != 0
    name = str(partition(root).relative_to(root))
    capsys.readouterr()
    assert run(site, root) == 0
    assert "nothing new: still version 1" in capsys.readouterr().out
    assert run(site, root, "--plan", "--repair") == 0
    assert f"damaged: {name}: version 1 gets a successor" in capsys.readouterr().out
    assert run(site, root, "--repair") == 0
    said = capsys.readouterr().out
    assert "published version 2" in said
    assert f"damaged: {name}" in said
    assert "rows: 0 added, 0 removed, 0 whose" in said
    assert main(["check", str(root)]) == 0
    assert data_files(root) == data_files(published)
    assert {path: path.stat().st_mtime_ns for path in (root / "ledger").iterdir()} == ledger
    capsys.readouterr()
    for more in ([], ["--repair"]):
        assert run(site, root, *more) == 0
        assert "nothing new: still version 2" in capsys.readouterr().out


def test_damaged_units_are_computed_again_and_no_others(
    site: Site, published: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partition(root).unlink()
    (cut, of_cut), (garbled, _), (kept, _) = (record(root, number) for number in range(3))
    fragment = root / of_cut["fragment"]
    fragment.write_bytes(fragment.read_bytes()[:-1])
    garbled.write_text("{")
    before = kept.stat().st_mtime_ns
    assert run(site, root, "--plan", "--repair") == 0
    assert capsys.readouterr().out.count("computed again") == 2
    assert record(root, 0) == (cut, of_cut), "a plan changes nothing"
    assert run(site, root, "--repair") == 0
    assert "published version 2" in capsys.readouterr().out
    assert record(root, 0)[1]["attempt"] != of_cut["attempt"]
    assert kept.stat().st_mtime_ns == before
    assert data_files(root) == data_files(published)
    assert main(["check", str(root)]) == 0


def test_rejected_rows_that_cannot_be_read_are_damage(site: Site, root: Path) -> None:
    options = Options(target=str(site.config), overrides=(f"output.uri={root}",))
    ready, _ = infer.assemble(load_scorings(options)[0], options)
    assert repairing(ready).damage == ("damaged: nothing",)
    unit = next(one for one in Ledger(str(root), Storage()).done().values() if one.rejected_fragment)
    (root / unit.rejected_fragment).write_bytes(b"PAR1")
    found = repairing(ready, plan=True)
    assert [one.id for one in found.pending] == [unit.unit_id]
    assert found.damaged_version == 0


def test_storage_that_does_not_answer_is_no_damage(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise StorageError("failed to read", "any", "503")

    options = Options(target=str(site.config), overrides=(f"output.uri={root}",))
    ready, _ = infer.assemble(load_scorings(options)[0], options)
    before = set((root / "ledger").iterdir())
    monkeypatch.setattr(Storage, "read", refuse)
    with pytest.raises(StorageError):
        repairing(ready)
    assert set((root / "ledger").iterdir()) == before
