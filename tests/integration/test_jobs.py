"""Each job on its own, as a user calls it: plan, JSON, last lines, exit code; then the demo of all of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.small_model import SETTINGS
from engine import cluster
from jobs import demo, report
from jobs.__main__ import main
from jobs.config import Place
from jobs.job import JobResult
from tests.integration.conftest import Site, manifest_of, stored_and_spilled

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_session"),
    # Ray Train's own: sockets of its actors and its use of pkg_resources are not in our hands.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]

Say = Callable[..., str]

CONFIG = f"""
    [synthesize]
    num_spectra = 300
    spectra_per_file = 60
    num_broken_files = 1
    [release]
    uri = "FOLDER/release"
    [staged]
    uri = "FOLDER/staged"
    [model.settings]
    hidden = {SETTINGS["hidden"]}
    num_latent = {SETTINGS["num_latent"]}
    [train]
    epochs = 1
    validation_fraction = 0.3
    global_batch_rows = 64
    [scoring]
    injected_rows = 200
    [checkpoint]
    uri = "FOLDER/checkpoint"
    [output]
    uri = "FOLDER/catalogue"
    [report]
    gallery = 2
    options.umap = false
    [pipeline]
    workers = 1
"""

PIXELS = 7781
"""Of a prepared spectrum, 4 bytes each."""

NO_UMAP = ("-o", "report.options.umap=false")
"""numba compiles UMAP anew in each process, half a minute; `tests/unit/test_catalogs_figures.py` draws it."""


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a job that ends with a code, 0 by default, and return what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = main(arguments)
        said = capsys.readouterr()
        assert found == code, said.err
        text = said.out if code in (0, 3) else said.err
        # Ray's daemon speaks through whatever stdout is at the time, of this session also between jobs.
        return "\n".join(line for line in text.strip().splitlines() if "(raylet)" not in line)

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    path = folder / "job.toml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    return path


def test_synthesize_to_report_job_by_job(config: Path, say: Say) -> None:
    """One file of five is cut in the middle: whatever reads the release finishes with code 3.

    Scoring has its readers apart from its workers, so that all spectra pass through the object store.
    """
    folder, name = config.parent, str(config)
    stored, spilled = stored_and_spilled()

    assert json.loads(say("synthesize", name, "--plan", "--limit", "2", "--json"))["spectra"] == 120
    assert not (folder / "release").exists()
    assert json.loads(say("synthesize", name, "--json"))["spectra"] == 300
    assert (folder / "release" / "truth.parquet").exists()

    assert json.loads(say("ingest", name, "--plan", "--json"))["pending"] == 5
    assert not (folder / "staged").exists()
    *_, fault, last = say("ingest", name, code=3).splitlines()
    assert "exit code 3" in fault
    staged = manifest_of(folder / "staged")
    assert last == f"staged: {folder / 'staged'} ({staged['rows']} objects)"
    assert say("ingest", name, "-o", "max_rejected_fraction=0.5").splitlines() == [last]

    assert json.loads(say("train", name, "--plan", "--json"))["rows"] == staged["rows"]
    assert "about" in say("train", name, "-o", "scoring.min_held_out_rows=1000", code=2)
    trained = json.loads(say("train", name, "--json"))
    assert {"id", "metrics", "checkpoint"} <= trained.keys()
    confusion = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())["metrics"][
        "artefact_confusion"
    ]
    assert sum(sum(row.values()) for row in confusion.values()) == 50, "what is injected judges too"

    assert json.loads(say("reprocess", name, "--plan", "--json"))["pending"] == 5
    before, _ = stored_and_spilled()
    apart = ("-o", "pipeline.placement=split")
    assert json.loads(say("infer", name, "--json", *apart, code=3))["computed"] == 5
    after, spilled_since = stored_and_spilled()
    assert after - before > staged["rows"] * PIXELS * 4, "spectra go through the object store"
    assert before > stored, "so do the rows that are trained on"
    assert spilled_since == spilled, "the object store was full"
    plan = json.loads(say("publish", name, "--plan", "--json"))
    assert (plan["version"], plan["new"], plan["pending"]) == (1, True, 0)
    assert not (folder / "catalogue" / "versions").exists()
    *_, report_line, catalogue_line = say("reprocess", name, code=3).splitlines()
    assert catalogue_line == f"catalogue: {folder / 'catalogue'}"
    assert Path(report_line.removeprefix("report: ")).exists()
    assert say("publish", name, "--plan").startswith("nothing new: still version 1")
    assert json.loads(say("prune", str(folder / "catalogue"), "--plan", "--json"))["removed"] == []


@pytest.mark.usefixtures("here")
def test_demo_plans_and_prints_the_ten_strangest(
    site: Site, config: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {f"{key}.uri": config.parent / f"demo-{key}" for key in ("release", "staged", "output")}
    places["checkpoint.uri"] = site.checkpoint
    somewhere = [part for key, place in places.items() for part in ("-o", f"{key}={place}")]
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "connect", lambda _: pytest.fail("a plan needs no Ray"))
        plan = say("demo", str(config), *somewhere, "--plan")
        planned = json.loads(say("demo", str(config), *somewhere, "--plan", "--json"))
        assert list(planned) == ["synthesize", "ingest", "train", "reprocess"]
    assert "synthesize: files: 5" in plan
    assert f"ingest: not to be planned yet: {config.parent}/demo-release" in plan
    # Training is tested above; here a checkpoint is there.
    monkeypatch.setitem(demo.STEPS, "train", lambda *_: JobResult({}))
    lines = say("demo", str(config), *somewhere, code=3).splitlines()
    assert sum(bool(re.match(r"\s*\d+\s+\d{8,}", line)) for line in lines) == 10
    assert lines[-2].startswith(f"report: {config.parent}/demo-output/reports/")
    assert lines[-1] == f"catalogue: {config.parent}/demo-output"


def test_report_draws_the_strangest_objects(site: Site, published: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    lines = say("report", str(published), "--limit", "2", "--out", str(out), *NO_UMAP).splitlines()
    assert lines == [f"report: {out}", f"catalogue: {published}"]
    html = out.read_text()
    assert html.count("What the model was given and what it made of it") == 2
    assert "could not be read again" not in html


def test_report_without_the_release_says_so_and_keeps_the_training(
    site: Site, published: Path, say: Say, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    gone = site.release.rename(site.release.with_name("gone"))
    try:
        say("report", str(published), "--out", str(out), *NO_UMAP)
    finally:
        gone.rename(site.release)
    html = out.read_text()
    assert "could not be read again" in html
    assert "What the model was given and what it made of it" not in html
    assert "train" in html


def test_reports_of_two_buckets_have_two_names(published: Path) -> None:
    from engine.commit import read_manifest
    from engine.storage import Storage

    manifest = read_manifest(str(published), Storage())
    paths = {report.path_of(Place(uri=f"s3://{bucket}/catalogue"), manifest) for bucket in "ab"}
    assert len(paths) == 2
    assert all(Path(path).name.startswith("spectral_anomaly-") for path in paths)


def test_query_prints_only_rows_and_only_so_many(published: Path, say: Say) -> None:
    sql = "SELECT targetid FROM catalog"
    assert say("query", str(published), f"{sql} WHERE false", "--json") == ""
    rows = say("query", str(published), sql, "--json", "--limit", "3").splitlines()
    assert [list(json.loads(row)) for row in rows] == [["targetid"]] * 3
    assert "no such column" not in say(
        "query", str(published), "SELECT nothing FROM catalog", "--json", code=2
    )


def test_prune_takes_no_version(published: Path) -> None:
    with pytest.raises(SystemExit):
        main(["prune", str(published), "--version", "3"])


def test_unforeseen_error_is_one_line(
    published: Path, say: Say, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("jobs.query.run", fail)
    text = say("query", str(published), "SELECT 1", code=1)
    assert text.startswith("error: RuntimeError: the program failed, not its input; got first second.")
    assert "Traceback" not in text
    assert "Traceback" in say("query", str(published), "SELECT 1", "--verbose", code=1)
