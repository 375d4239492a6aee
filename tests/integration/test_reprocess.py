"""The main job on a synthetic release: published, resumed, changed, extended."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks.small_model import make_checkpoint
from engine import cluster
from engine.cluster import ClusterConfig
from engine.storage import Storage
from jobs import infer
from jobs.__main__ import main
from jobs.config import load_scorings
from jobs.job import Options
from jobs.publish import publish_version
from tests.inprocess import in_process
from tests.integration.conftest import Site, data_files, make_release, manifest_of
from tests.servers import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def _table(root: Path) -> duckdb.DuckDBPyRelation:
    files = [str(root / f["path"]) for f in manifest_of(root)["files"] if f["role"] == "data"]
    return duckdb.read_parquet(files)


def test_every_target_ends_in_the_catalogue_or_in_rejected(published: Path) -> None:
    manifest = manifest_of(published)
    assert manifest["rows_in"] == 120
    assert manifest["rows"] + sum(manifest["rejected"].values()) - manifest["rejected_files"] == 120
    assert manifest["rows"] == len(_table(published).distinct().fetchall())
    keys = _table(published).aggregate("count(DISTINCT (survey, program, targetid))").fetchall()
    assert keys == [(manifest["rows"],)]


def test_last_lines_name_report_and_catalogue(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        site.run("reprocess", "published", "-o", "report.enabled=true", "-o", "report.options.umap=false")
        == 0
    )
    *_, report, catalogue = capsys.readouterr().out.strip().splitlines()
    assert catalogue == f"catalogue: {published}"
    html = Path(report.removeprefix("report: ")).read_text()
    assert html.count("What the model was given and what it made of it") == 3
    assert "could not be read again" not in html


def test_rerun_publishes_nothing_new_and_starts_no_ray(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(config: ClusterConfig) -> None:
        raise AssertionError("Ray is not needed")

    monkeypatch.setattr(cluster, "connect", started)
    before = {path: path.stat().st_mtime_ns for path in published.rglob("*")}
    capsys.readouterr()
    assert site.run("reprocess", "published", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["state"], summary["new"], summary["version"]) == ("unchanged", False, 1)
    assert summary["changes"] == {
        "version": 1, "new": 0, "changed": 0, "rescored": 0, "gone": 0, "unchanged": 4
    }  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in published.rglob("*")} == before


@pytest.mark.usefixtures("here")
def test_only_what_changed_is_computed_and_the_difference_is_told(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four coadds one is touched, one is gone, and there is one more: the rows of the others stay."""
    release, root = site.folder / "changing-release", site.folder / "changing"
    shutil.copytree(site.release, release)
    shutil.copytree(published, root)
    where = ("-o", f"release.uri={release}")
    assert site.run("reprocess", "changing", *where) == 0, "files elsewhere are other files"
    touched, gone, *_ = sorted(release.rglob("coadd-*.fits"))
    touched.touch()
    lost = _rows_of(root, gone)
    shutil.rmtree(gone.parent)
    new = _one_more_file(site, release)
    before = set((root / "ledger").iterdir())
    capsys.readouterr()
    assert site.run("reprocess", "changing", *where, "--plan") == 0
    assert "1 new, 1 changed, 1 gone, 2 unchanged units since version 2" in capsys.readouterr().out
    assert site.run("reprocess", "changing", *where, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["changes"] == {
        "version": 2, "new": 1, "changed": 1, "rescored": 0, "gone": 1, "unchanged": 2
    }  # fmt: skip
    assert len(set((root / "ledger").iterdir()) - before) == 2
    won, diff = _rows_of(root, new), summary["diff"]
    assert (diff["added"], diff["removed"], diff["changed"]) == (len(won), len(lost), 0)
    assert main(["query", str(root), "SELECT change, targetid FROM diff", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = {("removed", targetid) for targetid in lost} | {("added", targetid) for targetid in won}
    assert {(row["change"], row["targetid"]) for row in told} == wanted


def _one_more_file(site: Site, release: Path) -> Path:
    """Copy the fifth coadd of a release of five, and its redrock file, into a release of four."""
    more = make_release(site.folder / "more", num_files=5)
    new = [path for path in more.rglob("*.fits") if not (site.release / path.relative_to(more)).exists()]
    assert len(new) == 2, "a coadd and its redrock file"
    for path in new:
        (release / path.relative_to(more)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, release / path.relative_to(more))
    return next(release / path.relative_to(more) for path in new if path.name.startswith("coadd"))


def _rows_of(root: Path, coadd: Path) -> set[int]:
    rows = _table(root).filter(f"source_uri = '{coadd}'").project("targetid")
    return {targetid for (targetid,) in rows.fetchall()}


def test_of_two_schedulers_one_publishes_and_the_other_says_so(site: Site, published: Path) -> None:
    """Two drivers on one cluster begin before either has published."""
    drivers = [site.spawn("reprocess", "contended", "--json") for _ in range(2)]
    said = [driver.communicate(timeout=400) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    states = [json.loads(out)["state"] for out, _ in said]
    assert states.count("new") == 1, states
    assert set(states) <= {"new", "shared", "unchanged"}
    root = site.folder / "contended"
    assert len(list((root / "versions").iterdir())) == 1
    assert data_files(root) == data_files(published)
    assert main(["check", str(root)]) == 0


def test_job_that_looked_before_another_published_does_not_undo_it(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slow job saw two units; while it computed, another published all four."""
    root = site.folder / "overtaken"
    shutil.copytree(published, root)
    (record,) = (root / "versions").iterdir()
    kept = record.read_bytes()
    record.unlink()
    slow = Options(target=str(site.config), overrides=(f"output.uri={root}",), limit=2)
    configs = load_scorings(slow)
    assembled = infer.assemble(configs[0], slow)
    record.write_bytes(kept)
    result = publish_version(configs[0], *assembled)
    assert result.exit_code == 0
    assert result.summary["state"] == "superseded"
    assert "another job published a version meanwhile" in result.lines[0]
    assert [path.read_bytes() for path in (root / "versions").iterdir()] == [kept]


@pytest.mark.usefixtures("here")
def test_another_precision_is_another_result(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert site.run("reprocess", "published", "--plan", "--json", "-o", "infer.precision=bfloat16") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["pending"] == plan["units"], "a unit computed in float32 would pass for one in bfloat16"
    assert site.run("reprocess", "rounded", "--limit", "1", "-o", "infer.precision=bfloat16") == 0
    ours, theirs = (
        sorted(map(str, (r / "data").rglob("Npix*.parquet"))) for r in (published, site.folder / "rounded")
    )
    moved = duckdb.sql(
        f"SELECT max(abs(a.weighted_mse - b.weighted_mse) / a.weighted_mse) "
        f"FROM read_parquet({ours}) a JOIN read_parquet({theirs}) b USING (targetid, survey, program)"
    ).fetchall()[0][0]
    assert 0 < moved < 0.1


def test_injected_anomalies_rank_above_the_rest(site: Site, published: Path) -> None:
    truth = duckdb.read_parquet(str(site.release / "truth.parquet"))
    scored = _table(published).project("targetid, anomaly_score")
    joined = scored.join(truth.project("targetid, anomaly"), "targetid")
    means = dict(joined.aggregate("anomaly <> '' AS odd, avg(anomaly_score)", "odd").fetchall())
    assert means[True] > means[False]


def test_driver_that_is_killed_twice_resumes_to_the_same_bytes(
    site: Site, published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First when half of the units are done, then while it publishes."""
    output = site.folder / "killed"
    driver = site.spawn("reprocess", "killed")
    _wait_for_files(driver, output, "ledger/*.json", 2)
    assert _status(output, capsys)["state"] == "running"  # from another process, as from another machine
    _kill(driver)
    later = time.time() + 300
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "reader_clock_s", lambda *_: later)  # that of the storage: ours does not count
        told = _status(output, capsys)
    assert (told["state"], told["pending"]) == ("lost", 4)
    assert told["done"] >= 2
    done = {path: path.stat().st_mtime_ns for path in (output / "ledger").glob("*.json")}
    assert len(done) >= 2

    driver = site.spawn("reprocess", "killed")
    _wait_for_files(driver, output, "data/**/*.parquet", 1)
    _kill(driver)
    assert site.run("reprocess", "killed") == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished unit was computed again"
    assert data_files(output) == data_files(published)
    assert len(list((output / "versions").iterdir())) == 1
    told = _status(output, capsys)
    assert (told["state"], told["failed"]) == ("done", 0)
    assert told["done"] == told["pending"]


def _wait_for_files(driver: subprocess.Popen[str], root: Path, pattern: str, num: int) -> None:
    """Wait until a catalogue holds so many of these files, and hold the driver there, who might be done before we look."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None and len(list(root.glob(pattern))) < num:
        time.sleep(0.01)
    driver.send_signal(signal.SIGSTOP)


def _kill(driver: subprocess.Popen[str]) -> None:
    driver.kill()
    _, said = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, f"ended before it was killed: {said[-2000:]}"


def _status(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `status` says of the last run."""
    capsys.readouterr()
    assert main(["status", str(root), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["runs"][-1]


@pytest.fixture(scope="module")
def other(site: Site) -> Path:
    """Another checkpoint."""
    return make_checkpoint(site.folder / "other", seed=4)


@pytest.fixture(scope="module")
def rescored(site: Site, published: Path, other: Path) -> Path:
    """Catalogue whose second version has the scores of the other checkpoint."""
    root = site.folder / "rescored"
    shutil.copytree(published, root)
    with in_process():
        assert site.run("reprocess", root.name, "-o", f"checkpoint.uri={other}") == 0
    return root


def test_two_models_in_one_pass_are_two_catalogues_as_if_alone(
    site: Site, published: Path, other: Path, rescored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_process():
        assert site.run("reprocess", "first", "--limit", "1") == 0
    assert manifest_of(site.folder / "first")["num_units"] == 1, "the first model has the first unit already"
    config = site.folder / "two.toml"
    outputs = {"first": site.checkpoint, "second": other}
    models = "".join(
        f"""[[models]]\ncheckpoint.uri = "{checkpoint}"\noutput.uri = "{site.folder / name}"\n"""
        for name, checkpoint in outputs.items()
    )
    rest = site.config.read_text().replace("[output]", "[unused]").replace("[checkpoint]", "[gone]")
    kept = [part for part in rest.split("\n        [") if not part.startswith(("unused", "gone"))]
    config.write_text("\n[".join(kept) + "\n" + models)
    capsys.readouterr()
    assert main(["reprocess", str(config), "--plan", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["models"]
    assert [plan["pending"] for plan in plans] == [plans[0]["units"] - 1, plans[1]["units"]]
    assert main(["reprocess", str(config)]) == 0
    assert data_files(site.folder / "first") == data_files(published)
    assert data_files(site.folder / "second") == data_files(rescored)


def test_another_checkpoint_leaves_no_old_row(rescored: Path) -> None:
    root = rescored
    old, new = (json.loads(p.read_text()) for p in sorted((root / "versions").iterdir()))
    assert (old["version"], new["version"]) == (1, 2)
    assert old["rows"] == new["rows"]
    names = [
        {f["path"]: f["sha256"] for f in manifest_of(root, v)["files"] if f["role"] == "data"} for v in (1, 2)
    ]
    assert not set(names[0].values()) & set(names[1].values())
    files = [[str(root / path) for path in part] for part in names]
    same = duckdb.sql(
        f"SELECT count(*) FROM read_parquet({files[0]}) a JOIN read_parquet({files[1]}) b "
        "USING (targetid, survey, program) WHERE a.weighted_mse = b.weighted_mse"
    )
    assert same.fetchall() == [(0,)]


def test_infer_in_another_placement_then_publish_is_reprocess(site: Site, published: Path) -> None:
    assert site.run("publish", "steps") == 1, "publishing before inference must fail"
    assert site.run("infer", "steps", "-o", "pipeline.placement=split") == 0
    assert not (site.folder / "steps" / "versions").exists()
    assert site.run("publish", "steps") == 0
    assert data_files(site.folder / "steps") == data_files(published)


def test_plan_says_what_would_be_done_and_does_nothing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.run("reprocess", "planned", "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["units"], plan["pending"]) == (4, 4)
    assert "anomaly_score" in plan["columns"]
    assert not (site.folder / "planned").exists()


def test_release_and_catalogue_on_object_storage(
    site: Site, published: Path, moto_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = moto_server.make_bucket()
    storage = Storage(moto_server.options)
    for path in site.release.rglob("*.fits"):
        storage.put(f"{bucket}/release/{path.relative_to(site.release)}", path.read_bytes())
    endpoint = moto_server.endpoint_url
    where = {
        "release.uri": f"{bucket}/release",
        "release.storage.endpoint_url": endpoint,
        "output.uri": f"{bucket}/catalogue",
        "output.storage.endpoint_url": endpoint,
    }
    overrides = [part for key, value in where.items() for part in ("-o", f"{key}={value}")]
    assert main(["reprocess", str(site.config), *overrides]) == 0
    reach = ["-o", f"storage.endpoint_url={endpoint}"]
    assert main(["check", f"{bucket}/catalogue", *reach]) == 0
    capsys.readouterr()
    sql = "SELECT targetid, weighted_mse FROM catalog ORDER BY targetid"
    assert main(["query", f"{bucket}/catalogue", sql, "--json", *reach]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    local = _table(published).order("targetid").project("targetid, weighted_mse").fetchall()
    assert [row["targetid"] for row in rows] == [targetid for targetid, _ in local]
    assert [row["weighted_mse"] for row in rows] == pytest.approx([mse for _, mse in local], rel=1e-6)


def test_check_and_query_on_the_command_line(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(published)]) == 0
    capsys.readouterr()
    assert main(["query", str(published), "SELECT count(*) AS n FROM catalog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": manifest_of(published)["rows"]}
    assert main(["query", str(published), "DROP VIEW catalog"]) == 2
    broken = next(published.glob("data/*/dataset/*/*/*.parquet"))
    whole = broken.read_bytes()
    try:
        broken.write_bytes(whole[:-100])
        assert main(["check", str(published)]) == 1
    finally:
        broken.write_bytes(whole)
