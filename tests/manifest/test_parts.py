import math
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.errors import UserError
from medssl.manifest import Card, read_card
from medssl.manifest.demographics import age_band, age_of, agreed, sex_of
from medssl.manifest.labels import read_rule
from medssl.manifest.pseudonyms import pseudonym, read_key
from medssl.manifest.splits import split_of

FRACTIONS = {"train": 0.6, "val": 0.1, "test": 0.3}


@given(
    st.text(min_size=1),
    st.text(),
    st.dictionaries(st.sampled_from(["train", "val", "test"]), st.floats(0.1, 1), min_size=1),
)
def test_a_patient_has_one_split_whatever_the_order_of_the_fractions(patient, seed, weights):
    total = sum(weights.values())
    fractions = {name: weight / total for name, weight in weights.items()}
    once = split_of(patient, seed or "0", fractions)
    assert once == split_of(patient, seed or "0", dict(reversed(fractions.items())))
    assert once in fractions


def test_fractions_are_met_and_seeds_differ():
    people = [f"patient {n}" for n in range(4000)]
    told = [split_of(p, "1", FRACTIONS) for p in people]
    for name, share in FRACTIONS.items():
        assert told.count(name) / len(told) == pytest.approx(share, abs=0.03)
    assert told != [split_of(p, "2", FRACTIONS) for p in people]


def test_growing_the_small_splits_moves_nobody_out_of_train():
    before = {p: split_of(p, "1", FRACTIONS) for p in map(str, range(500))}
    after = {p: split_of(p, "1", {"train": 0.6, "val": 0.2, "test": 0.2}) for p in before}
    assert all(after[p] == "train" for p in before if before[p] == "train")


@pytest.mark.parametrize(
    ("text", "years"),
    [("61", 61), ("061Y", 61), ("18M", 1.5), ("52W", 52 / 52.18), (" 042 ", 42)]
    + [(text, None) for text in ("", "000Y", "999", "x")],
)
def test_ages(text, years):
    assert math.isnan(age_of(text)) if years is None else age_of(text) == pytest.approx(years)


def test_bands_sexes_and_agreement():
    assert [age_band(a, (40, 60)) for a in (39.9, 40, 59, 60, math.nan)] == ["<40", "40-59", "40-59", "60+", "unknown"]
    assert [sex_of(t) for t in ("M", "female", "O", "", "x", "NO")] == ["M", "F", "O", "unknown", "unknown", "unknown"]
    assert agreed(["", "A", "unknown", "A"]) == "A"
    assert agreed(["Unknown", "A"]) == "A" and agreed(["UNKNOWN"]) == "unknown"
    assert agreed(["A", "B"]) == agreed([]) == "unknown"


def test_label_rules():
    columns = ["Findings", "grade"]
    row = {"Findings": "Pneumonia|Mass", "grade": "2"}
    assert read_rule("p", "Findings contains Pneumonia", columns)(row) == 1.0
    assert read_rule("p", "Findings equals Mass", columns)(row) == 0.0
    assert read_rule("p", "column grade", columns)(row) == 2.0
    assert math.isnan(read_rule("p", "Findings contains x", columns)({"Findings": " ", "grade": ""}))
    for rule, message in [
        ("column x", "no column 'x'"),
        ("grade", "cannot read the rule"),
        ("x contains y", "no column 'x'"),
    ]:
        with pytest.raises(UserError, match=message):
            read_rule("p", rule, columns)
    assert read_rule("p", "column Findings contains Mass", columns)(row) == 1.0
    assert read_rule("p", "column Findings equals Mass", columns)(row) == 0.0
    with pytest.raises(UserError, match="column 'grade' does not hold a number"):
        read_rule("p", "column grade", columns)({"grade": "high"})


def test_pseudonyms_need_the_key(tmp_path):
    key, other = read_key(tmp_path / "phi" / "key"), read_key(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / "phi" / "key").stat().st_mode) == 0o600
    assert read_key(tmp_path / "phi" / "key") == key
    name = pseudonym(key, "patient", "012")
    assert name == pseudonym(key, "patient", "012")
    assert (
        len({name, pseudonym(other, "patient", "012"), pseudonym(key, "study", "012"), pseudonym(key, "patient", "12")})
        == 4
    )
    assert len(name) == 26
    assert pseudonym(key, "patient", "") == ""
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(UserError, match="a key of 3 bytes"):
        read_key(tmp_path / "short")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nkeys: file\n", "did you mean 'key'"),
        ("name: x\nkey: person\n", "'person' is not one of"),
        ("name: x\ntable: a.csv\nkey: file\n", "columns lack 'file'"),
        ("name: x\nsplits: {train: 0.5, test: 0.4}\n", "add up to 1"),
        ("name: x\nsplits: {train: 0.5, holdout: 0.5}\n", "train, val and test"),
        ("files: x\n", "needs 'name'"),
        ("name: x\nfiles: /etc/*\n", "files '/etc/\\*' leaves the archive"),
        ("name: x\nmasks: ../m/{name}\n", "masks '../m/{name}' leaves the archive"),
        ("name: x\nmasks: m/{patient}\n", "{patient} is not one of {stem}, {name}, {folder}, {series_uid}"),
        ("name: x\nmasks: '{name}'\n", "does not tell a label map from an image"),
        ("name: x\nmasks: m/one.nii.gz\n", "does not tell a label map from an image"),
        ("name: x\npatient: (\n", "is not a regular expression"),
        ("name: x\npatient: p\n", "has 0 groups"),
        ("name: x\nage_bands: [60, 40]\n", "must be rising ages"),
        ("name: x\nlabels: {a: column a}\n", "no table"),
        ("name: x\ntable: t.csv\nkey: file\ncolumns: {file: f, age_band: fold}\n", "works 'age_band' out itself"),
    ],
)
def test_a_card_that_is_wrong_says_where(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_card(tmp_path / "card.yaml")


def test_shipped_cards_are_readable_and_described():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "data_manifests"
    cards = sorted(folder.glob("*.yaml"))
    assert len(cards) >= 4
    for path in cards:
        card = read_card(path)
        assert isinstance(card, Card) and card.name == path.stem
        page = path.with_suffix(".md").name
        said = path.read_text(encoding="utf-8").partition("\n")[0].partition("see ")[2].rstrip(".\n") or page
        assert (folder / said.replace(".md", "")).with_suffix(".md").is_file(), path
