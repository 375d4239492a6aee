from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, field_validator

from engine.config import Config, load, parse_overrides
from engine.errors import ConfigError


class Inner(Config):
    width: int = 3
    name: str = "x"


class Other(Config):
    wide: int = 0
    colour: str = ""


class Outer(Config):
    chosen_by_name: ClassVar = {"settings": (Other,)}

    required: float
    inner: Inner = Inner()
    maybe: Other | None = None
    several: tuple[Inner, ...] = ()
    settings: dict[str, int] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _fit(cls, value: dict[str, int]) -> dict[str, int]:
        return Other.model_validate(value).model_dump()


def _file(folder: Path, text: str) -> str:
    path = folder / "t.toml"
    path.write_text(text)
    return str(path)


def test_overrides_are_toml_or_bare_words(tmp_path: Path) -> None:
    path = _file(tmp_path, "required = 1.5\n[inner]\nwidth = 4\n")
    config = load(Outer, path, ["inner.width=7", "inner.name=s3://bucket/key", "required=2"])
    assert config == Outer(required=2.0, inner=Inner(width=7, name="s3://bucket/key"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = _file(tmp_path, "[inner]\nwidht = 4\nname = 5\n")
    with pytest.raises(ConfigError) as caught:
        load(Outer, path)
    text = str(caught.value)
    assert path in text
    assert "required: required, not given" in text
    assert "inner.widht: unknown key (did you mean 'width'?)" in text
    assert "inner.name" in text
    assert "got 5" in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("requiredd = 1", "requiredd: unknown key (did you mean 'required'?)"),
        ("inner.required = 1", "inner.required: unknown key\n"),
        ("inner.wide = 1", "inner.wide: unknown key (did you mean 'width'?)"),
        ("maybe.widee = 1", "maybe.widee: unknown key (did you mean 'wide'?)"),
        ("settings.wied = 1", "settings.wied: unknown key (did you mean 'wide'?)"),
        ("several = [{widt = 1}]", "several.0.widt: unknown key (did you mean 'width'?)"),
    ],
)
def test_the_nearest_key_is_one_of_that_section(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, _file(tmp_path, line))
    assert told in f"{caught.value}\n"


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().width = 4  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("override", ["required", "inner.width.deep=1"])
def test_override_that_makes_no_sense(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="-o"):
        load(Outer, _file(tmp_path, "required = 1\n[inner]\nwidth = 4"), [override])


def test_file_that_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.toml: is not TOML"):
        load(Outer, _file(tmp_path, "required = = 1"))


def test_overrides_alone() -> None:
    assert parse_overrides(["a.b=[1, 2]", "c=true"]) == {"a": {"b": [1, 2]}, "c": True}
