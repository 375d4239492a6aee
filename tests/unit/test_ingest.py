from pathlib import Path

import pytest

from engine.config import load
from engine.errors import ConfigError
from jobs.config import JobConfig
from jobs.ingest import stage
from jobs.job import Options

CONFIG = """
[release]
source = "stamps"
uri = "{folder}"
[release.settings]
size = 32
quantities = {{ split_hash = "snr" }}
[prepare]
size = 32
[staged]
uri = "{folder}/staged"
"""


def test_a_number_of_the_catalogue_cannot_take_the_name_of_a_column_that_is_made(tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    options = Options(str(config), plan=True)
    with pytest.raises(ConfigError, match=r"quantities have the names .*split_hash.*Give them other names"):
        stage(load(JobConfig, str(config), []), options)
    assert not (tmp_path / "staged").exists()
