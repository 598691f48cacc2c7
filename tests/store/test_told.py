"""Labels that a table beside the store tells."""

import pytest

from medssl.errors import UserError
from medssl.store import open_store
from medssl.store.told import read_labels


def table(folder, text):
    path = folder / "told.csv"
    path.write_text(text)
    return path


def test_a_store_has_the_labels_of_a_table_beside_its_own(balls, tmp_path):
    store = open_store(balls / "store")
    first, second, *_ = store.volumes["volume_id"]
    path = table(
        tmp_path, f"volume_id,patient_pid,label:cluster,label:depth\n{first},p,3,\n{second},q,0,1.5\nother,r,1,1\n"
    )
    told = store.told(path)
    assert set(told.labels["name"]) == {"big", "cluster", "depth"}
    assert told.rows(label="cluster").set_index("volume_id")["cluster"].to_dict() == {first: 3.0, second: 0.0}
    assert told.rows(label="depth")["volume_id"].tolist() == [second]
    assert set(store.labels["name"]) == {"big"}
    assert store.told().labels.equals(store.labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "volume_id,cluster\na,1\n",
            r"needs a column volume_id and one or more label:NAME; it has: volume_id, cluster",
        ),
        ("file,label:cluster\na,1\n", "needs a column volume_id"),
        ("volume_id,label:cluster\na,1\na,2\n", "rows 2 and 3 are of one volume"),
        ("volume_id,label:cluster\na,1\nb,left\n", r"row 3: label:cluster: 'left' is no number"),
        ("volume_id,label:cluster\na,nan\n", r"row 2: label:cluster: 'nan' is no number"),
    ],
)
def test_tables_that_tell_nothing(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_labels(table(tmp_path, text))


def test_a_table_that_is_not_there_is_told_how_to_be_made(tmp_path):
    with pytest.raises(UserError, match=r"clusters\.csv: no such table of labels; .*medssl probe RUN .*--clusters"):
        read_labels(tmp_path / "clusters.csv")


def test_tables_that_are_of_another_store_or_tell_what_is_known(balls, tmp_path):
    store = open_store(balls / "store")
    name = store.volumes["volume_id"].iloc[0]
    for label in ("big", "scanner", "race"):
        with pytest.raises(UserError, match=f"the store has a '{label}' already"):
            store.told(table(tmp_path, f"volume_id,label:{label}\n{name},1\n"))
    with pytest.raises(UserError, match="it is of another store"):
        store.told(table(tmp_path, "volume_id,label:cluster\nnobody,1\n"))
