"""The main job on real files: each spectrum ends in the catalogue or in `rejected` with its reason."""

from collections import Counter
from pathlib import Path

import pytest

from catalogs.check import check_catalog
from catalogs.query import open_catalog, run_query
from jobs.__main__ import main
from tests.integration.conftest import manifest_of

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "spectral_vae_desi"
FOUND_FAULTS = 3
"""Exit code: faults are more than `max_rejected_fraction`, as they are here on purpose."""

pytestmark = [pytest.mark.data, pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]


def reprocess(folder: Path, config: str, release: Path) -> tuple[Path, int]:
    """Score a release with the checkpoint that comes with the project; return the catalogue and the exit code."""
    root = folder / "catalogue"
    settings = {
        "release.uri": release,
        "output.uri": root,
        "checkpoint.uri": CHECKPOINT,
        "report.gallery": 2,
        "report.options.umap": "false",
        "pipeline.workers": 1,
    }
    overrides = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    return root, main(["reprocess", f"jobs/configs/{config}.toml", *overrides])


def rows(root: Path, sql: str) -> list[dict]:
    with open_catalog(str(root)) as connection:
        return run_query(connection, sql).read_all().to_pylist()


def test_desi_files_of_four_kinds(shared_data: Path, tmp_path: Path) -> None:
    """Coadds of healpix and tiles, files of spectra, coadds without FIBERMAP and files that are no spectra."""
    root, code = reprocess(tmp_path, "desi", shared_data / "desi")
    assert code == FOUND_FAULTS
    found = rows(root, "SELECT targetid, survey, anomaly_score, flags FROM catalog")
    assert sorted(row["targetid"] for row in found) == [
        39089837499744649, 39627866878511337, 39627866878514741, 39633300968442591, 39633345008634465,
    ]  # fmt: skip
    assert all(row["anomaly_score"] >= 0 for row in found)
    reasons = Counter(
        row["reason"] for row in rows(root, "SELECT reason FROM rejected WHERE row IS NOT NULL")
    )
    assert reasons == {
        "negative_targetid": 5,
        "fiberstatus": 1,
        "sky_fibre": 1,
        "unsupported_layout": 43,
    }
    manifest = manifest_of(root)
    assert manifest["rows_in"] == len(found) + sum(reasons.values())
    assert not rows(root, "SELECT * FROM rejected WHERE uri IS NULL OR detail = ''")
    assert check_catalog(str(root)).ok


def test_sdss_plates(shared_data: Path, tmp_path: Path) -> None:
    root, code = reprocess(tmp_path, "sdss", shared_data / "sdss" / "coolgroup")
    assert code == 0
    (counted,) = rows(root, "SELECT count(*) AS n, count(DISTINCT targetid) AS targets FROM catalog")
    assert counted == {"n": 17, "targets": 17}
    assert not rows(root, "SELECT * FROM rejected")
