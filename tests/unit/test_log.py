import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from engine import log
from engine.errors import ConfigError, EngineError
from engine.log import ProgressLine
from jobs import check
from jobs.__main__ import main


def test_line_tells_units_rows_and_rejected() -> None:
    stream = io.StringIO()
    with ProgressLine("infer", 2, stream) as line:
        line.advance(1500, 10)
        assert "1/2 units  1.5k rows" in line.text()
        assert "ETA" in line.text()
        line.advance(500, 0)
    text = stream.getvalue()
    assert text.count("\n") == 1, "one line at the end, none before a minute has passed"
    assert text.startswith("infer  2/2 units  2k rows")
    assert "rejected 10 (0.498%)" in text


def test_nothing_to_do_says_nothing() -> None:
    stream = io.StringIO()
    with ProgressLine("infer", 0, stream):
        pass
    assert stream.getvalue() == ""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put the handlers back that a test has replaced."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    yield
    root.handlers[:] = before


def test_json_lines_tell_run_unit_and_stage(capsys) -> None:
    log.setup(form="json")
    assert log.current_format() == "json"
    logger = logging.getLogger("engine.test")
    with log.context(run="r1"), log.context(unit="main-dark-1", stage="read"):
        logger.info("slow: %s", "3 s")
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("broke")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: first[name] for name in ("run", "unit", "stage", "message", "level", "logger")} == {
        "run": "r1", "unit": "main-dark-1", "stage": "read", "message": "slow: 3 s", "level": "INFO",
        "logger": "engine.test",
    }  # fmt: skip
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert "ValueError: no" in second["exception"]
    assert "run" not in second


def test_text_lines_tell_it_too(capsys) -> None:
    log.setup()
    with log.context(run="r1", unit="u"):
        logging.getLogger("engine.test").warning("late")
    assert capsys.readouterr().err == "WARNING:engine.test: late [run=r1 unit=u]\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_never_reach_a_line(capsys, monkeypatch, form: log.LogFormat) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", 'wJalr"XUtnFEMI/K7MDENG')
    monkeypatch.setenv("RAY_AUTH_TOKEN", "tok-123456")
    log.setup(form=form)
    logger = logging.getLogger("engine.test")
    logger.warning(
        "env %s at https://me:hunter2@host/x?X-Amz-Signature=deadbeef", os.environ["AWS_SECRET_ACCESS_KEY"]
    )
    try:
        raise ValueError(f"token {os.environ['RAY_AUTH_TOKEN']}")
    except ValueError:
        logger.exception("broke")
    text = capsys.readouterr().err
    for secret in ("XUtnFEMI", "tok-123456", "hunter2", "deadbeef"):
        assert secret not in text
    assert "***@host" in text


@pytest.mark.parametrize(
    "name", ["X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Signature", "Signature", "sig"]
)
def test_signature_of_a_presigned_url_is_starred_out(name: str) -> None:
    told = log.without_secrets(f"cannot open https://host/x?{name}=de/ad%2B&a=1&{name}=beef gave 403")
    assert told == f"cannot open https://host/x?{name}=***&a=1&{name}=*** gave 403"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (EngineError("no", "here"), 1, "error: here: no"),
        (ConfigError("no", "here"), 2, "error: here: no"),
        (ZeroDivisionError("no"), 1, "error: ZeroDivisionError: the program failed"),
        (KeyboardInterrupt(), 130, "interrupted: "),
        (SystemExit(1), 130, "interrupted: "),
    ],
)
def test_each_line_of_a_job_that_ends_badly_is_json(
    capsys, monkeypatch, error: BaseException, code: int, told: str
) -> None:
    other = logging.getLogger("ray.test")
    other.propagate, other.handlers[:] = False, [logging.StreamHandler()]

    def run(options) -> None:
        log.adopt("ray")
        with warnings.catch_warnings(), ProgressLine("infer", 3) as line:
            warnings.simplefilter("always")
            line.advance(rows=5)
            print("someone\nprints")
            warnings.warn("and warns", stacklevel=1)
            other.warning("Ray has its own handlers")
            print("cut off", end="")
            raise error

    monkeypatch.setattr(check, "run", run)
    assert main(["check", "x", "--log", "json"]) == code
    out, err = capsys.readouterr()
    lines = [json.loads(line)["message"] for line in err.splitlines()]
    assert out == ""
    assert lines[:2] == ["someone", "prints"]
    assert "and warns" in lines[2]
    assert lines[3] == "Ray has its own handlers"
    assert lines[4].startswith("infer  1/3 units")
    assert lines[5] == "cut off"
    assert lines[6].startswith(told)
    assert len(lines) == 7
