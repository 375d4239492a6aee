"""A child process that answers one question at a time, and is replaced when it dies or says nothing."""

import json
import selectors
import signal
import subprocess
import sys
from typing import Any

START_S = 120.0
"""Longest wait for the imports of a child on a busy machine [s]."""


class Child:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, order: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer; one with `problems` if there is none."""
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
            line = _read_line(process.stdout, timeout_s)
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


def _read_line(pipe: Any, timeout_s: float) -> bytes:
    """Read to the end of a line: less at the end of the pipe, and one byte, no line, where nothing comes in time."""
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(timeout_s):
                return line or b"?"
            part = pipe.read(1 << 16)
            if not part:
                return b""
            line += part
    return line
