"""Logging and progress: one live line on a terminal, one line a minute elsewhere; for machines a JSON object a line."""

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

_log = logging.getLogger(__name__)

LINE_EVERY_S = 60.0

LogFormat = Literal["text", "json"]

SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")
"""Environment variables whose values never appear in a line."""

_CREDENTIALS = re.compile(
    r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
    r"|(?<=[?&]X-Amz-Signature=)[^&\s]+|(?<=[?&]X-Amz-Security-Token=)[^&\s]+|(?<=[?&]X-Goog-Signature=)[^&\s]+"
    r"|(?<=[?&]Signature=)[^&\s]+|(?<=[?&]sig=)[^&\s]+"
)
"""User and password of a URL; the signature of a presigned one, as the large stores name it."""

_context: ContextVar[dict[str, Any]] = ContextVar("log_context", default={})  # noqa: B039 - never changed in place


def setup(verbose: bool = False, form: LogFormat = "text") -> None:
    """Send the project's log lines to standard error: `INFO:module: text`, or as JSON objects.

    Both tell the `context` in which a line was written, and neither a secret of the environment.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in ("engine", "models", "catalogs", "jobs"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def current_format() -> LogFormat | None:
    """How this process logs; None if `setup` was not called."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    if any(isinstance(formatter, JsonFormatter) for formatter in formatters):
        return "json"
    return "text" if any(isinstance(formatter, TextFormatter) for formatter in formatters) else None


@contextmanager
def stray_lines() -> Iterator[None]:
    """Send what others print inside the `with` to standard error; where lines are JSON, as such, and warnings too."""
    if current_format() != "json":
        with redirect_stdout(sys.stderr):
            yield
        return
    logging.captureWarnings(True)
    stray = _Logged()
    try:
        with redirect_stdout(stray):
            yield
    finally:
        stray.write("\n")
        logging.captureWarnings(False)


def adopt(library: str) -> None:
    """Have loggers of a library that write to the console by themselves write JSON too, where we do."""
    if current_format() != "json":
        return
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == library]
    for handler in {handler for name in names for handler in logging.getLogger(name).handlers}:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setFormatter(JsonFormatter())


class _Logged(io.TextIOBase):
    """A stream whose lines are logged."""

    def __init__(self) -> None:
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            _log.info("%s", line)
        return len(text)


@contextmanager
def context(**facts: Any) -> Iterator[None]:
    """Put facts (run, unit, stage) into each line that this thread logs inside the `with`."""
    token = _context.set(_context.get() | facts)
    try:
        yield
    finally:
        _context.reset(token)


class TextFormatter(logging.Formatter):
    """`INFO:engine.worker: text [run=... unit=... stage=...]`."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s:%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(f"{name}={value}" for name, value in _context.get().items())
        return without_secrets(super().format(record) + (f" [{facts}]" if facts else ""))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what `context` says, and an exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            **_context.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        # Replaced before it is encoded: a secret with a quote in it would look different afterwards.
        return json.dumps({name: without_secrets(str(value)) for name, value in told.items()})


def without_secrets(text: str) -> str:
    """Return a text with the secrets of the environment and of URLs starred out."""
    for name in SECRETS:
        value = os.environ.get(name, "")
        if len(value) >= 6:  # shorter ones are words of tests
            text = text.replace(value, "***")
    return _CREDENTIALS.sub("***", text)


class ProgressLine:
    """How far a job is: `infer  12/40 units  6.1k rows  2.0k rows/s  rejected 12 (0.2%)  ETA 4m`.

    Parameters
    ----------
    name
        What is being done.
    total
        Number of units to do.
    stream
        Where to write; a live line if it is a terminal. By default standard error, or the log where its lines are JSON.
    """

    def __init__(self, name: str, total: int, stream: TextIO | None = None) -> None:
        self.name, self.total = name, total
        self.done = self.rows = self.rejected = 0
        self._stream = stream or sys.stderr
        self._start = self._last_line = time.monotonic()
        self._is_logged = stream is None and current_format() == "json"
        self._live = self._make_live() if self._stream.isatty() and not self._is_logged else None

    def _make_live(self) -> Progress:
        columns = SpinnerColumn(), BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}")
        live = Progress(*columns, console=Console(file=self._stream), transient=True)
        live.add_task(self.name, total=self.total)
        return live

    def __enter__(self) -> "ProgressLine":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self.total:
            self._say()

    def advance(self, rows: int = 0, rejected: int = 0) -> None:
        """Count one more unit done, with its rows."""
        self.done, self.rows, self.rejected = self.done + 1, self.rows + rows, self.rejected + rejected
        if self._live:
            self._live.update(self._live.task_ids[0], completed=self.done, description=self.text())
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._say()

    def _say(self) -> None:
        if self._is_logged:
            _log.info("%s", self.text())
        else:
            print(self.text(), file=self._stream, flush=True)

    def text(self) -> str:
        """Return the line as it stands now."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        seen = self.rows + self.rejected
        parts = [f"{self.name}  {self.done}/{self.total} units  {short(self.rows)} rows"]
        parts.append(f"{short(self.rows / elapsed)} rows/s")
        if self.rejected:
            parts.append(f"rejected {self.rejected} ({100 * self.rejected / seen:.3g}%)")
        if 0 < self.done < self.total:
            parts.append(f"ETA {duration(elapsed / self.done * (self.total - self.done))}")
        else:
            parts.append(f"in {duration(elapsed)}")
        return "  ".join(parts)


def short(value: float) -> str:
    """Return a number in at most four characters and a letter: 12.3k."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Return a time as people say it: 8s, 3m20s, 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
