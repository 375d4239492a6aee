import pytest

from engine.sources.desi_layout import (
    coadd_path,
    healpix_to_uniqpix,
    identify,
    is_coadd,
    pair,
)
from engine.storage import FileInfo

DR1 = "s3://desidata/public/dr1/spectro/redux/iron/"


def files(*uris: str) -> list[FileInfo]:
    return [FileInfo(uri, 10, "f") for uri in sorted(uris)]


@pytest.mark.parametrize(
    ("uri", "survey", "program", "key"),
    [
        (DR1 + "healpix/sv3/dark/260/26065/coadd-sv3-dark-26065.fits", "sv3", "dark", "sv3-dark-26065"),
        (
            "/d/spectra/main/dark1b/394/39420/coadd-main-dark1b-39420.fits",
            "main",
            "dark1b",
            "main-dark1b-39420",
        ),
        ("/d/coadd-special-other-12.fits.gz", "special", "other", "special-other-12"),
        ("/tiles/cumulative/80613/20210324/coadd-4-80613-thru20210324.fits", "", "", "tile-80613-4-20210324"),
        ("/d/coadd-bgs-66003-20200315.fits", "", "", "coadd-bgs-66003-20200315"),
        ("/d/anything.fits.gz", "", "", "anything"),
    ],
)
def test_path_says_survey_and_program(uri: str, survey: str, program: str, key: str) -> None:
    said = identify(uri)
    assert (said.survey, said.program, said.key) == (survey, program, key)


def test_path_is_what_identify_reads() -> None:
    for layout in ("healpix", "uniqpix"):
        path = coadd_path(layout, "main", "bright", 23040)
        assert path.endswith("/main/bright/230/23040/coadd-main-bright-23040.fits")
        said = identify(path)
        assert (said.survey, said.program, said.pixel, said.from_folders) == ("main", "bright", 23040, True)


def test_uniqpix_numbers_the_cells_of_all_orders_without_gap_or_overlap() -> None:
    """UNIQPIX = HEALPIX + 4 NSIDE^2; NSIDE is 64 in the release."""
    numbers = [healpix_to_uniqpix(order, pixel) for order in range(5) for pixel in range(12 * 4**order)]
    assert numbers == list(range(4, 4**6))
    assert healpix_to_uniqpix(6, 23040) == 23040 + 4 * 64**2


def test_redshifts_are_put_with_their_coadd() -> None:
    listed = files(
        "/a/coadd-x.fits", "/a/redrock-x.fits", "/a/spectra-x.fits.gz", "/b/coadd-x.fits", "/b/rrdetails-x.h5"
    )
    found = list(pair(listed, "healpix"))
    assert [item.coadd.uri for item in found] == ["/a/coadd-x.fits", "/b/coadd-x.fits"]
    assert found[0].redshifts is not None
    assert found[0].redshifts.uri == "/a/redrock-x.fits"
    assert found[1].redshifts is None


def test_old_and_gzipped_redshift_files_are_found() -> None:
    listed = files("/a/coadd-x.fits.gz", "/a/zbest-x.fits", "/a/coadd-y.fits", "/a/redrock-y.fits.gz")
    assert [item.redshifts and item.redshifts.uri for item in pair(listed, "flat")] == [
        "/a/zbest-x.fits",
        "/a/redrock-y.fits.gz",
    ]


def test_folder_between_coadd_and_redshifts_does_not_part_them() -> None:
    listed = files("/a/coadd-x.fits", "/a/logs/coadd.log", "/a/redrock-x.fits")
    assert next(iter(pair(listed, "healpix"))).redshifts is not None


def test_flat_folder_has_every_fits_file_as_a_unit() -> None:
    listed = files(
        "/a/coadd-x.fits", "/a/redrock-x.fits", "/a/redrock-lonely.fits", "/a/stack.fits", "/a/note.txt"
    )
    uris = [item.coadd.uri for item in pair(listed, "flat")]
    assert uris == ["/a/coadd-x.fits", "/a/redrock-lonely.fits", "/a/stack.fits"]


def test_pairing_is_lazy() -> None:
    def listing():
        yield from files("/a/coadd-x.fits", "/a/redrock-x.fits", "/b/coadd-y.fits", "/zz")
        raise AssertionError("listed too far")

    assert next(pair(listing(), "healpix")).coadd.uri == "/a/coadd-x.fits"


def test_is_coadd() -> None:
    assert is_coadd("/a/coadd-x.fits.gz")
    assert not is_coadd("/a/coadd-x.txt")
    assert not is_coadd("/a/redrock-coadd-x.fits")
