"""What a user sees when something is wrong: one message that says what, where, expected, and what to do."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from benchmarks.small_model import SETTINGS
from engine.checkpoint import load, save
from engine.errors import ConfigError
from engine.ledger import LedgerRecord
from engine.storage import Storage
from engine.train.fit import FitConfig, check_held_out, fit_scoring
from engine.units import FileRef, Unit
from jobs.faults import judge
from tests.integration.conftest import Site, make_release, manifest_of
from tests.integration.test_reprocess import _table
from tests.toymodel import SPEC, ToyConfig, build

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def _error(
    site: Site, capsys: pytest.CaptureFixture[str], code: int, *more: str, job: str = "reprocess"
) -> str:
    assert site.run(job, "bad-input", *more) == code
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_unknown_key_is_refused_with_the_nearest(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    text = _error(site, capsys, 2, "-o", "release.sorce='desi'", "-o", "infer.batch_rows='many'")
    assert "release.sorce: unknown key (did you mean 'source'?)" in text
    assert "infer.batch_rows" in text
    assert "'many'" in text


def test_all_problems_are_told_with_the_settings_of_the_source(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "release.settings.layuot": "flat",
        "release.settings.cuts.min_exposures": -1,
        "infer.batch_rows": "many",
    }
    text = _error(
        site, capsys, 2, *(part for key, value in wrong.items() for part in ("-o", f"{key}={value}"))
    )
    assert f"error: {site.config}: configuration is not valid" in text
    assert "release.settings.layuot: unknown key (did you mean 'layout'?)" in text
    assert "release.settings.cuts.min_exposures" in text
    assert "infer.batch_rows" in text
    assert "'many'" in text


def test_unknown_source_is_refused_with_those_there_are(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _error(site, capsys, 2, "-o", "release.source=dessi", "-o", "release.settings.layout=flat")
    assert "release.source" in text
    assert "'dessi'" in text
    assert "desi, sdss" in text


def test_missing_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.__main__ import main

    assert main(["reprocess", "nowhere.toml"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err


def test_empty_release(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _error(site, capsys, 1, "-o", f"release.uri={tmp_path}")
    assert "empty" in text
    assert str(tmp_path) in text


def test_release_that_does_not_exist(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _error(site, capsys, 1, "-o", f"release.uri={tmp_path / 'nothing'}")
    assert str(tmp_path / "nothing") in text


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """Credentials, which no message may show."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "knows-this-secret")
    return "knows-this-secret"


@pytest.mark.parametrize(
    ("job", "section"), [("reprocess", "release"), ("reprocess", "output"), ("synthesize", "release")]
)
def test_unreachable_bucket_is_one_line(
    site: Site, capsys: pytest.CaptureFixture[str], secret: str, job: str, section: str
) -> None:
    where = {f"{section}.uri": "s3://bucket/x", f"{section}.storage.endpoint_url": "http://127.0.0.1:9"}
    more = [part for key, value in where.items() for part in ("-o", f"{key}={value}")]
    text = _error(site, capsys, 1, "-o", "synthesize.num_spectra=20", *more, job=job)
    assert len([line for line in text.splitlines() if not line.startswith(("INFO:", "WARNING:"))]) == 1
    assert "s3://bucket" in text
    assert secret not in text


def test_checkpoint_that_is_not_there(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _error(site, capsys, 1, "-o", f"checkpoint.uri={tmp_path}")
    assert str(tmp_path) in text


def _other_checkpoint(site: Site, folder: Path, **changes: Any) -> str:
    """Save the site's checkpoint with something changed: whole, with a right id."""
    storage = Storage()
    save(replace(load(str(site.checkpoint), storage), **changes), str(folder), storage)
    return str(folder)


def test_damaged_checkpoint(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = _other_checkpoint(site, tmp_path / "checkpoint")
    header = tmp_path / "checkpoint" / "checkpoint.json"
    header.write_text(header.read_text().replace('"num_latent": 6', '"num_latent": 7'))
    text = _error(site, capsys, 1, "-o", f"checkpoint.uri={uri}")
    assert f"{uri}: content does not match its id" in text


def test_checkpoint_of_another_shape(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = _other_checkpoint(site, tmp_path / "checkpoint", config=SETTINGS | {"num_latent": 7})
    text = _error(site, capsys, 1, "-o", f"checkpoint.uri={uri}")
    assert f"{uri}: weights do not fit the model" in text


def test_checkpoint_of_another_model(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = _other_checkpoint(site, tmp_path / "checkpoint", model="oracle")
    text = _error(site, capsys, 1, "-o", f"checkpoint.uri={uri}")
    assert (
        f"{uri}: made for a model that is not here; got oracle; expected spectral_vae, redshift_vae, band_gan"
        in text
    )


def test_unknown_catalogue_and_preparation(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    text = _error(site, capsys, 2, "-o", "catalog.name=stars", "-o", "prepare.fram=rest")
    assert "catalog: Value error, no such catalogue, there are spectral_anomaly" in text
    assert "prepare.fram: unknown key (did you mean 'frame'?)" in text


def test_too_few_spectra_to_calibrate_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"here: too few .* got about 6 of 112; expected .*= 30"):
        check_held_out(112, 0.05, FitConfig(), "here")
    spec = replace(SPEC, fit=lambda *_: float("too few rows"))
    with pytest.raises(ConfigError, match=r"model 'toy': scores cannot be calibrated; got could not convert"):
        fit_scoring(spec, ToyConfig(), build(ToyConfig()), [], Storage(), 0.1, FitConfig(), "cpu")


@pytest.mark.parametrize(("present", "missing", "code"), [(98, 2, 0), (50, 50, 3)])
def test_missing_files_count_as_files(present: int, missing: int, code: int) -> None:
    """However many objects the other files hold: nobody knows how many these held."""
    here = [
        Unit(f"{i}", (FileRef(f"{i}", 1, "f", "coadd"), FileRef(f"r{i}", 1, "f", "redrock")))
        for i in range(present)
    ]
    gone = [Unit(f"-{i}", (), missing=(f"{i}",)) for i in range(missing)]
    counts = {"rejected": {"not_found": missing, "sky_fibre": 9000}, "rejected_files": missing}
    record = LedgerRecord("id", "key", "a", "", "", rows_in=500 * present, rows=1, **counts)
    verdict = judge([*here, *gone], [record], 0.05)
    assert verdict.fraction == missing / (present + missing)
    assert verdict.exit_code == code
    assert bool(verdict.lines) == bool(code)


@pytest.mark.usefixtures("here")
def test_broken_files_are_rejected_and_the_rest_goes_on(site: Site, tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", num_files=6, rows=10)
    truncated, not_fits, nan, other_grid, no_redshift, _ = sorted(release.rglob("coadd-*.fits"))
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    not_fits.write_text("<html>404</html>")
    _change(nan, "{}_FLUX", lambda values: values * np.nan)
    _change(other_grid, "{}_WAVELENGTH", lambda values: values * 1.01)
    no_redshift.with_name(no_redshift.name.replace("coadd", "redrock")).unlink()
    assert site.run("reprocess", "broken", "-o", f"release.uri={release}") == 3
    root = site.folder / "broken"
    manifest = manifest_of(root)
    rejected = manifest["rejected"]
    assert rejected["truncated_file"] >= 1
    assert rejected["not_fits"] == 10, "each object that the redrock file names"
    assert rejected["no_usable_pixel"] >= 1
    assert rejected["wrong_wavelength_grid"] >= 1
    seen = {uri for (uri,) in _table(root).project("source_uri").distinct().fetchall()}
    assert len(seen) == 2
    without_z = _table(root).filter(f"source_uri LIKE '%{no_redshift.name}'")
    assert without_z.filter("z IS NULL AND flags & 8 = 8 AND isfinite(anomaly_score)").count(
        "*"
    ).fetchall() != [(0,)]
    assert without_z.filter("z IS NOT NULL").fetchall() == []


def _change(path: Path, name: str, change) -> None:
    copy = path.with_suffix(".copy")
    with fits.open(path) as hdus:
        for camera in "BRZ":
            hdu = hdus[name.format(camera)]
            hdu.data = change(hdu.data)
        hdus.writeto(copy)
    shutil.move(copy, path)
