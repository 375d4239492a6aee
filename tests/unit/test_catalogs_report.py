from html.parser import HTMLParser
from pathlib import Path

import pytest

from catalogs.query import open_catalog
from catalogs.report import ReportOptions, build_report
from catalogs.spec import MOST_ANOMALOUS
from catalogs.statistics import chosen_rows
from engine.column import Column
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.errors import ConfigError
from engine.storage import Storage
from engine.units import Unit, with_ids
from tests.catalogue import CatalogueMaker, gallery_item, training_history, unit_table
from tests.servers import S3Server

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Balanced tags, text, ids and what a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.sections: list[str] = []
        self.feed(html)
        assert not self.open_tags, self.open_tags

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open_tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "xlink:href") or (name == "href" and tag != "a"):
                self.sources.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "id" and tag == "section":
                self.sections.append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def plain(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    maker = CatalogueMaker(str(tmp_path_factory.mktemp("catalogue")), Storage())
    maker.publish((600, 7), (300, 3), max_rows_per_partition=2000)
    return maker.root


@pytest.fixture(scope="module")
def full_report(root: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with all there is, read back from its file."""
    out = str(tmp_path_factory.mktemp("out") / "deep" / "report.html")
    with open_catalog(root) as con:
        items = [gallery_item(row) for row in chosen_rows(con, MOST_ANOMALOUS, 3)]
    html = build_report(root, out, gallery=items, history=training_history())
    assert Path(out).read_text() == html
    return html


def test_report_is_one_whole_page_that_fetches_nothing(full_report):
    page = Page(full_report)
    assert page.sections == [
        "counts",
        "scores",
        "latent",
        "top",
        "gallery",
        "rates",
        "training",
        "provenance",
        "query",
    ]
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.sections)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert "url(http" not in full_report
    assert "<script" not in full_report
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside
    assert all(link.startswith("https://www.legacysurvey.org/viewer?ra=") for link in outside)


def test_report_says_what_is_in_the_catalogue(full_report, root):
    text = Page(full_report).plain
    assert "910 in = 900 published + 10 rejected." in text
    assert "does not add up" not in text
    for word in ("no_usable_pixel", "fiberstatus", "MISSING_B", "0123abc", "feed" * 8, root):
        assert word in text
    with open_catalog(root) as con:
        for row in chosen_rows(con, MOST_ANOMALOUS, 25):
            assert str(row["targetid"]) in text


def test_gallery_follows_the_rank(full_report, root):
    text = Page(full_report).plain
    with open_catalog(root) as con:
        ids = [str(row["targetid"]) for row in chosen_rows(con, MOST_ANOMALOUS, 3)]
    places = [text.index(f"#{rank} · {targetid}") for rank, targetid in enumerate(ids, start=1)]
    assert places == sorted(places)
    assert full_report.count("What the model was given and what it made of it") == 3


def test_report_without_gallery_and_history_says_why(root, tmp_path):
    html = build_report(root, str(tmp_path / "r.html"), gallery_note="The release is gone <for good>.")
    assert "The release is gone &lt;for good&gt;." in html
    assert "holds no training history" in html


def test_report_is_the_same_on_every_run_and_says_that_there_is_no_gallery(root, tmp_path):
    first, second = (build_report(root, str(tmp_path / "r.html")) for _ in range(2))
    assert first == second
    assert "No objects were given" in first


def test_texts_from_data_are_escaped(full_report):
    """Provenance comes from configuration, which may hold anything."""
    assert "s3://&lt;bucket&gt;/desi" in full_report
    assert "<bucket>" not in full_report


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_tiny_catalogues_have_reports(num_rows, tmp_path):
    maker = CatalogueMaker(str(tmp_path / "c"), Storage())
    maker.publish((num_rows, 2))
    html = build_report(maker.root, str(tmp_path / "r.html"))
    text = Page(html).plain
    assert f"{num_rows + 2} in = {num_rows} published + 2 rejected." in text
    assert ("No row has a score." in text) == (num_rows == 0)
    assert ("there is no map to draw" in text) == (num_rows < 2)


def test_a_gallery_item_of_another_catalogue_is_left_out(root, tmp_path):
    with open_catalog(root) as con:
        row = chosen_rows(con, MOST_ANOMALOUS, 1)[0]
    stranger = gallery_item(row | {"targetid": 7})
    html = build_report(root, str(tmp_path / "r.html"), gallery=[stranger])
    assert "residual of 7" not in html


def test_large_catalogues_are_sampled(root, tmp_path):
    html = build_report(root, str(tmp_path / "r.html"), options=ReportOptions(num_latent_points=50))
    assert "latent means of 50 rows of 900, chosen by a hash of the key" in Page(html).plain


def test_older_versions_can_be_reported_on(tmp_path):
    maker = CatalogueMaker(str(tmp_path / "c"), Storage())
    maker.publish((30, 0))
    maker.publish((30, 0), (40, 0))
    html = build_report(maker.root, str(tmp_path / "r.html"), version=1)
    assert "30 in = 30 published + 0 rejected." in Page(html).plain


def test_staged_spectra_have_no_report(tmp_path):
    storage, root = Storage(), str(tmp_path / "staged")
    columns = (Column("targetid", "int64", "Target"), Column("ra", "float64", "RA", "deg"))
    (unit,) = with_ids([Unit("u", ())], {})
    FragmentSink(root, storage.options, columns).write(unit, unit_table(5, 0))
    publish(root, storage, [unit.id], columns, CatalogConfig(kind="flat", key=()))
    with pytest.raises(ConfigError, match="no scores to report on"):
        build_report(root, str(tmp_path / "r.html"))


@pytest.mark.s3
def test_a_report_can_go_to_object_storage(moto_server: S3Server):
    bucket, storage = moto_server.make_bucket(), Storage(moto_server.options)
    maker = CatalogueMaker(f"{bucket}/c", storage)
    maker.publish((40, 1))
    html = build_report(maker.root, f"{bucket}/reports/1.html", moto_server.options)
    assert storage.read(f"{bucket}/reports/1.html").decode() == html
