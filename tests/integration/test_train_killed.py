"""`train` is killed while it trains; the same line run again goes on and ends as if nothing had happened."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Site
from tests.stagedspectra import PREP, stage_spectra

EPOCHS = 4
CONFIG = f"""
    [model.settings]
    num_pixels = {PREP.num_pixels}
    num_latent = 2
    hidden = [16]
    precision = "float32"
    [train]
    epochs = {EPOCHS}
    global_batch_rows = 32
    validation_fraction = 0.2
    shuffle_buffer_rows = 64
    threads_per_worker = 1
    read_cpus = 3
    [cluster]
    num_cpus = 4
    object_store_memory_gib = 0.3
"""
"""One reader at a time: each process of Ray takes seconds to import torch."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_session"),
    # Ray's own: sockets of its actors and its use of pkg_resources are not in our hands.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]


@pytest.mark.timeout(600)  # starts Ray's workers three times: slow on a busy machine
def test_killed_training_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text(CONFIG)
    site = Site(tmp_path, tmp_path, tmp_path, config)
    stage_spectra(tmp_path / "staged-plain", num_files=3)
    shutil.copytree(tmp_path / "staged-plain", tmp_path / "staged-killed")

    driver = site.spawn("train", "unused", *overrides(tmp_path, "killed"))
    before = history_when_stored(driver, tmp_path / "staged-killed" / "runs")
    driver.kill()
    driver.communicate()
    assert 1 <= len(before) < EPOCHS
    assert not (tmp_path / "checkpoint-killed").exists()

    assert site.run("train", "unused", *overrides(tmp_path, "killed")) == 0
    assert site.run("train", "unused", *overrides(tmp_path, "plain")) == 0
    weights, history = outcome(tmp_path / "checkpoint-killed")
    plain_weights, plain_history = outcome(tmp_path / "checkpoint-plain")
    assert history[: len(before)] == before, "an epoch was computed again: its speed is another"
    assert len(history) == EPOCHS
    assert without_speed(history) == without_speed(plain_history)
    assert weights == plain_weights


def overrides(folder: Path, name: str) -> list[str]:
    """Places of one of the two runs, each with its own copy of the same spectra."""
    places = {"staged.uri": f"staged-{name}", "checkpoint.uri": f"checkpoint-{name}"}
    return [part for key, place in places.items() for part in ("-o", f"{key}={folder / place}")]


def history_when_stored(driver: subprocess.Popen[str], runs: Path) -> list[dict[str, Any]]:
    """Wait for the first state that is whole; return the history that is in it."""
    deadline = time.monotonic() + 420
    while time.monotonic() < deadline and driver.poll() is None:
        for record in runs.glob("*/states/*/state.json"):
            return json.loads(record.read_text())["history"]
        time.sleep(0.01)
    driver.kill()
    raise AssertionError(f"no state was stored: {driver.communicate()[1][-2000:]}")


def outcome(checkpoint: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """Bytes of the weights, and the history."""
    history = json.loads((checkpoint / "checkpoint.json").read_text())["history"]
    return (checkpoint / "weights.safetensors").read_bytes(), history


def without_speed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what the clock decides."""
    return [{name: value for name, value in epoch.items() if name != "rows_per_s"} for epoch in history]
