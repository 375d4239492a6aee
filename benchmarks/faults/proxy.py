"""A proxy in front of an S3 server that loses, delays and damages answers, at rates and with a seed.

It passes requests on byte by byte with their headers, the one that says which host included, so signatures stay valid.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("slow down", "reset", "lost answer", "stall", "stalled body", "truncated", "wrong etag")
"""503 before the server sees the request; connection reset before and after it has done it; silence; half of a body,
then silence; half of a body, then the end; another ETag than the object's."""

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "te", "upgrade"}
)


class FaultProxy(ThreadingHTTPServer):
    """The proxy; `url` is its endpoint.

    Parameters
    ----------
    target
        Endpoint of the server, http://host:port.
    rates
        Probability of each of `FAULTS` that a request meets.
    seed
        Of the draws; which request gets which depends on the order in which they come.
    stall_s
        Length of a silence [s].

    Attributes
    ----------
    counts
        Faults so far, and "requests".
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, target: str, rates: Mapping[str, float] | None = None, seed: int = 1, stall_s: float = 5.0
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.rates, self.stall_s = urlsplit(target).netloc, dict(rates or {}), stall_s
        self.counts: Counter[str] = Counter()
        self.is_down = False
        self._rng, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        """Endpoint for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str:
        """Return the fault of the next request, "" for none."""
        with self._lock:
            self.counts["requests"] += 1
            number = self._rng.random()
            for fault, rate in self.rates.items():
                number -= rate
                if number < 0:
                    self.counts[fault] += 1
                    return fault
        return ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients leave as they like."""


@contextmanager
def running(proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Answer requests inside the `with`."""
    thread = threading.Thread(target=proxy.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = "reset" if self.server.is_down else self.server.draw()
        if fault == "slow down":
            return self._send(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        if fault == "stall":
            time.sleep(self.server.stall_s)
            return self._reset()
        if fault == "reset":
            return self._reset()
        status, headers, data = self._forward(body)
        if fault == "lost answer":
            return self._reset()
        if fault == "wrong etag":
            headers = [(name, '"0badc0de"' if name.lower() == "etag" else value) for name, value in headers]
        return self._send(status, headers, data, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - names that the server asks for

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_HEADERS:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, fault: str = "") -> None:
        self.send_response_only(status)
        length = {name.lower(): value for name, value in headers}.get("content-length", "0")
        for name, value in headers:
            if name.lower() not in HOP_HEADERS | {"content-length"}:
                self.send_header(name, value)
        # The answer to HEAD has the length of an object, and no body.
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        is_cut = fault in ("truncated", "stalled body")
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if fault == "stalled body":
            self.wfile.flush()
            time.sleep(self.server.stall_s)
        if is_cut:
            self._reset()

    def _reset(self) -> None:
        """End the connection as a machine does that has gone: by RST."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""
