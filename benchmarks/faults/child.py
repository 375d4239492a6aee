"""A child process that answers one question at a time, and is replaced when it dies or says nothing."""

import json
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

import psutil

START_S = 120.0
"""Longest wait for the imports of a child on a busy machine [s]."""

PATIENCE = 20
"""How much longer a case may take by the clock than by the processor."""


class Child:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, order: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer; one with `problems` if there is none after so much time of a processor."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            )  # fmt: skip
            timeout_s += START_S
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            line = _read_line(process.stdout, timeout_s, psutil.Process(process.pid))
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return json.loads(line)
        hung = process.poll() is None and line != b""
        return {"problems": [self._end(hung)]}

    def _end(self, hung: bool) -> str:
        """Stop the process; say how it had ended."""
        process = self._process
        assert process is not None
        if hung:
            process.kill()
        code = process.wait(30)
        self.close()
        return "hang" if hung else f"crash: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"

    def close(self) -> None:
        """Stop the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


def _read_line(pipe: Any, timeout_s: float, process: psutil.Process) -> bytes:
    """Read to the end of a line: nothing at the end of the pipe, and one byte, no line, where none comes in time.

    What counts is the processor's time: on a busy machine a clock says nothing. A process that waits for ever uses
    none of it, and is given `PATIENCE` times as long.
    """
    line, began, used = b"", time.monotonic(), _cpu_s(process)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if selector.select(min(timeout_s, 1.0)):
                part = pipe.read(1 << 16)
                if not part:
                    return b""
                line += part
            elif _cpu_s(process) - used > timeout_s or time.monotonic() - began > PATIENCE * timeout_s:
                return line or b"?"
    return line


def _cpu_s(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0
