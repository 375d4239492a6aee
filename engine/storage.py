"""Files and objects by URI: the only module that knows storage SDKs.

`s3://bucket/key`, `file:///absolute/path` and plain local paths mean the same everywhere in the
project. Credentials come from the environment (`AWS_*`) alone and are never held here.

Not here: multi-part uploads, versions of objects, rights. Listing and reading go straight to the
server every time; nothing is cached.
"""

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import fsspec
import s3fs
from botocore.exceptions import (
    BotoCoreError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as ConnectFailure
from s3fs.core import S3_RETRYABLE_ERRORS

from engine.errors import StorageError
from engine.localfiles import LocalFiles
from engine.locations import (
    FileInfo,
    NotFoundError,
    ShortReadError,
    StorageOptions,
    bucket_and_key,
    canonical,
    join,
)

T = TypeVar("T")

BLOCK_BYTES = 1 << 20
"""Read-ahead of `open_input` [bytes]; larger reads are one request each."""

CREATOR_KEY = "created-by"
"""Metadata of objects made by `put_if_absent`: a random token of the call."""

PROBE_TIMEOUT_S = 10.0
"""Longest wait for an answer in a preflight [s]."""


class Storage:
    """Read, list and write files and objects. Picklable, cheap, safe to use after a fork.

    `bytes_fetched` and `num_requests` count what `read` got in this process through this object.

    Parameters
    ----------
    options
        How to reach object storage; has no meaning for local files.
    """

    def __init__(self, options: StorageOptions | None = None) -> None:
        self.options = options or StorageOptions()
        self.bytes_fetched = 0
        self.num_requests = 0
        self._local = LocalFiles()
        self._s3 = _S3(self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["options"])

    def __repr__(self) -> str:
        return f"Storage({self.options!r})"

    def read(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start` on (all that is left if None).

        Raises
        ------
        NotFoundError
            If there is no such file or object.
        ShortReadError
            If it ends before `start + length`.
        StorageError
            If it cannot be read, after some attempts.
        """
        if start < 0 or (length is not None and length < 0):
            raise ValueError(f"start and length must not be negative (got {start}, {length})")
        if length == 0:
            return b""
        backend, path = self._backend(uri)
        return _retry(lambda: self._read_once(backend, path, start, length), self.options, uri, "read")

    def _read_once(self, backend: "LocalFiles | _S3", path: str, start: int, length: int | None) -> bytes:
        self.num_requests += 1
        data = backend.read(path, start, length)
        self.bytes_fetched += len(data)
        if length is not None and len(data) != length:
            raise ShortReadError("ends too early", path, f"{len(data)} bytes from {start}", f"{length}")
        return data

    def info(self, uri: str) -> FileInfo:
        """Return size and fingerprint; `NotFoundError` if it does not exist."""
        backend, path = self._backend(uri)
        return _explained(lambda: backend.info(path), uri, "look at")

    def exists(self, uri: str) -> bool:
        """Tell whether there is a file or object of exactly this name (folders do not count)."""
        try:
            self.info(uri)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str, suffix: str = "") -> Iterator[FileInfo]:
        """Yield everything below a folder whose name ends with `suffix`, in order of its name.

        Lazy: a listing of a million objects is read in pages, and local folders one at a time. The
        order is that of the bytes of the names on every kind of storage. Empty where there is no such
        folder; a missing bucket is an error.
        """
        backend, path = self._backend(prefix, is_folder=True)
        pages = backend.list(path)
        while True:
            page = _explained(lambda: next(pages, None), prefix, "list")
            if page is None:
                return
            yield from (file for file in page if file.uri.endswith(suffix))

    def put(self, uri: str, data: bytes) -> None:
        """Write a file or object as a whole: readers see the old content or the new, nothing between."""
        backend, path = self._backend(uri)
        _explained(lambda: backend.put(path, data), uri, "write")

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Create a file or object unless there is one; of many callers at once one gets True.

        Where the answer got lost (timeout, broken connection, conflict) a token that goes with the
        object tells whether it is ours.
        """
        backend, path = self._backend(uri)
        return _explained(lambda: backend.create(path, data), uri, "create")

    def delete(self, uri: str) -> None:
        """Remove a file or object; no error if there is none."""
        backend, path = self._backend(uri)
        _explained(lambda: backend.delete(path), uri, "delete")

    def open_input(self, uri: str) -> BinaryIO:
        """Open for reading with seek, as pyarrow wants it. Not counted in `bytes_fetched`."""
        backend, path = self._backend(uri)
        return _explained(lambda: backend.open(path), uri, "open")

    def filesystem(self, uri: str) -> Any:
        """Return the fsspec file system of a URI, for libraries that want one (DuckDB, HATS)."""
        backend = self._backend(uri, is_folder=True)[0]
        return backend.filesystem() if isinstance(backend, _S3) else fsspec.filesystem("file")

    def check_readable(self, uri: str) -> None:
        """Check within seconds that there is something to read at a file or folder.

        Raises
        ------
        StorageError
            Saying which it is: no endpoint, no bucket, no permission, or nothing there.
        """
        backend, path = self._backend(uri, is_folder=True)
        if not _explained(lambda: backend.probe(path), uri, "list"):
            raise NotFoundError("there is nothing", uri, hint="Check the spelling.")

    def check_writable(self, root: str) -> None:
        """Check within seconds that a folder can be written, and that "create if absent" is kept.

        Some servers ignore `If-None-Match`; there two jobs could publish the same version.
        """
        uri = self.join(root, f".probe-{uuid.uuid4().hex}")
        _explained(lambda: self._backend(root, is_folder=True)[0].probe(canonical(root)), root, "list")
        is_new = self.put_if_absent(uri, b"first")
        try:
            kept = is_new and not self.put_if_absent(uri, b"second")
        finally:
            self.delete(uri)
        if not kept:
            raise StorageError(
                "storage overwrites where it should refuse",
                root,
                hint="It does not honour If-None-Match; use another server for the catalogue.",
            )

    @staticmethod
    def join(uri: str, *parts: str) -> str:
        """Append parts to a URI; a part may hold slashes, but cannot lead out of the URI."""
        return join(uri, *parts)

    def _backend(self, uri: str, is_folder: bool = False) -> "tuple[LocalFiles | _S3, str]":
        path = canonical(uri)
        if not path.startswith("s3://"):
            return self._local, path
        if not is_folder and (path.count("/") < 3 or path.endswith("/")):
            raise StorageError("names a bucket or folder", uri, expected="s3://bucket/key")
        return self._s3, path


class _S3:
    """Objects of an S3 server. Clients are made when first used, anew after a fork."""

    def __init__(self, options: StorageOptions) -> None:
        self.options = options
        self._clients: dict[tuple[int, str], Any] = {}

    def filesystem(self, kind: str = "patient") -> Any:
        key = (os.getpid(), kind)
        if key not in self._clients:
            self._clients[key] = _connect(self.options, kind)
        return self._clients[key]

    def read(self, path: str, start: int, length: int | None) -> bytes:
        if start == 0 and length is None:  # one GET, without the HEAD that s3fs would send first
            return self.filesystem().cat_file(path, max_concurrency=1)
        end = None if length is None else start + length
        try:
            return self.filesystem().cat_file(path, start=start, end=end)
        except OSError as error:
            if _status(error) == 416:
                return b""
            raise

    def info(self, path: str) -> FileInfo:
        bucket, key = bucket_and_key(path)
        head = self.filesystem().call_s3("head_object", Bucket=bucket, Key=key)
        return FileInfo(path, head["ContentLength"], head["ETag"].strip('"'))

    def list(self, path: str) -> Iterator[list[FileInfo]]:
        bucket, key = bucket_and_key(path)
        query = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
        while True:
            page = self.filesystem().call_s3("list_objects_v2", **query)
            yield [
                FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")  # markers of folders that some tools leave
            ]
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def put(self, path: str, data: bytes) -> None:
        self.filesystem().pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Create with a token, which tells whose object is there when the server says "exists".

        aiohttp repeats a PUT whose answer was lost without telling, so a refusal may be due to our
        own first attempt. One PUT: servers ignore the condition on multi-part uploads.
        """
        bucket, key = bucket_and_key(path)
        token = uuid.uuid4().hex
        put = {"Bucket": bucket, "Key": key, "Body": data, "Metadata": {CREATOR_KEY: token}}
        lost: Exception | None = None
        for attempt in range(self.options.max_attempts):
            try:
                self.filesystem("single").call_s3("put_object", IfNoneMatch="*", **put)
                return True
            except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
                if not _is_ambiguous(error):
                    raise
                lost = error
            owner = self._token(bucket, key)
            if owner is not None:
                return owner == token
            _pause(attempt)
        raise lost or AssertionError("not reached")

    def _token(self, bucket: str, key: str) -> str | None:
        """Token of the object that is there, "" if it was made without one, None if there is none."""
        try:
            head = self.filesystem().call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return head.get("Metadata", {}).get(CREATOR_KEY, "")

    def delete(self, path: str) -> None:
        bucket, key = bucket_and_key(path)
        self.filesystem().call_s3("delete_object", Bucket=bucket, Key=key)

    def open(self, path: str) -> BinaryIO:
        return self.filesystem().open(path, "rb", block_size=BLOCK_BYTES)

    def probe(self, path: str) -> bool:
        bucket, key = bucket_and_key(path)
        prefix = f"{key.rstrip('/')}/" if key else ""
        fs = self.filesystem("probe")
        if fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
            return True
        try:
            return bool(key) and bool(fs.call_s3("head_object", Bucket=bucket, Key=key))
        except FileNotFoundError:
            return False


def _connect(options: StorageOptions, kind: str) -> Any:
    """Make a client: "patient" tries again, "single" does not, "probe" does not and gives up soon.

    Equal options in one process and thread share a client (fsspec sees to that, also after a fork).
    """
    read_timeout_s = (
        min(options.read_timeout_s, PROBE_TIMEOUT_S) if kind == "probe" else options.read_timeout_s
    )
    fs = s3fs.S3FileSystem(
        anon=options.anonymous,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs={
            "connect_timeout": options.connect_timeout_s,
            "read_timeout": read_timeout_s,
            "retries": {
                "mode": "standard",
                "total_max_attempts": options.max_attempts if kind == "patient" else 1,
            },
            "max_pool_connections": options.max_connections,
            "s3": {"addressing_style": options.addressing_style},
            # Servers other than Amazon's answer 411 to the chunked checksums of newer clients.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
    )
    fs.retries = 1  # botocore tries again already; both together would take minutes
    return fs


def _status(error: BaseException | None) -> int:
    """HTTP status behind an error that s3fs translated, 0 if none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if isinstance(error, FileExistsError):
            return 412
        error = error.__cause__
    return 0


def _is_ambiguous(error: BaseException) -> bool:
    """Whether the server may or may not have done what was asked."""
    status = _status(error)
    if status:
        return status in (408, 409, 412, 429) or status >= 500
    return isinstance(error, (*S3_RETRYABLE_ERRORS, ConnectFailure, ConnectionError))


def _retry(call: Callable[[], T], options: StorageOptions, uri: str, verb: str) -> T:
    """Repeat a read whose body broke off; what botocore has tried itself is not tried again."""
    for attempt in range(options.max_attempts):
        try:
            return _explained(call, uri, verb)
        except StorageError as error:
            is_broken = isinstance(
                error.__cause__, (*S3_RETRYABLE_ERRORS, IncompleteReadError, ConnectionError)
            )
            is_short = isinstance(error, ShortReadError) and attempt == 0
            if attempt == options.max_attempts - 1 or not (is_broken or is_short):
                raise
        _pause(attempt)
    raise AssertionError("not reached")


def _pause(attempt: int) -> None:
    time.sleep(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))


def _explained(call: Callable[[], T], uri: str, verb: str) -> T:
    """Run `call`; turn errors of the operating system and the SDK into a `StorageError`."""
    try:
        return call()
    except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
        raise _explain(error, uri, verb) from error


def _explain(error: BaseException, uri: str, verb: str) -> StorageError:
    text = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        is_bucket = "NoSuchBucket" in str(error.__cause__)
        return NotFoundError("bucket does not exist" if is_bucket else "does not exist", uri)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous = true for a public bucket."
        return StorageError("no credentials", uri, hint=hint)
    if isinstance(error, PermissionError):
        hint = "Check the permissions, and on S3 the keys (AWS_ACCESS_KEY_ID) and the region."
        return StorageError(f"not permitted to {verb}", uri, text, hint=hint)
    if isinstance(error, HTTPClientError | ConnectFailure | ConnectionError | TimeoutError):
        hint = "Check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network."
        return StorageError("storage cannot be reached", uri, text, hint=hint)
    return StorageError(f"failed to {verb}", uri, text)
