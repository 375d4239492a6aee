"""What the pages and configurations tell a user to type: lines are understood, questions are answered."""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from functools import cache
from pathlib import Path

import pytest

from catalogs.query import open_catalog, run_query
from engine import config as engine_config
from jobs.__main__ import main, parser
from jobs.applied import open_last
from jobs.config import JobConfig, model_of
from jobs.job import Options

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("jobs/configs/*.toml"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *CONFIGS]
QUOTED = re.compile(r"`([^`\n]+)`")


def commands(program: str) -> list[str]:
    """Lines that call a program of ours: in blocks and between backticks, without prompts and remarks."""
    found: dict[str, None] = {}
    for page in PAGES:
        for line in page.read_text().splitlines():
            pieces = [line.lstrip("# "), *QUOTED.findall(line)]
            found |= {
                p.split("  #")[0].split(" # ")[0].strip(): None for p in pieces if p.startswith(program)
            }
    return list(found)


JOBS, BENCHMARKS, TARGETS = commands("python -m jobs "), commands("python -m benchmarks."), commands("make ")


def test_pages_hold_commands() -> None:
    assert len(JOBS) > 8
    assert len(BENCHMARKS) > 3
    assert len(TARGETS) > 2


@pytest.mark.parametrize("line", [line for line in JOBS if "<" not in line])
def test_line_of_a_job_is_understood(line: str) -> None:
    options = Options.from_namespace(parser().parse_args(shlex.split(line)[3:]))
    if options.target.endswith(".toml"):
        engine_config.load(JobConfig, str(ROOT / options.target), options.overrides)


class Caught(Exception):  # noqa: N818 - it is no error
    """Carries the parser of a benchmark out of it."""


@cache
def options_of(module: str) -> frozenset[str]:
    """Options of a benchmark, run until it would parse its line."""

    def caught(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise Caught(parser)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that another test has imported it
        for name in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, name, caught)
        patch.setattr(sys, "argv", [module])
        with pytest.raises(Caught) as caught_one:
            runpy.run_module(module, run_name="__main__")
    return frozenset(caught_one.value.args[0]._option_string_actions)


@pytest.mark.parametrize("line", BENCHMARKS)
def test_line_of_a_benchmark_has_options_that_there_are(line: str) -> None:
    module = re.match(r"python -m ([\w.]+)", line)[1]
    assert importlib.util.find_spec(module) is not None
    flags = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", line.partition(module)[2]))
    if not flags:
        return
    try:
        known = options_of(module)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} of the extra `bench` is not installed")
    assert flags <= known


@pytest.mark.parametrize("line", TARGETS)
def test_target_is_in_the_makefile(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.match(r"make ((?:[a-z-]+ ?)*)", line)[1].split()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_is_whole(path: Path) -> None:
    """Every key is known, the model accepts its settings, and what it is given has the size that it reads."""
    config = engine_config.load(JobConfig, str(path), ())
    spec, settings = model_of(config)
    if "model" in tomllib.loads(path.read_text()):
        assert config.release is not None
        prepared = config.release.kind.prepare_class.model_validate(config.prepare).stage.provides
        lengths = {column.name: column.length for column in prepared}
        first = spec.reads(settings)[0]
        is_made = config.contaminate is not None and config.contaminate.images != "nircam"
        assert lengths["image" if is_made else first.name] == first.length


def test_curves_of_the_demo_are_those_of_a_command_that_there_is() -> None:
    """With its comment marks taken off, the section is one that `augment` reads."""
    text = (ROOT / "jobs/configs/demo_augment.toml").read_text()
    shown = text.replace("# [augment.robustness]\n# uri", "[augment.robustness]\nuri")
    asked = engine_config.parse(JobConfig, shown, "demo").augment
    assert asked is not None
    assert asked.robustness is not None
    written = re.search(r"--json (\S+)", text)
    assert written is not None
    assert asked.robustness.uri == written[1]
    assert {"--json", "--size", "--checkpoint"} <= options_of("benchmarks.augmentation")


@pytest.mark.parametrize("family", ["image_vae", "image_alae", "image_stylegan", "image_flow"])
def test_configuration_of_galaxies_is_whole_for_every_family_and_size(family: str) -> None:
    published = "published256" if family == "image_flow" else "published256_sersic"
    for preset, size in (("cpu64", 64), (published, 256)):
        sizes = ("synthesize.size", "release.settings.size", "prepare.size")
        given = [f"model.name={family}", f"model.preset={preset}", *(f"{name}={size}" for name in sizes)]
        config = engine_config.load(JobConfig, str(ROOT / "jobs/configs/sersic.toml"), given)
        spec, settings = model_of(config)
        assert (spec.name, settings.size, settings.softening) == (family, size, 100.0)
        assert config.release is not None
        prepared = config.release.kind.prepare_class.model_validate(config.prepare).stage.provides
        assert {column.name: column.length for column in prepared}["image"] == size**2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_checkpoint_that_comes_with_a_configuration_was_trained_with_its_settings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = engine_config.load(JobConfig, str(path), ())
    if config.checkpoint is not None and config.checkpoint.uri.startswith("checkpoints/"):
        open_last(config)


@pytest.mark.parametrize("name", ["desi", "desi_dr1"])
def test_configuration_of_spectra_plans(name: str, site, tmp_path: Path) -> None:
    overrides = {
        "release.uri": site.release,
        "output.uri": tmp_path / "catalogue",
        "checkpoint.uri": ROOT / "checkpoints" / "spectral_vae_desi",
        "release.settings.layout": "auto",
        "release.settings.surveys": "[]",
        "release.settings.programs": "[]",
    }
    line = [part for key, value in overrides.items() for part in ("-o", f"{key}={value}")]
    assert main(["reprocess", str(ROOT / f"jobs/configs/{name}.toml"), "--plan", *line]) == 0


LATER = ("diff", "reranked", "tracks")
"""Views that are empty until there is a second version, labels, or a report."""


@pytest.mark.ray
def test_questions_of_the_pages_are_answered(published: Path) -> None:
    asked = [shlex.split(line)[5] for line in JOBS if line.startswith("python -m jobs query")]
    assert any("top(10)" in sql for sql in asked)
    with open_catalog(str(published)) as connection:
        for sql in asked:
            if sql not in ("SELECT ...", "SQL"):
                num_rows = run_query(connection, sql).read_all().num_rows
                assert num_rows or any(view in sql for view in LATER)
