"""Storage that fails: wrong keys, no bucket, no server, and a server that loses answers."""

import os
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.errors import StorageError
from engine.fits import read_hdus
from engine.s3files import CREATOR_KEY
from engine.storage import NotFoundError, ShortReadError, Storage, StorageOptions
from tests.servers import ACCESS_KEY, S3Server, free_port


def fresh(options: StorageOptions) -> StorageOptions:
    """Options that no client was made for yet: it reads the environment as it is now."""
    return options.model_copy(update={"connect_timeout_s": 4 + random.random()})


@pytest.mark.s3
class TestS3Errors:
    @pytest.fixture(params=["moto", "rgw"])
    def server(self, request: pytest.FixtureRequest) -> S3Server:
        return request.getfixturevalue(f"{request.param}_server")

    def test_missing_bucket(self, server: S3Server):
        storage, uri = Storage(server.options), "s3://no-such-bucket-here/x"
        calls = [
            storage.check_readable,
            storage.check_writable,
            storage.read,
            lambda u: list(storage.list(u)),
        ]
        calls += [lambda u: storage.put(u, b"1"), lambda u: storage.put_if_absent(u, b"1")]
        for call in calls:
            with pytest.raises(NotFoundError, match=r"^s3://no-such-bucket-here/x: bucket does not exist"):
                call(uri)

    def test_wrong_keys(self, rgw_server: S3Server, monkeypatch):
        root = rgw_server.bucket()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        storage = Storage(fresh(rgw_server.options))
        calls = [
            storage.check_readable,
            lambda u: storage.read(f"{u}/x"),
            lambda u: storage.put(f"{u}/x", b"1"),
        ]
        for call in [*calls, lambda u: storage.put_if_absent(f"{u}/x", b"1")]:
            with pytest.raises(StorageError, match="not permitted to") as caught:
                call(root)
            assert "AWS_ACCESS_KEY_ID" in str(caught.value)
            assert "not-the-secret" not in str(caught.value)

    def test_anonymous_is_refused_by_a_private_bucket(self, rgw_server: S3Server):
        options = StorageOptions(endpoint_url=rgw_server.endpoint_url, anonymous=True)
        with pytest.raises(StorageError, match="not permitted"):
            Storage(options).check_readable(rgw_server.bucket())

    def test_no_credentials(self, moto_server: S3Server, monkeypatch):
        root = moto_server.bucket()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StorageError, match=r"no credentials.*anonymous = true"):
            Storage(fresh(moto_server.options)).check_readable(root)

    def test_unreachable_endpoint(self):
        storage = Storage(StorageOptions(endpoint_url=f"http://127.0.0.1:{free_port()}", max_attempts=2))
        calls = [storage.check_readable, storage.read, lambda uri: storage.put_if_absent(uri, b"1")]
        for call in calls:
            with pytest.raises(StorageError, match=r"cannot be reached.*endpoint_url"):
                call("s3://bucket/x")

    def test_endpoint_from_the_environment(self, moto_server: S3Server, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint_url)
        uri = f"{moto_server.bucket()}/from-environment"
        Storage(fresh(StorageOptions())).put(uri, b"1")
        assert Storage(moto_server.options).read(uri) == b"1"

    def test_key_names_are_in_use(self):
        assert os.environ["AWS_ACCESS_KEY_ID"] == ACCESS_KEY


TOKEN = f"x-amz-meta-{CREATOR_KEY}"


class FaultyServer(ThreadingHTTPServer):
    """A little S3 in memory that goes wrong as told: `faults` are used up one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.faults: list[str] = []
        self.log: list[str] = []
        self.lock = threading.Lock()
        self.keeps_condition = True

    def handle_error(self, request, client_address) -> None:
        """Stay silent: clients leave as they like."""

    def storage(self, **options) -> Storage:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return Storage(
            StorageOptions(endpoint_url=url, **{"max_attempts": 3, "read_timeout_s": 0.5} | options)
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def _begin(self) -> str:
        with self.server.lock:
            self.server.log.append(self.command)
            return self.server.faults.pop(0) if self.server.faults else ""

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self._begin()
        if fault == "503":
            return self._answer(503, b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>")
        if fault == "409":
            return self._answer(409, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        is_new = self.path not in self.server.objects
        is_refused = self.headers.get("If-None-Match") == "*" and not is_new and self.server.keeps_condition
        if not is_refused and fault != "lost request":
            self.server.objects[self.path] = b"of another" if fault == "other wins" else data
            self.server.tokens[self.path] = (
                "another" if fault == "other wins" else self.headers.get(TOKEN, "")
            )
        if fault:
            return self._hang_up()
        code = b"<Error><Code>PreconditionFailed</Code></Error>" if is_refused else b""
        return self._answer(412 if is_refused else 200, code)

    def do_GET(self) -> None:
        fault = self._begin()
        data = self.server.objects.get(self.path)
        if fault == "silent":
            threading.Event().wait(2)
            return self._hang_up()
        if fault == "503":
            return self._answer(503, b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>")
        if data is None:
            is_list = "list-type" in self.path
            return self._answer(*((200, b"<ListBucketResult/>") if is_list else (404, b"")))
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            data = data[int(match[1]) : int(match[2] or len(data)) + 1]
        if fault == "short answer":
            return self._answer(206, data[: len(data) // 2])
        return self._answer(200, data, cut=fault == "broken body")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.path, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header(TOKEN, self.server.tokens.get(self.path, ""))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args) -> None:
        """Stay silent."""


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    server = FaultyServer()
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.s3
class TestLostAnswers:
    URI = "s3://bucket/ledger/unit.json"
    PATH = "/bucket/ledger/unit.json"

    @pytest.mark.parametrize(
        "faults", [["lost answer"], ["lost request"], ["503"], ["409"], ["503", "", "lost answer"]]
    )
    def test_created_although_an_answer_was_lost(self, faulty: FaultyServer, faults: list[str]):
        faulty.faults = faults
        assert faulty.storage().put_if_absent(self.URI, b"mine")
        assert faulty.objects[self.PATH] == b"mine"

    def test_not_ours_although_the_answer_was_lost(self, faulty: FaultyServer):
        faulty.faults = ["other wins"]
        assert not faulty.storage().put_if_absent(self.URI, b"mine")
        assert faulty.objects[self.PATH] == b"of another"

    def test_hidden_retry_is_recognised(self, faulty: FaultyServer):
        """The HTTP client repeats the PUT by itself, and is refused because of our own object."""
        faulty.faults = ["lost answer"]
        assert faulty.storage().put_if_absent(self.URI, b"mine")
        assert faulty.log == ["PUT", "PUT", "HEAD"]

    def test_object_of_a_plain_put_is_not_ours(self, faulty: FaultyServer):
        faulty.storage().put(self.URI, b"mine")
        assert not faulty.storage().put_if_absent(self.URI, b"mine")

    def test_gives_up(self, faulty: FaultyServer):
        faulty.faults = ["lost request"] * 50
        with pytest.raises(StorageError, match=r"unit\.json: storage cannot be reached"):
            faulty.storage().put_if_absent(self.URI, b"mine")
        assert faulty.objects == {}

    def test_server_without_conditions_is_refused(self, faulty: FaultyServer):
        faulty.keeps_condition = False
        with pytest.raises(StorageError, match=r"overwrites where it should refuse.*If-None-Match"):
            faulty.storage().check_writable("s3://bucket/catalogue")
        assert faulty.objects == {}


@pytest.mark.s3
class TestBrokenReads:
    URI = "s3://bucket/data.bin"

    @pytest.mark.parametrize("fault", ["broken body", "short answer", "503", "silent"])
    def test_tried_again(self, faulty: FaultyServer, fault: str):
        faulty.objects["/bucket/data.bin"] = bytes(range(200))
        faulty.faults = [fault]
        assert faulty.storage().read(self.URI, 50, 100) == bytes(range(50, 150))

    def test_short_answers_are_never_taken_for_data(self, faulty: FaultyServer):
        faulty.objects["/bucket/data.bin"] = bytes(range(200))
        faulty.faults = ["short answer"] * 20
        with pytest.raises(ShortReadError, match="got 50 bytes from 50; expected 100"):
            faulty.storage().read(self.URI, 50, 100)

    @pytest.mark.parametrize("fault", ["broken body", "503"])
    def test_gives_up(self, faulty: FaultyServer, fault: str):
        faulty.objects["/bucket/data.bin"] = bytes(range(200))
        faulty.faults = [fault] * 50
        with pytest.raises(StorageError, match=r"data\.bin"):
            faulty.storage().read(self.URI, 50, 100)

    def test_silent_server_does_not_hold_the_preflight(self, faulty: FaultyServer):
        faulty.faults = ["silent"] * 9
        with pytest.raises(StorageError, match="cannot be reached"):
            faulty.storage().check_readable("s3://bucket/release")
        assert len(faulty.log) == 1

    def test_network_faults_do_not_reject_a_file(self, faulty: FaultyServer):
        faulty.objects["/bucket/data.bin"] = bytes(20_000)
        faulty.faults = ["503"] * 50
        with pytest.raises(StorageError):
            read_hdus(faulty.storage(), self.URI, 20_000, ["X"], {})
