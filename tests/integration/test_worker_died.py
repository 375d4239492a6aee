"""A file that kills each worker that reads it: the job goes on without it, says so, and tries it again next time."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.pipeline import run_units
from engine.sources.base import Source
from engine.stage import UnitTable
from engine.units import Unit
from jobs import parts
from jobs.__main__ import main
from tests.integration.conftest import Site, data_files, manifest_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@dataclass(frozen=True)
class Deadly:
    """A source whose decoder crashes on one coadd."""

    source: Source
    file: str

    def read(self, unit: Unit) -> UnitTable:
        if unit.files[0].uri.endswith(self.file):
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.source.read(unit)


def told(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> tuple[int, list[dict]]:
    """Exit code of a job and the lines that it prints as JSON."""
    capsys.readouterr()
    code = run()
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_file_that_kills_its_readers_is_rejected_and_tried_again(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sorted(site.release.rglob("coadd-*.fits"))[1]
    root, name = site.folder / "deadly", ("reprocess", "deadly", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(
            parts, "run_units", lambda work, source, *rest: run_units(work, Deadly(source, file.name), *rest)
        )
        code, (summary,) = told(capsys, lambda: site.run(*name, "-o", "pipeline.units_per_worker=2"))
    assert code == 3, "a quarter of the files is more than max_rejected_fraction"
    assert (summary["units"], len(summary["given_up"]), summary["rejected"]["worker_died"]) == (4, 1, 1)
    assert summary["rows_in"] == 90
    assert main(["check", str(root)]) == 0
    sql = "SELECT uri, kind, detail FROM rejected WHERE reason = 'worker_died'"
    _, (row,) = told(capsys, lambda: main(["query", str(root), sql, "--json"]))
    assert (row["uri"], row["kind"]) == (str(file), "fault")
    assert "the next run tries it again" in row["detail"]
    _, (status,) = told(capsys, lambda: main(["status", str(root), "--json"]))
    assert [status["runs"][-1][key] for key in ("state", "done", "failed")] == ["done", 3, 1]
    assert site.run("reprocess", "deadly", "--plan") == 0
    assert "0 new, 0 changed, 0 gone, 4 unchanged units since version 1" in capsys.readouterr().out

    code, (summary,) = told(capsys, lambda: site.run(*name))
    assert (code, summary["version"], summary["given_up"]) == (0, 2, [])
    assert summary["diff"]["added"] == manifest_of(root)["rows"] - manifest_of(root, 1)["rows"] > 0
    assert data_files(root) == data_files(published)
