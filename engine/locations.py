"""Names of files and objects, what a listing says of them, and how their server is reached."""

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from engine.config import Config
from engine.errors import StorageError


class NotFoundError(StorageError):
    """The file, object, folder or bucket does not exist."""


class ShortReadError(StorageError):
    """The file or object ends before the range that was asked for."""


class StorageOptions(Config):
    """How to reach object storage. No credentials: they are read from `AWS_*` when used."""

    endpoint_url: str | None = None
    """Server of an S3 that is not Amazon's, e.g. http://host:7480; None: Amazon or AWS_ENDPOINT_URL."""
    anonymous: bool = False
    """Do not sign requests: for public buckets."""
    region: str | None = None
    """Region to sign for; None: from the environment, or found by the first redirect."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name goes; auto is path for an endpoint of your own, virtual for Amazon."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """Wait for a connection [s]."""
    read_timeout_s: float = Field(default=60.0, gt=0)
    """Wait for the next bytes of an answer [s]."""
    max_attempts: int = Field(default=5, ge=1, le=20)
    """Tries of one request when the server is busy or the connection breaks."""
    max_connections: int = Field(default=32, ge=1)
    """Connections that one process keeps open."""

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise ValueError("must not hold credentials; use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://host:port")
        return value


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file or object as listed.

    `fingerprint` changes when the content does: the ETag on S3, size and time of change [ns] locally.
    `modified_s` is when it was written by the clock of the storage [s, Unix time]; equality leaves it out.
    """

    uri: str
    size: int
    fingerprint: str
    modified_s: float = field(default=0.0, compare=False)


Page = list[FileInfo]
"""Part of a listing, as large as one request of object storage gives."""


def canonical(uri: str) -> str:
    """Return the one form of a URI that listings use: `s3://bucket/key` or an absolute local path.

    Raises
    ------
    StorageError
        If the scheme is not known or the path is not a plain one.
    """
    scheme, separator, rest = uri.partition("://")
    if any(ord(char) < 32 for char in uri) or not uri:
        raise StorageError("is not a usable URI", repr(uri))
    if not separator:
        return os.path.abspath(uri)  # noqa: PTH100 - resolves "..", which pathlib does not
    if scheme == "file" and rest.startswith("/"):
        return os.path.abspath(rest)  # noqa: PTH100
    segments = rest.split("/")
    if "@" in segments[0]:
        hint = "They come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise StorageError("a URI must not hold credentials", uri, hint=hint)
    if scheme == "s3" and segments[0] and not {".", ".."} & set(segments):
        return uri
    raise StorageError("is not a usable URI", uri, expected="s3://bucket/key, file:///path or a local path")


def web_address(url: str) -> str:
    """Return an http(s) URL as it is.

    Raises
    ------
    StorageError
        If it holds a user or password: what reads it would write it down.
    """
    if "@" in urlsplit(url).netloc:
        hint = "A presigned URL can be given; its signature is written nowhere."
        raise StorageError("a URL must not hold credentials", url, expected="https://host/path", hint=hint)
    return url


def without_query(uri: str) -> str:
    """Return a URI as it may be written down: of a URL without what follows its path, where signatures stand."""
    return uri.partition("?")[0] if uri.startswith(("https://", "http://")) else uri


def is_object(uri: str) -> bool:
    """Whether a URI is of object storage."""
    return uri.startswith("s3://")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key`; the key of a bucket itself is empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join(uri: str, *parts: str) -> str:
    """Append parts to a URI; a part may hold slashes, but cannot lead out of the URI."""
    for part in parts:
        if part.startswith("/") or "://" in part or ".." in part.split("/"):
            raise StorageError("path leads out of its folder", uri, repr(part), "a relative path")
    named = [part.rstrip("/") for part in parts if part]
    return "/".join([uri.rstrip("/"), *named]) if named else uri
