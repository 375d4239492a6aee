"""Labels of a catalogue and ranks made of them: CSV, versions, refusals, the jobs `labels` and `rerank`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs import label_rows, labels
from catalogs.label_csv import GivenLabel, read_csv, write_csv
from catalogs.query import open_catalog, run_query
from catalogs.release import load_release
from catalogs.reranks import newest_rerank
from catalogs.spectral_anomaly import SPEC
from engine.errors import CommitError, ConfigError
from engine.storage import Storage
from jobs.__main__ import main
from tests.catalogue import FIRST_TARGETID, CatalogueMaker

KEY = SPEC.key


@pytest.fixture
def root(tmp_path: Path) -> str:
    maker = CatalogueMaker(str(tmp_path / "catalogue"), Storage())
    maker.publish((300, 0))
    return maker.root


def objects(
    root: str, sql: str = "SELECT survey, program, targetid FROM ranked ORDER BY anomaly_rank"
) -> list[dict]:
    with open_catalog(root) as con:
        return run_query(con, sql).read_all().to_pylist()


def csv_of(
    path: Path, rows: list[dict], given: list[object], index: str = "{survey}/{program}/{targetid}"
) -> str:
    lines = [f"{index.format(**row)},0.5,{label}" for row, label in zip(rows, given, strict=True)]
    path.write_text("\n".join([",score,human_label", *lines]) + "\n")
    return str(path)


def run(*line: str) -> dict:
    """Run a job, and return what it says as JSON."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*line, "--json"]) == 0
    return json.loads(out.getvalue())


def test_csv_goes_there_and_back():
    rows = [
        {"survey": "main", "program": "dark", "targetid": 2**60 + 1, "score": 1.5, "human_label": 3.0},
        {"survey": "sv,1", "program": "dark", "targetid": -7, "score": 0.1, "human_label": None},
    ]
    text = "".join(write_csv(rows, KEY))
    assert text.startswith(",score,human_label,label_before\nmain/dark/1152921504606846977,1.5,3,3\n")
    assert text.endswith('"sv,1/dark/-7",0.1,-1,-1\n')
    assert read_csv(text, KEY, "here") == [
        GivenLabel(2, {"survey": "main", "program": "dark", "targetid": 2**60 + 1}, 3.0, 3.0),
        GivenLabel(3, {"survey": "sv,1", "program": "dark", "targetid": -7}, -1.0, -1.0),
    ]


def test_astronomalys_own_file_with_bare_ids_is_read():
    text = ",score,trained_score,acquisition,human_label\n1152921504606846977,4.2,3.1,0.2,5.0\n12,1,1,1,-1\n13,1,1,1,\n"
    assert read_csv(text, KEY, "here") == [
        GivenLabel(2, {"targetid": 2**60 + 1}, 5.0),
        GivenLabel(3, {"targetid": 12}, -1.0),
    ]


def test_columns_of_the_key_do_instead_of_an_index():
    text = "survey,targetid,program,human_label\nmain,5,dark,0\n"
    assert read_csv(text, KEY, "here")[0].key == {"survey": "main", "program": "dark", "targetid": 5}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["main/dark/1,0,6"], r"line 2: human_label is 6, expected 0 to 5, or -1 for none"),
        (["main/dark/1,0,nan"], r"line 2: human_label is nan"),
        (["main/dark/1,0,-2"], r"line 2: human_label is -2"),
        (["main/dark/1,0,yes"], r"line 2: human_label is 'yes', no number"),
        (
            ["1.152921504606847e+18,0,3"],
            r"targetid is '1.152921504606847e\+18', no integer; a spreadsheet has rounded it",
        ),
        (["abc,0,3"], r"targetid is 'abc', no integer$"),
        (["dark/1,0,3"], r"index is 'dark/1', expected survey/program/targetid or targetid"),
        (["7,0,3", "8,0,1", "7,0,3"], r"line 4: 7 has a label already, in line 2"),
        ([f"{i},0,9" for i in range(8)], r"and 3 more"),
    ],
)
def test_lines_that_cannot_be_used_are_named(lines, message):
    with pytest.raises(ConfigError, match=message):
        read_csv("\n".join([",score,human_label", *lines]), KEY, "labels.csv")


def test_a_file_of_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"no column 'human_label'; got targetid, z"):
        read_csv("targetid,z\n1,2\n", KEY, "labels.csv")


def test_a_quote_that_is_not_closed_is_told(tmp_path, root, capsys):
    """It makes one field of all that follows, more than the reader takes."""
    file = tmp_path / "l.csv"
    file.write_text(',score,human_label\n"main/dark/1,0,3\n' + "main/dark/2,0,3\n" * 10_000)
    assert main(["labels", root, "--labels", str(file)]) == 2
    error = capsys.readouterr().err
    assert "is not CSV (field larger than field limit" in error
    assert str(file) in error


@pytest.mark.parametrize("fault", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_is_asked_for_one(root, tmp_path, capsys, monkeypatch, fault):
    def nameless() -> str:
        raise fault

    monkeypatch.setattr("getpass.getuser", nameless)
    file = csv_of(tmp_path / "l.csv", objects(root)[:1], [3])
    assert main(["labels", root, "--labels", file]) == 2
    assert "give --who" in capsys.readouterr().err
    assert run("labels", root, "--labels", file, "--who", "Ada")["labels"] == 1


def test_labels_keep_every_digit_of_a_targetid(root, tmp_path):
    rows = objects(root)[:3]
    assert all(row["targetid"] > 2**53 for row in rows)
    run(
        "labels",
        root,
        "--labels",
        csv_of(tmp_path / "l.csv", rows, [5, 0.5, -1]),
        "--who",
        "Ada",
        "--why",
        "lines",
    )
    found = objects(root, "SELECT * FROM labels ORDER BY human_label")
    assert [(row["targetid"], row["human_label"]) for row in found] == [
        (rows[1]["targetid"], 0.5),
        (rows[0]["targetid"], 5),
    ]
    assert {(row["labelled_by"], row["reason"], row["label_version"]) for row in found} == {
        ("Ada", "lines", 1)
    }
    assert found[0]["labelled_at"].endswith("+00:00")
    score = objects(root, f"SELECT anomaly_score FROM catalog WHERE targetid = {rows[0]['targetid']}")[0]
    assert found[1]["score"] == score["anomaly_score"]


def test_labels_of_objects_that_are_not_there_are_refused_and_nothing_is_added(root, tmp_path, capsys):
    rows = [*objects(root)[:1], {"survey": "main", "program": "dark", "targetid": 5}]
    file = csv_of(tmp_path / "l.csv", rows, [1, 2])
    assert main(["labels", root, "--labels", file]) == 2
    error = capsys.readouterr().err
    assert "labels name objects that are not in the catalogue" in error
    assert "line 3: main/dark/5" in error
    assert objects(root, "SELECT * FROM labels") == []


def test_neighbours_of_a_targetid_are_other_objects(root, tmp_path, capsys):
    """2^60 + 1 and its neighbours are one number in float64."""
    taken = {row["targetid"] for row in objects(root)}
    free = next(i for i in range(FIRST_TARGETID + 300, FIRST_TARGETID + 400) if i not in taken)
    file = csv_of(tmp_path / "l.csv", [{"targetid": free}], [1], "{targetid}")
    assert main(["labels", root, "--labels", file]) == 2
    assert f"line 2: {free}" in capsys.readouterr().err


def test_a_bare_id_of_two_programs_and_two_names_of_one_object_are_refused(root):
    release = load_release(root, Storage())
    first = objects(root)[0]
    given = [GivenLabel(2, {"targetid": first["targetid"]}, 1.0), GivenLabel(3, first, 1.0)]
    with pytest.raises(ConfigError, match="lines name the same object"):
        label_rows.label_rows(release, SPEC, Storage(), given, "Ada", "", "l.csv")
    table = pa.table(
        {"line": [2, 2], **{name: [first[name]] * 2 for name in KEY}, "is_unscored": [False] * 2}
    )
    with pytest.raises(ConfigError, match=r"more than one object(.|\n)*Give survey/program/targetid in full"):
        label_rows._check(table, given[:1], SPEC, "l.csv")


def test_a_file_without_labels_is_refused(root, tmp_path, capsys):
    assert main(["labels", root, "--labels", csv_of(tmp_path / "l.csv", objects(root)[:2], [-1, ""])]) == 2
    assert "holds no labels" in capsys.readouterr().err


def test_a_later_label_of_the_same_person_counts_and_people_are_averaged(root, tmp_path):
    one = objects(root)[:1]
    for who, label in (("Ada", 0), ("Ada", 4), ("Ben", 1)):
        run("labels", root, "--labels", csv_of(tmp_path / "l.csv", one, [label]), "--who", who)
    with open_catalog(root) as con:
        (row,) = con.sql(labels.current_labels_sql(KEY)).to_arrow_table().to_pylist()
    assert row["human_label"] == 2.5
    assert [s["labelled_by"] for s in run("labels", root)["submissions"]] == ["Ada", "Ada", "Ben"]


def test_a_person_can_take_a_label_back(root, tmp_path):
    """It counts no more, another's stays, and the object is to be labelled again."""
    first, second = objects(root)[:2]
    for who in ("Ada", "Ben"):
        run("labels", root, "--labels", csv_of(tmp_path / "l.csv", [first, second], [5, 1]), "--who", who)
    file = csv_of(tmp_path / "l.csv", [first], [-1])
    done = run("labels", root, "--labels", file, "--who", "Ada", "--why", "a mistake")
    assert (done["labels"], done["taken_back"]) == (0, 1)
    last = run("labels", root)["submissions"][-1]
    assert (last["labels"], last["taken_back"], last["reason"]) == (0, 1, "a mistake")
    in_force = labels.current_labels_sql(KEY)
    assert {row["targetid"]: row["human_label"] for row in objects(root, in_force)} == {
        first["targetid"]: 5.0, second["targetid"]: 1.0,
    }  # fmt: skip
    run("labels", root, "--labels", file, "--who", "Ben")
    assert [row["targetid"] for row in objects(root, in_force)] == [second["targetid"]]
    out = tmp_path / "out.csv"
    run("labels", root, "--out", str(out), "--limit", "1")
    assert f"{first['targetid']}," in out.read_text().splitlines()[2]
    assert out.read_text().splitlines()[2].endswith(",-1,-1")


def test_a_label_that_was_taken_back_can_be_given_again(root, tmp_path):
    one = objects(root)[:1]
    for label in (5, -1, 2):
        run("labels", root, "--labels", csv_of(tmp_path / "l.csv", one, [label]), "--who", "Ada")
    assert [row["human_label"] for row in objects(root, labels.current_labels_sql(KEY))] == [2.0]


def test_nothing_is_taken_back_where_nothing_was_said(root, tmp_path, capsys):
    """Not by an empty label, not of another person, and not twice."""
    one = objects(root)[:1]
    run("labels", root, "--labels", csv_of(tmp_path / "l.csv", one, [5]), "--who", "Ada")
    assert main(["labels", root, "--labels", csv_of(tmp_path / "l.csv", one, [""]), "--who", "Ada"]) == 2
    back = csv_of(tmp_path / "l.csv", one, [-1])
    assert main(["labels", root, "--labels", back, "--who", "Ben"]) == 2
    assert "or -1 where Ben gave one before" in capsys.readouterr().err
    run("labels", root, "--labels", back, "--who", "Ada")
    assert main(["labels", root, "--labels", back, "--who", "Ada"]) == 2


def test_a_bare_id_of_two_labels_takes_none_back():
    mine = [{"survey": s, "program": "dark", "targetid": 7, "human_label": 1.0} for s in ("main", "sv1")]
    with pytest.raises(ConfigError, match=r"more than one label(.|\n)*line 4: 7(.|\n)*Give the key in full"):
        label_rows.withdrawn_rows(mine, [GivenLabel(4, {"targetid": 7}, -1.0)], "", "l.csv")


def test_two_submissions_at_once_are_both_kept(root, monkeypatch):
    release, storage = load_release(root, Storage()), Storage()
    rows = [
        label_rows.label_rows(release, SPEC, storage, [GivenLabel(2, row, 1.0)], "Ada", "", "x")
        for row in objects(root)[:2]
    ]
    seen = labels.label_versions(root, storage)
    monkeypatch.setattr(labels, "label_versions", lambda *_: seen)  # neither knows of the other
    assert [labels.append_labels(release, SPEC, storage, table) for table in rows] == [1, 2]
    monkeypatch.undo()
    assert labels.read_labels(release, SPEC, storage)["label_version"].to_pylist() == [1, 2]


def test_ranks_follow_labels_and_the_catalogue_stays_as_it_is(root, tmp_path):
    before = {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}
    rows = objects(root)
    file = csv_of(tmp_path / "l.csv", [*rows[:4], *rows[-4:]], [0, 0, 0, 0, 5, 5, 5, 5])
    done = run("rerank", root, "--labels", file, "-o", "rerank.num_trees=30")
    assert (done["rows"], done["labels"], done["method"], done["is_new"]) == (300, 8, "astronomaly", True)
    found = objects(root, "SELECT * FROM reranked ORDER BY rerank")
    assert [row["rerank"] for row in found] == list(range(1, 301))
    assert np.all(np.diff([row["rerank_score"] for row in found]) <= 0)
    assert sum(row["human_label"] is not None for row in found) == 8
    bored = rows[0]["targetid"]
    (row,) = [row for row in found if row["targetid"] == bored]
    assert row["rerank"] > 1
    assert row["labelled_distance"] == 0
    assert all(path.read_bytes() == data for path, data in before.items())
    assert main(["check", root]) == 0


def test_the_same_labels_are_ranked_once_and_another_method_again(root, tmp_path):
    file = csv_of(tmp_path / "l.csv", objects(root)[:6], [0, 1, 2, 3, 4, 5])
    first = run("rerank", root, "--labels", file, "-o", "rerank.num_trees=5")
    again = run("rerank", root, "-o", "rerank.num_trees=5")
    assert (again["id"], again["is_new"]) == (first["id"], False)
    other = run("rerank", root, "-o", "rerank.method=protege")
    assert other["is_new"]
    (described,) = objects(root, "SELECT count(*) AS n FROM reranked WHERE predicted_label_sigma > 0")
    assert described["n"] == 300


def test_ranks_of_one_version_are_not_shown_with_another(root, tmp_path):
    run(
        "rerank",
        root,
        "--labels",
        csv_of(tmp_path / "l.csv", objects(root)[:2], [1, 2]),
        "-o",
        "rerank.num_trees=3",
    )
    CatalogueMaker(root, Storage()).publish((300, 0), (40, 0))
    assert objects(root, "SELECT * FROM reranked") == []
    with open_catalog(root, version=1) as con:
        assert run_query(con, "SELECT count(*) AS n FROM reranked").read_all()["n"].to_pylist() == [300]
    assert run("rerank", root, "-o", "rerank.num_trees=3")["rows"] == 340


def test_labels_and_objects_to_be_labelled_are_written(root, tmp_path):
    run("labels", root, "--labels", csv_of(tmp_path / "l.csv", objects(root)[5:7], [4, 2]))
    out = tmp_path / "out.csv"
    assert run("labels", root, "--out", str(out), "--limit", "3")["rows"] == 5
    lines = out.read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]].count("-1") == 3
    assert {line.split(",")[0] for line in lines if line.endswith(",-1,-1")} == {
        "/".join(str(row[name]) for name in KEY) for row in objects(root)[:3]
    }
    assert [one.label for one in read_csv(out.read_text(), KEY, "out")].count(-1) == 3


def test_without_labels_there_is_nothing_to_learn_from(root, capsys):
    assert main(["rerank", root]) == 2
    assert "no label of an object of this version" in capsys.readouterr().err


def test_latents_that_are_not_finite_are_told_with_their_file(root, tmp_path, capsys):
    file = csv_of(tmp_path / "l.csv", objects(root)[:2], [1, 2])
    first = load_release(root, Storage()).uris("data")[0]
    table = pq.read_table(first)
    latent = np.array(table["latent_mean"].to_pylist(), np.float32)
    labelled = {row["targetid"] for row in objects(root)[:2]}
    bad = next(i for i, t in enumerate(table["targetid"].to_pylist()) if t not in labelled)
    latent[bad, 0] = np.nan
    array = pa.FixedSizeListArray.from_arrays(pa.array(latent.ravel()), latent.shape[1])
    index = table.schema.get_field_index("latent_mean")
    pq.write_table(table.set_column(index, table.schema.field(index), array), first)
    assert main(["rerank", root, "--labels", file]) == 2
    error = capsys.readouterr().err
    assert "1 rows have features that are not finite" in error
    assert "finite latent_mean and anomaly_score" in error
    assert newest_rerank(load_release(root, Storage()), Storage()) is None


def test_a_damaged_record_is_told(root, tmp_path):
    storage, release = Storage(), load_release(root, Storage())
    storage.put(f"{root}/reranks/000001.json", b"{}")
    with pytest.raises(CommitError, match="not the record of a rerank"):
        newest_rerank(release, storage)


def test_staged_rows_cannot_be_labelled(tmp_path, capsys):
    assert main(["labels", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
