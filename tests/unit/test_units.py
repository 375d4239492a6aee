from dataclasses import asdict, replace

from engine.units import FileRef, Unit, content_hash, with_ids

UNIT = Unit("main-dark-1", (FileRef("s3://b/coadd.fits", 10, "etag", "coadd"),), ("s3://b/gone.fits",))


def test_json_round_trip() -> None:
    assert Unit.from_json(UNIT.to_json()) == UNIT


def test_ids_depend_on_files_and_salt_and_nothing_else() -> None:
    ids = [unit.id for unit in with_ids([UNIT, replace(UNIT, id="old")], {"checkpoint": "a"})]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 32
    changed = replace(UNIT, files=(replace(UNIT.files[0], fingerprint="other"),))
    assert with_ids([changed], {"checkpoint": "a"})[0].id != ids[0]
    assert with_ids([UNIT], {"checkpoint": "b"})[0].id != ids[0]


def test_content_hash_is_a_fixed_function() -> None:
    assert content_hash({"b": 1, "a": [2.5, None]}) == content_hash({"a": [2.5, None], "b": 1})


def test_file_by_role() -> None:
    coadd = UNIT.file("coadd")
    assert coadd is not None
    assert coadd.size == UNIT.num_bytes == 10
    assert UNIT.file("redrock") is None


def test_ids_are_hashes_of_what_the_unit_is_and_the_salt() -> None:
    unit = Unit(
        "kéy", (FileRef("s3://b/ä", 3, "f"), FileRef("s3://b/c", 4, "g", "redrock")), missing=("s3://b/d",)
    )
    salt = {"settings": {"b": 1, "a": [1.5, None]}, "model": "x"}
    (made,) = with_ids([unit], salt)
    assert made.id == content_hash([asdict(unit), salt])
    assert replace(made, id="") == unit
    assert with_ids([made], salt) == [made], "an id that is there does not count"
