from pathlib import Path

import pytest
from astropy.table import Table

from engine.errors import ConfigError
from engine.sources.desi import DesiConfig, DesiSource
from engine.sources.desi_layout import coadd_path
from engine.units import Unit, with_ids

PIXELS = {("main", "dark"): (10, 205), ("main", "bright"): (10,), ("sv3", "dark"): (7,)}
TILE = "tiles/cumulative/80613/20210324"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Empty files in the healpix layout; a plan looks at names only."""
    root = tmp_path / "iron"
    for (survey, program), pixels in PIXELS.items():
        for pixel in pixels:
            coadd = root / coadd_path("healpix", survey, program, pixel)
            coadd.parent.mkdir(parents=True)
            stem = coadd.name.removeprefix("coadd-").removesuffix(".fits")
            for name in (
                coadd.name,
                f"redrock-{stem}.fits",
                f"spectra-{stem}.fits.gz",
                f"rrdetails-{stem}.h5",
            ):
                (coadd.parent / name).write_bytes(b"x")
    for path in ("healpix/tilepix.fits", "exposures/20210324/1/cframe-b0-1.fits"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def plan(root: Path | str, **config: object) -> list[Unit]:
    return list(DesiSource(str(root), config=DesiConfig.model_validate(config)).plan())


def keys(root: Path | str, **config: object) -> list[str]:
    return [unit.key for unit in plan(root, **config)]


ALL = ["main-bright-10", "main-dark-10", "main-dark-205", "sv3-dark-7"]


def test_layout_is_found_and_listed_in_order(release: Path) -> None:
    units = plan(release)
    assert [unit.key for unit in units] == ALL
    assert [file.role for file in units[0].files] == ["coadd", "redrock"]
    assert units[0].files[0].uri == str(release / coadd_path("healpix", "main", "bright", 10))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"surveys": ["main"]}, ALL[:3]),
        ({"programs": ["dark"]}, ALL[1:]),
        ({"surveys": ["sv3", "main"], "programs": ["dark"]}, ALL[1:]),
        ({"surveys": ["main"], "programs": ["dark"], "pixels": [205, 9]}, ["main-dark-205"]),
        ({"surveys": ["cmx"]}, []),
    ],
)
def test_selection(release: Path, config: dict[str, object], expected: list[str]) -> None:
    assert keys(release, **config) == expected
    assert keys(release / "healpix", **config) == expected  # also from inside the layout


def test_selected_pixels_are_all_that_is_listed(release: Path) -> None:
    source = DesiSource(
        str(release), config=DesiConfig(layout="healpix", surveys=("main",), programs=("dark",), pixels=(10,))
    )
    listed: list[str] = []
    storage = source._storage
    original = storage.list
    storage.list = lambda prefix, suffix="": listed.append(prefix) or original(prefix, suffix)  # type: ignore[method-assign] # watches
    assert [unit.key for unit in source.plan()] == ["main-dark-10"]
    assert listed == [str(release / "healpix/main/dark/0/10")]


def test_tiles_layout(tmp_path: Path) -> None:
    for tile in ("80613", "80614"):
        folder = tmp_path / TILE.replace("80613", tile)
        folder.mkdir(parents=True)
        for name in (f"coadd-4-{tile}-thru20210324.fits", f"redrock-4-{tile}-thru20210324.fits"):
            (folder / name).write_bytes(b"x")
    assert keys(tmp_path) == ["tile-80613-4-20210324", "tile-80614-4-20210324"]
    assert keys(tmp_path, tiles=[80614]) == ["tile-80614-4-20210324"]


def test_uniqpix_layout(tmp_path: Path) -> None:
    coadd = tmp_path / coadd_path("uniqpix", "main", "dark", 39424)
    coadd.parent.mkdir(parents=True)
    coadd.write_bytes(b"x")
    assert str(coadd).endswith("spectra/main/dark/394/39424/coadd-main-dark-39424.fits")
    assert keys(tmp_path) == ["main-dark-39424"]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"tiles": [1]}, "tiles cannot select"),
        ({"layout": "tiles", "surveys": ["main"]}, "surveys cannot select"),
        ({"layout": "flat", "pixels": [1]}, "pixels cannot select"),
        ({"pixels": [10]}, "without surveys and programs"),
    ],
)
def test_selection_that_means_nothing_is_refused(
    release: Path, config: dict[str, object], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        plan(release, **config)


def test_release_without_files_has_no_units(tmp_path: Path) -> None:
    assert plan(tmp_path / "nothing") == []


def test_text_index_names_what_is_missing(release: Path, tmp_path: Path) -> None:
    there, gone = coadd_path("healpix", "main", "dark", 205), coadd_path("healpix", "main", "dark", 999)
    index = tmp_path / "index.txt"
    index.write_text(
        f"# coadds\n{gone}\n\n{release / there}  # whole path\n".replace(str(release), f"file://{release}")
    )
    units = plan(release, index_uri=str(index))
    assert [unit.key for unit in units] == ["main-dark-205", "main-dark-999"]
    assert (units[1].files, units[1].missing) == ((), (str(release / gone),))


@pytest.mark.parametrize("few", [0, 500])
def test_fits_index_is_selected_like_the_release(
    release: Path, tmp_path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.sources.desi_plan.FEW_FILES", few)
    table = Table(
        {
            "SURVEY": ["main", "main", "sv3"],
            "PROGRAM": ["dark"] * 3,
            "HEALPIX": [10, 11, 7],
            "TILEID": [1, 2, 3],
        }
    )
    table.write(tmp_path / "tilepix.fits")
    index = str(tmp_path / "tilepix.fits")
    assert keys(release, index_uri=index) == ["main-dark-10", "sv3-dark-7", "main-dark-11"]
    assert keys(release, index_uri=index, surveys=["main"]) == ["main-dark-10", "main-dark-11"]


def test_index_that_is_none_is_refused(release: Path, tmp_path: Path) -> None:
    (tmp_path / "i.bin").write_bytes(b"\xff\xfe\x00")
    Table({"A": [1]}).write(tmp_path / "i.fits")
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = nonsense")
    for name, match in (("i.bin", "neither"), ("i.fits", "lacks columns"), ("broken.fits", "cannot be read")):
        with pytest.raises(ConfigError, match=match):
            plan(release, index_uri=str(tmp_path / name))


def test_units_change_with_their_files_only(release: Path) -> None:
    before = with_ids(plan(release), {})
    (release / coadd_path("healpix", "main", "dark", 205)).write_bytes(b"other content")
    after = with_ids(plan(release), {})
    assert [a.id == b.id for a, b in zip(before, after, strict=True)] == [True, True, False, True]
