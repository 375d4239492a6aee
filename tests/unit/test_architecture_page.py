import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows_of_the_table() -> list[set[str]]:
    """Modules of each layer as the page tells them, from the top."""
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    cells = [line.split("|")[2] for line in lines if re.match(r"\| \d+ \|", line)]
    return [set(re.findall(r"`(\w+)/?`", cell)) for cell in cells]


def test_page_has_the_layers_that_lint_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["engine"])
    assert rows_of_the_table() == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_page_names_every_module_of_the_engine() -> None:
    there = {path.stem for path in (ROOT / "engine").iterdir() if path.name[0] not in "_."}
    assert set.union(*rows_of_the_table()) == there
