"""Objects of an S3 server with the guarantees that `engine.storage` gives; errors are those of the SDK."""

import os
import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

import s3fs
from botocore.exceptions import BotoCoreError
from botocore.exceptions import ConnectionError as ConnectFailure
from s3fs.core import S3_RETRYABLE_ERRORS

from engine.locations import FileInfo, Page, StorageOptions, bucket_and_key

BLOCK_BYTES = 1 << 20
"""Read-ahead of `S3Files.open` [bytes]; larger reads are one request each."""

PART_BYTES, PARTS_AT_ONCE = 64 << 20, 2
"""Parts of what `S3Files.writing` puts: 10,000 are allowed, two are held in memory."""

CREATOR_KEY = "created-by"
"""Metadata of objects made by `S3Files.create`: a random token of the call."""

PROBE_TIMEOUT_S = 10.0
"""Longest wait for an answer in a preflight [s]."""


class S3Files:
    """Objects of an S3 server. Clients are made when first used, anew after a fork."""

    def __init__(self, options: StorageOptions) -> None:
        self.options = options
        self._clients: dict[tuple[int, str], Any] = {}

    def filesystem(self, kind: str = "patient") -> Any:
        """Return the client of a kind, see `_connect`."""
        key = (os.getpid(), kind)
        if key not in self._clients:
            self._clients[key] = _connect(self.options, kind)
        return self._clients[key]

    def read(self, path: str, start: int, length: int | None) -> bytes:
        """Return `length` bytes from `start` on, fewer where the object ends."""
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
        """Return size and fingerprint."""
        bucket, key = bucket_and_key(path)
        head = self.filesystem().call_s3("head_object", Bucket=bucket, Key=key)
        etag, modified_s = head["ETag"].strip('"'), head["LastModified"].timestamp()
        return FileInfo(path, head["ContentLength"], etag, modified_s)

    def list(self, path: str) -> Iterator[Page]:
        """Yield the objects below a folder in the order of their names, a page at a time."""
        bucket, key = bucket_and_key(path)
        query = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
        while True:
            page = self.filesystem().call_s3("list_objects_v2", **query)
            yield [
                _listed(bucket, item)
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")  # markers of folders that some tools leave
            ]
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def unfinished(self, path: str) -> Iterator[Page]:  # noqa: ARG002 - as of `LocalFiles`
        """Yield nothing: an object is there when it is whole."""
        yield from ()

    def put(self, path: str, data: bytes) -> None:
        """Write an object."""
        self.filesystem().pipe_file(path, data)

    @contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """Give a path of this machine to write to; at the end of the block the file is put.

        A large one in parts, which become an object at the end.
        """
        with tempfile.NamedTemporaryFile() as file:
            yield file.name
            self.filesystem().put_file(file.name, path, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

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
            pause(attempt)
        raise lost or AssertionError("not reached")

    def _token(self, bucket: str, key: str) -> str | None:
        """Token of the object that is there, "" if it was made without one, None if there is none."""
        try:
            head = self.filesystem().call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return head.get("Metadata", {}).get(CREATOR_KEY, "")

    def delete(self, path: str) -> None:
        """Remove an object if there is one."""
        bucket, key = bucket_and_key(path)
        self.filesystem().call_s3("delete_object", Bucket=bucket, Key=key)

    def open(self, path: str) -> BinaryIO:
        """Open for reading with seek."""
        return self.filesystem().open(path, "rb", block_size=BLOCK_BYTES)

    def probe(self, path: str) -> bool:
        """Tell within seconds whether there is an object, or one below the folder."""
        bucket, key = bucket_and_key(path)
        prefix = f"{key.rstrip('/')}/" if key else ""
        fs = self.filesystem("probe")
        if fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
            return True
        try:
            return bool(key) and bool(fs.call_s3("head_object", Bucket=bucket, Key=key))
        except FileNotFoundError:
            return False

    def clock_s(self, path: str) -> float:
        """Return the time that the server tells with an answer, in whole seconds; ours if it tells none [s, Unix time]."""
        bucket, key = bucket_and_key(path)
        page = self.filesystem().call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date).timestamp() if date else time.time()


def _listed(bucket: str, item: dict[str, Any]) -> FileInfo:
    uri, etag = f"s3://{bucket}/{item['Key']}", item["ETag"].strip('"')
    return FileInfo(uri, item["Size"], etag, item["LastModified"].timestamp())


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


def pause(attempt: int) -> None:
    """Wait longer with every attempt [s], and not at the same time as others."""
    time.sleep(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))
