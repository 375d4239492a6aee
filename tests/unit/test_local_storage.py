"""URIs, and what only local files can do wrong."""

import os
from itertools import islice

import pytest

from engine.errors import StorageError
from engine.locations import canonical
from engine.storage import Storage, StorageOptions


class TestUris:
    @pytest.mark.parametrize(
        "uri",
        ["", "http://host/x", "gs://bucket/x", "s3://", "s3:///key", "s3://bucket/../other/x", "s3://b/a/./x",
         "file://host/x", "file://relative", "a\nb", "s3://bucket/a\0b"],
    )  # fmt: skip
    def test_odd_uris_are_refused(self, uri: str):
        with pytest.raises(StorageError, match="not a usable URI"):
            Storage().read(uri)

    @pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/"])
    def test_a_bucket_is_no_object(self, uri: str):
        with pytest.raises(StorageError, match="bucket or folder"):
            Storage().put(uri, b"")

    @pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", "s3://other/x", ".."])
    def test_join_stays_inside(self, part: str):
        with pytest.raises(StorageError, match="leads out"):
            Storage.join("s3://bucket/root", part)

    @pytest.mark.parametrize(
        ("parts", "joined"),
        [(("s3://b", "x"), "s3://b/x"), (("s3://b/r/", "a/b", "c"), "s3://b/r/a/b/c"), (("/", "x"), "/x"),
         (("s3://b/r", ""), "s3://b/r"), (("r", "a", "", "b"), "r/a/b"), (("/r", "..x"), "/r/..x")],
    )  # fmt: skip
    def test_join(self, parts: tuple[str, ...], joined: str):
        assert Storage.join(*parts) == joined

    def test_local_forms_are_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Storage().put("a/x", b"1")
        forms = ["a", f"{tmp_path}/a", f"file://{tmp_path}/a", "./b/../a/"]
        assert {canonical(form) for form in forms} == {f"{tmp_path}/a"}
        listed = [[file.uri for file in Storage().list(form)] for form in forms]
        assert listed == [[f"{tmp_path}/a/x"]] * 4

    @pytest.mark.parametrize(
        "url", ["host:9000", "ftp://host", "http://key:secret@host:9000", "http://", "https://key@host"]
    )
    def test_odd_endpoints_are_refused(self, url: str):
        with pytest.raises(ValueError, match="endpoint_url"):
            StorageOptions(endpoint_url=url)


class TestLocal:
    def test_folder_links_that_loop_end(self, tmp_path):
        Storage().put(str(tmp_path / "a/x"), b"1")
        (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "link").symlink_to(tmp_path / "a/x")
        (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
        names = [file.uri.removeprefix(f"{tmp_path}/") for file in Storage().list(str(tmp_path))]
        assert names == ["a/x", "link"]

    def test_unfinished_files_are_not_listed(self, tmp_path):
        (tmp_path / ".0123.tmp").write_bytes(b"half")
        (tmp_path / "x.tmp").write_bytes(b"whole")
        assert [file.uri for file in Storage().list(str(tmp_path))] == [str(tmp_path / "x.tmp")]

    def test_mode_follows_umask(self, tmp_path):
        old = os.umask(0o022)
        try:
            Storage().put(str(tmp_path / "x"), b"1")
        finally:
            os.umask(old)
        assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644

    def test_failed_write_keeps_the_old(self, tmp_path, monkeypatch):
        uri = str(tmp_path / "x")
        Storage().put(uri, b"old")

        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match=r"x: failed to write; got .*No space left"):
            Storage().put(uri, b"new")
        with pytest.raises(StorageError, match="No space left"):
            Storage().put_if_absent(f"{uri}2", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert Storage().read(uri) == b"old"

    def test_file_in_the_way_of_a_folder(self, tmp_path):
        Storage().put(str(tmp_path / "x"), b"1")
        with pytest.raises(StorageError, match="x/y"):
            Storage().put(str(tmp_path / "x/y"), b"1")
        assert list(Storage().list(str(tmp_path / "x"))) == []

    def test_listing_is_lazy(self, tmp_path, monkeypatch):
        for number in range(20):
            Storage().put(str(tmp_path / f"{number:02d}/x"), b"1")
        opened, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: opened.append(path) or scandir(path))
        assert len(list(islice(Storage().list(str(tmp_path)), 2))) == 2
        assert len(opened) < 6
