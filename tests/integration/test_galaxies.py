"""From a synthetic Sersic set to staged Parquet, job by job, as training wants it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.schema import matrix
from engine.synthetic.sersic_render import RANGES, SersicParameters, render
from jobs.__main__ import main
from tests.integration.conftest import manifest_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]


def test_sersic_set_is_synthesized_and_staged_with_its_parameters(tmp_path: Path) -> None:
    config = tmp_path / "sersic.toml"
    config.write_text(f"""
        [release]
        source = "sersic"
        uri = "{tmp_path / "release"}"
        settings.size = 16
        [synthesize]
        num_images = 20
        size = 16
        images_per_file = 8
        [prepare]
        size = 16
        [staged]
        uri = "{tmp_path / "staged"}"
        [pipeline]
        workers = 1
        [cluster]
        num_cpus = 3
    """)
    assert main(["synthesize", str(config)]) == 0
    assert main(["ingest", str(config)]) == 0
    manifest = manifest_of(tmp_path / "staged")
    assert (manifest["rows"], manifest["rejected"]) == (20, {})
    staged = pq.read_table(tmp_path / "staged" / "fragments")
    assert sorted(staged["object_id"].to_pylist()) == list(range(20))
    assert staged["split_hash"].null_count == 0
    assert staged["ra"].null_count == 20, "they are nowhere on the sky"
    drawn = render(SersicParameters(*(staged[name].to_numpy() for name in RANGES)), 16)
    assert np.array_equal(matrix(staged, "image"), drawn.reshape(20, -1))
