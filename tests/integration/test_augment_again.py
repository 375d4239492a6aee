"""Samples of the flow that are made again: one from its row as the README says, and those of a unit that was lost."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs.check import check_catalog
from engine import sampling
from engine.checkpoint import Checkpoint, load, save
from engine.commit import read_manifest
from engine.errors import CheckpointError
from engine.infer import open_model
from engine.sampling import sampled_again
from engine.schema import matrix
from engine.stage import UnitTable
from engine.storage import Storage
from jobs.__main__ import main
from models import MODELS
from tests.blobs import CONDITIONS, make_blobs
from tests.tinygenerators import CPU, built, told

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "here")]

README = Path(__file__).parents[2] / "README.md"
FLOW = MODELS["image_flow"]


def write_checkpoint(folder: Path, name: str) -> None:
    """Write a tiny generator that has learned nothing; the flow asks for 4 steps."""
    spec, config = MODELS[name], told(name)
    module = built(name, config)
    fitted = spec.fit(config, module, [make_blobs(40, 16, 1, tuple(CONDITIONS))], [])
    weights = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    save(Checkpoint(name, spec.version, asdict(config), {}, weights, fitted), str(folder), Storage())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder, the current one, with a checkpoint and a configuration."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "checkpoint", "image_flow")
    (tmp_path / "augment.toml").write_text("""
        checkpoint.uri = "checkpoint"
        output.uri = "augmentations"
        augment.num_samples = 24
        augment.unit_rows = 8
        pipeline.workers = 1
        cluster.num_cpus = 3
    """)
    return tmp_path


def augment(capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    capsys.readouterr()
    assert main(["augment", "augment.toml", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def files_of(root: Path) -> dict[str, bytes]:
    """Bytes of the samples that a catalogue lists, by the unit that made them."""
    files = [file for file in read_manifest(str(root), Storage()).files if file.role == "data"]
    return {pq.read_table(root / f.path)["seed"][0].as_py(): (root / f.path).read_bytes() for f in files}


def rows_of(root: Path) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(pa.BufferReader(part)) for _, part in sorted(files_of(root).items())
    )


@pytest.mark.parametrize("steps", [0, 2])
def test_the_readme_makes_a_sample_again(site: Path, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert augment(capsys, "-o", f"augment.steps={steps}")["rows"] == 24
    root = site / "augmentations" / "model=image_flow"
    table = rows_of(root)
    assert check_catalog(str(root)).ok
    assert ("steps" in table.column_names) == bool(steps)
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    found: dict = {}
    exec(snippet, found)
    assert found["image"][0].tobytes() == matrix(table, "image")[7].tobytes()
    config, module = open_model(FLOW, load("checkpoint", Storage()), "test")
    assert FLOW.sampler is not None
    own = FLOW.sampler(config, module, CPU).sample(
        np.array([7]), np.array([[table[name][7].as_py() for name in CONDITIONS]])
    )
    assert np.array_equal(own["image"], found["image"]) == (not steps), "4 steps are not 2"


def test_rows_of_another_checkpoint_or_of_different_steps_are_refused(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augment(capsys, "-o", "augment.steps=2")
    rows = rows_of(site / "augmentations" / "model=image_flow")
    index = rows.column_names.index("steps")
    mixed = rows.set_column(index, "steps", pa.array(np.arange(24) % 2 + 1, pa.int32()))
    with pytest.raises(ValueError, match=r"steps are \[1, 2\], must be the same for all of 24 rows"):
        sampled_again(FLOW, "checkpoint", mixed)
    index = rows.column_names.index("checkpoint_id")
    other = rows.set_column(index, "checkpoint_id", pa.array(["another"] * 24))
    with pytest.raises(CheckpointError, match="expected another"):
        sampled_again(FLOW, "checkpoint", other)


def test_other_steps_are_other_samples_and_the_manifest_says_them(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augment(capsys)
    summary = augment(capsys, "-o", "augment.steps=2")
    assert (summary["computed"], summary["version"]) == (3, 2)
    manifest = read_manifest(str(site / "augmentations" / "model=image_flow"), Storage())
    assert manifest.provenance["config"]["augment"]["steps"] == 2


def test_steps_are_refused_where_there_is_no_solver(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(site / "vae", "image_vae")
    assert main(["augment", "augment.toml", "-o", "checkpoint.uri=vae", "-o", "augment.steps=2"]) != 0
    assert "the generator has no solver whose steps could be chosen" in capsys.readouterr().err


@pytest.mark.parametrize("killed", [True, False], ids=["killed between units", "unit lost"])
def test_what_was_lost_is_made_again_the_same(
    site: Path, killed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    augment(capsys, "-o", "output.uri=whole")
    whole, root = files_of(site / "whole" / "model=image_flow"), site / "augmentations" / "model=image_flow"
    assert sorted(whole) == [0, 8, 16]
    if killed:
        interrupt_at(8, monkeypatch)
        assert main(["augment", "augment.toml"]) == 130
        monkeypatch.undo()
        monkeypatch.chdir(site)
        assert not (root / "versions").exists()
    else:
        augment(capsys)
        lose_unit(root, 8)
    assert augment(capsys)["computed"] == (2 if killed else 1)
    assert files_of(root) == whole
    assert check_catalog(str(root)).ok


def interrupt_at(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker interrupted when it is to make that sample."""
    call = sampling._Generator.__call__

    def interrupted(self: sampling._Generator, unit: UnitTable) -> UnitTable:
        if seed in unit.rows["seed"].to_pylist():
            raise KeyboardInterrupt
        return call(self, unit)

    monkeypatch.setattr(sampling._Generator, "__call__", interrupted)


def lose_unit(root: Path, seed: int) -> None:
    """Remove the record and the file of the unit of that sample, and the versions that list it."""
    for path in (root / "fragments").iterdir():
        if seed in pq.read_table(path)["seed"].to_pylist():
            (root / "ledger" / f"{path.name.partition('-')[0]}.json").unlink()
            path.unlink()
    shutil.rmtree(root / "versions")
