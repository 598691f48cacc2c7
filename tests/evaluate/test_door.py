"""Every bad table has its code, its message and its remedy; what a user declares mends it."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from medssl import cli
from medssl.errors import UserError
from medssl.evaluate import checks, compare, evaluate, read_predictions
from medssl.evaluate.door import admit, read_patients
from medssl.evaluate.files import read_table, said
from medssl.evaluate.locked import read_thresholds
from medssl.evaluate.terms import Terms
from medssl.evaluate.values import age_band, age_in_years, read_mapping
from medssl.report.provenance import lines_of

PATIENTS = 60


def table(**columns):
    """One row a patient, who is of one of two races and, further down, of the validation rows."""
    n = np.arange(PATIENTS)
    label = (n % 2).astype(float)
    return pd.DataFrame({
        "sample_id": [f"secret-scan-{k}" for k in n], "patient_id": [f"secret-{k}" for k in n],
        "split": np.where(n < 40, "test", "val"), "label": label,
        "score": np.round(0.2 + 0.4 * label + 0.3 * (n % 7) / 7, 6), "race": np.array(["a", "b"])[n // 2 % 2],
    }).assign(**columns)  # fmt: skip


def outlined(**columns):
    rows = table(label=np.nan, score=np.nan)
    return rows.assign(split="test", dice_gland=0.8, hd95_gland=3.0, missed_gland=0.0).assign(**columns)


def at(value, *places, of="score"):
    """The column with `value` at some places."""
    column = table()[of].astype(object)
    column.iloc[list(places)] = value
    return column


def twice(rows, **changed):
    """The table with its first row once more, changed or not."""
    return pd.concat([rows, rows[:1].assign(**changed)])


NOTHING = Terms()
BAD = [
    # code, the table, what is declared, what the message says
    ("E100", table().drop(columns="label"), NOTHING, r"no column 'label'; it has: sample_id.*--columns label=THEIRS"),
    ("E100", table().drop(columns="split"), NOTHING, r"no column 'split'.*--columns split=:test"),
    ("E101", table(score=at("nan", 3, 5)), NOTHING, r"score 'nan' in row 5 is not a number.*--missing-scores.*60: 5, 7"),
    ("E101", table(score=at(np.inf, 0)), NOTHING, r"score inf in row 2 is not a finite number; leave the cell blank"),
    ("E101", table(score=at("high", 0)), Terms(missing_scores="exclude"), r"score 'high' in row 2 is not a number"),
    ("E102", table(score=at(1.5, *range(9))), NOTHING,
     r"score 1.5 in row 2.*--score-kind rank.*9 such rows.*2, 3, 4, 5, 6, …\)"),
    ("E102", table(score=at(-0.1, 0)), NOTHING, r"score -0.1 in row 2 is not between 0 and 1; give a probability"),
    ("E103", table(label=at("yes", 0, 1, of="label")), NOTHING, r"label 'yes' in row 2 is not a number.*--label-map"),
    ("E103", table(label=at(-1, 4, of="label")), NOTHING, r"label -1.0 in row 6 is not 0, 1 or blank; say by --label-map"),
    ("E103", table(label=np.arange(60) % 4), NOTHING, r"label 2.0 .*; also '3.0'"),
    ("E105", table(unlike=3), NOTHING, r"unlike 3.0 in row 2 is not between 0 and 1; give a share"),
    ("E105", table(tolerance_mm="far"), NOTHING, r"tolerance_mm 'far' in row 2 is not a number"),
    ("E106", table(split="dev"), NOTHING, r"split 'dev' in row 2 is not one of train, val, test"),
    ("E106", table(task=["", *["mass"] * 59]), NOTHING, r"task '' in row 2 is blank where others are not"),
    ("E110", twice(table(), score=0.5), NOTHING, r"sample_id in row 62 occurs twice; give one row a sample"),
    ("E110", twice(table(task="t"), label=1), NOTHING, r"sample_id in row 62 occurs twice; give one row a sample and task"),
    ("E111", table(patient_id=""), NOTHING, r"patient_id in row 2 is blank; every row needs its patient"),
    ("E111", table().drop(columns="patient_id"), NOTHING, r"no column 'patient_id'.*--rows-are-patients where every row"),
    ("E112", table(patient_id=["same"] * 60), NOTHING, r"1 patient is in more than one split"),
    ("E112", table(), Terms(trained_on=frozenset({"secret-1", "secret-2", "secret-50"})),
     r"2 judged patients are among those"),
    ("E130", table(sex=["W", *["F"] * 59]), NOTHING, r"sex 'W' in row 2 is no sex that DICOM knows.*--mapping"),
    ("E130", table(PatientSex=["1", *[" m "] * 59]), NOTHING, r"PatientSex '1' in row 2 is no sex"),
    ("E133", table(age=["-3", "045Y", *["50"] * 58]), NOTHING, r"age '-3' in row 2 is no age from 0 to 120"),
    ("E133", table(age=["130Y", *["50"] * 59]), NOTHING, r"age '130Y' in row 2"),
    ("E150", outlined(dice_gland=1.2), NOTHING, r"dice_gland 1.2 in row 2 is not between 0 and 1; give an overlap"),
    ("E150", outlined(hd95_gland=-1.0), NOTHING, r"hd95_gland -1.0 in row 2 is not a distance in mm"),
    ("E150", outlined(missed_gland=0.5), NOTHING, r"missed_gland 0.5 in row 2 is not 0, 1 or blank"),
    ("E150", outlined(hd95_gland=np.nan), NOTHING, r"dice_gland 0.8 in row 2 is not blank where hd95_gland is"),
    ("E150", outlined(nsd_gland=0.9, tolerance_mm=[1, *[2] * 59]), NOTHING, r"tolerance_mm is 1, 2; surface Dice of each"),
    ("E161", table(place="x"), NOTHING, r"column 'place' has a name that is used for another thing; say --columns other="),
    ("E162", table()[:0], NOTHING, r"no rows; predict at least one sample"),
    ("E162", table(score=at("0,5", 0)), NOTHING, r"score '0,5' in row 2 has a decimal comma; write a point"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "rows", "terms", "message"), BAD, ids=[f"{n}-{b[0]}" for n, b in enumerate(BAD)])
def test_a_bad_table_has_a_code_and_a_remedy(code, rows, terms, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate({"eye": rows}, terms=terms)
    assert re.match(rf"eye: {code} ", str(caught.value))
    assert "secret" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    rows = twice(table(split=["dev", *["test"] * 59], score=at(2, 1), label=at("U", 2, of="label"), sex="7"), score=0.1)
    with pytest.raises(UserError) as caught:
        evaluate({"eye": rows})
    first, *lines = str(caught.value).splitlines()
    assert first == f"eye: {len(lines)} problems"
    assert {line.split()[0] for line in lines} == {"E130", "E103", "E110", "E106", "E102"}


def test_a_table_of_other_names_is_told_what_it_has():
    rows = table(age="50").drop(columns="sample_id").rename(columns={"score": "prob"})
    with pytest.raises(
        UserError, match="no column 'score'; it has: patient_id, split, label, prob, race, age; give it"
    ):
        evaluate({"eye": rows})


def test_ids_are_named_only_when_asked():
    known = Terms(trained_on=frozenset({"secret-1"}), show_ids=True)
    with pytest.raises(UserError, match="secret-1"):
        evaluate({"eye": table()}, terms=known)
    with pytest.raises(UserError, match=r"sample_id 'secret-scan-0' in row 62"):
        evaluate({"eye": twice(table(), score=0.5)}, terms=Terms(show_ids=True))


FILES = [
    ("E162", b"", r"cannot be read, it is empty; give a header"),
    ("E162", b"sample_id,patient_id,split,label,score\n", r"no rows"),
    ("E162", b"sample_id,patient_id,split,label,score\na,p,test,1,0.5,x\n", r"more cells than the header has names"),
    ("E162", b"sample_id,score,score\na,0.1,0.9\n", r"column 'score' stands there twice"),
    ("E162", "sample_id,patient_id\n".encode("utf-16"), r"is UTF-16 text; save it as UTF-8"),
    ("E162", b"sample_id,patient_id\n\xff\xfe\n", r"cannot be read as .csv \(UnicodeDecodeError\)"),
    (
        "E162",
        b"sample_id,split\na,test\nb,test,x\n",
        r"cannot be read: Expected 2 fields in line 3, saw 3; quote cells",
    ),
]


@pytest.mark.parametrize(("code", "content", "message"), FILES)
def test_a_file_that_is_no_table_has_a_code(tmp_path, code, content, message):
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"p.csv: {code} .*{message}|p.csv: {code} {message}"):
        read_predictions(path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_decimal_commas_and_a_byte_order_mark_are_read_rightly(tmp_path, separator):
    rows = table(sex="F")
    text = rows.to_csv(index=False, sep=separator, decimal=",")
    assert "0,2" in text
    (tmp_path / "p.csv").write_text("\ufeff" + text, encoding="utf-8")
    read = read_predictions(tmp_path / "p.csv")
    np.testing.assert_allclose(read["score"], rows["score"])
    assert list(read.columns) == list(rows.columns)


def test_decimal_commas_are_read_beside_failed_scores(tmp_path):
    rows = table()
    text = rows.to_csv(index=False, sep=";", decimal=",").splitlines()
    text[2] = text[2].replace(f"{rows['score'][1]}".replace(".", ","), "NaN")
    (tmp_path / "p.csv").write_text("\n".join(text))
    read = admit(read_table(tmp_path / "p.csv"), "p", Terms(missing_scores="exclude"), "test").table
    np.testing.assert_allclose(read["score"], rows["score"].where(rows.index != 1))


def test_names_of_another_table_become_ours(tmp_path):
    theirs = table().rename(columns={"patient_id": "PID", "score": "prob"}).drop(columns=["split", "sample_id"])
    theirs[:40].assign(score="their own").to_csv(tmp_path / "p.csv", index=False)
    read = read_table(tmp_path / "p.csv", said("patient_id=PID, score=prob,split=:test", "--columns"))
    analysis = evaluate({"eye": read})["analyses"][0]
    assert analysis["cohort"]["n_rows"] == 40
    ours = evaluate({"eye": table()[:40]})["analyses"][0]
    for row, other in zip(analysis["estimates"], ours["estimates"], strict=True):
        assert row == pytest.approx(other)  # sums in another order
    with pytest.raises(UserError, match=r"E161 --columns names 'Prob'.*did you mean prob\?"):
        read_table(tmp_path / "p.csv", {"score": "Prob"})
    with pytest.raises(UserError, match=r"'score' is no pair"):
        said("patient_id=PID,score", "--columns")


def notes(rows, terms=NOTHING, by=("race",)):
    analysis = evaluate({"eye": rows}, by=by, terms=terms)["analyses"][0]
    return analysis, " ".join(analysis["notes"])


def groups(analysis, attribute):
    return {row["group"] for row in analysis["estimates"] if row["attribute"] == attribute}


def test_exact_copies_are_dropped_and_said():
    analysis, said_of = notes(pd.concat([table(), table()[:5]]))
    assert "E110 5 rows are exact copies" in said_of
    assert analysis["estimates"] == notes(table())[0]["estimates"]


def test_rows_may_be_declared_to_be_patients():
    rows = table().drop(columns="patient_id")
    analysis, said_of = notes(rows, Terms(rows_are_patients=True))
    assert "Every row is taken for another patient" in said_of
    assert analysis["estimates"] == notes(table())[0]["estimates"]


def test_nobody_who_was_learned_from_is_judged(tmp_path):
    _, said_of = notes(table(), Terms(trained_on=frozenset({"other", "secret-50"})))
    assert "No judged patient is among the 2 that the model learned from" in said_of
    (tmp_path / "ids.txt").write_text("p1\n\np2\n")
    assert read_patients(tmp_path / "ids.txt") == {"p1", "p2"}
    table().to_csv(tmp_path / "runs.csv", index=False)
    assert read_patients(tmp_path / "runs.csv") == {f"secret-{k}" for k in range(40, 60)}
    (tmp_path / "none.csv").write_text("name\nx\n")
    with pytest.raises(UserError, match="E111 no column 'patient_id'"):
        read_patients(tmp_path / "none.csv")


@pytest.mark.parametrize("policy", ["exclude", "as_negative"])
def test_a_failed_scan_is_left_out_or_counts_as_not_flagged(policy):
    rows = table(score=at("NaN", 1, 3).where(lambda s: s.index != 5, np.inf))
    analysis, said_of = notes(rows, Terms(missing_scores=policy))
    cohort = analysis["cohort"]
    assert (cohort["n_rows"], cohort["n_left_out"]) == ((37, 3) if policy == "exclude" else (40, 0))
    blank = table(score=at(None, 1, 3, 5)) if policy == "exclude" else table(score=at(0.0, 1, 3, 5))
    assert analysis["estimates"] == notes(blank)[0]["estimates"]
    assert ("3 rows have no score and count as not flagged" in said_of) == (policy == "as_negative")


def test_labels_are_mapped_as_declared_and_never_cast():
    words = pd.Series(np.where(table()["label"] == 1, "yes", "no")).where(table().index != 4, "U")
    analysis, _ = notes(table(label=words), Terms(label_map={"yes": "1", "no": "0", "U": "blank"}))
    assert (analysis["cohort"]["n_rows"], analysis["cohort"]["n_left_out"]) == (39, 1)
    assert analysis["cohort"]["n_positive"] == 20
    analysis, _ = notes(table(label=table()["label"].replace(0.0, -1.0)), Terms(label_map={"-1": "0"}))
    assert analysis["estimates"] == notes(table())[0]["estimates"]


def test_scores_that_only_rank_have_no_brier_score():
    rows = table(score=table()["score"] * 20 - 9)
    analysis, _ = notes(rows, Terms(probabilities=False))
    plain = notes(table())[0]
    for row, other in zip(analysis["estimates"], plain["estimates"], strict=True):
        if row["metric"] == "brier":
            assert (row["value"], row["low"]) == (None, None)
            assert row["status"] == "suppressed" or row["reason"] == "not available: scores are not probabilities"
        else:
            assert row == pytest.approx(other)


def test_equal_scores_are_told_before_any_number():
    analysis, said_of = notes(table(score=0.5))
    assert "E104 All scores are 0.5: they rank nobody" in said_of
    assert analysis["threshold"]["value"] is None


def test_sexes_as_dicom_writes_them():
    """O and blank are never M or F."""
    rows = table(sex=np.array([" m", "F", "female", "O", "", "U"])[np.arange(60) % 6])
    admitted = admit(rows, "eye", NOTHING, "test")
    told = ["M", "F", "F", "other (DICOM O)", "unknown", "unknown"]
    assert admitted.table["sex"][:6].tolist() == told
    text = " ".join(admitted.notes)
    assert "'female' as F" in text
    assert "'m' as M" in text
    assert "O is a group of its own" in text


def test_declined_is_not_the_same_as_not_recorded():
    words = ["Patient refused", "ASKU", "UNK", "NASK", "", "9", "-1", "NA", "nan"]
    rows = table(race=np.array(words)[np.arange(60) % 9])
    admitted = admit(rows, "eye", NOTHING, "test")
    assert admitted.table["race"][:9].tolist() == ["declined"] * 2 + ["unknown"] * 3 + words[5:]
    assert "E132 race: read 'ASKU' as declined" in " ".join(admitted.notes)
    mapped = admit(rows, "eye", Terms(mapping={"race": {"9": "unknown", "-1": "declined", "NA": "Native"}}), "test")
    assert mapped.table["race"][5:9].tolist() == ["unknown", "declined", "Native", "unmapped"]
    assert 'E131 race: 1 values are not in the mapping; they are the group "unmapped"' in " ".join(mapped.notes)


def test_who_declined_is_judged_and_is_no_side_of_a_difference():
    rows = pd.concat(
        [table(), table(sample_id=lambda t: "x" + t["sample_id"], patient_id=lambda t: "x" + t["patient_id"])]
    )
    rows["race"] = np.array(["a", "b", "declined"])[np.arange(120) // 2 % 3]
    analysis, _ = notes(rows)
    assert groups(analysis, "race") == {"a", "b", "declined"}
    assert {row["group"] for row in analysis["gaps"]} == {"a", "b"}


def test_contradicting_records_of_a_patient_are_a_group_of_their_own():
    rows = pd.concat([table(), table(sample_id=lambda t: "x" + t["sample_id"])]).assign(sex="F", site="one")
    sex, site = rows["sex"].to_numpy().copy(), rows["site"].to_numpy().copy()
    sex[0], sex[1], site[2] = "M", "", "two"
    admitted = admit(rows.assign(sex=sex, site=site), "eye", NOTHING, "test")
    conflicting = admitted.table[admitted.table["sex"] == "conflicting record"]["patient_id"]
    assert set(conflicting) == {"secret-0", "secret-1"}
    assert len(conflicting) == 4
    assert set(admitted.table["site"]) == {"one", "two"}
    assert any(note.startswith("E113 sex: rows of some patients differ") for note in admitted.notes)
    assert "secret" not in " ".join(admitted.notes)


@pytest.mark.parametrize(
    ("text", "years", "band"),
    [("045Y", 45, "40-64"), ("45", 45, "40-64"), ("006M", 0.5, "0-17"), ("003W", 3 / 52.18, "0-17"), ("17.9", 17.9, "0-17"),
     ("18", 18, "18-39"), ("89", 89, "65-89"), ("90", 90, "90+"), ("101Y", 101, "90+"), ("89+", 90, "90+"),
     ("", np.nan, "unknown"), ("000Y", np.nan, "unknown"), ("121", np.nan, "unknown"), ("old", np.nan, "unknown")],
)  # fmt: skip
def test_ages_and_their_bands(text, years, band):
    assert age_in_years(text) == pytest.approx(years, nan_ok=True)
    assert age_band(age_in_years(text), (18, 40, 65, 90)) == band


def test_an_age_becomes_a_band_and_no_age_above_90_is_kept():
    ages = ["045Y", "000Y", "", "99", *[str(20 + k) for k in range(56)]]
    admitted = admit(table(age=ages), "eye", Terms(age_bands=(50,)), "test")
    assert "age" not in admitted.table
    assert admitted.table["age_band"][:4].tolist() == ["0-49", "unknown", "unknown", "50+"]
    assert admitted.table["age_in_years"].max() == 90
    assert "E133 age: 0 is taken as not recorded" in " ".join(admitted.notes)
    bands = admit(table(age="40-59"), "eye", NOTHING, "test")
    assert set(bands.table["age"]) == {"40-59"}
    with pytest.raises(UserError, match="age bands 65,40: E133 give rising first ages"):
        Terms(age_bands=(65, 40))


def test_a_mapping_says_which_values_belong_together(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("attribute,value,group,patients\nrace,a,one,20\nrace,b,one,20\n")
    analysis, _ = notes(table(), Terms(mapping=read_mapping(path)))
    assert groups(analysis, "race") == {"one"}
    for text, message in [
        ("attribute,value,group\nrace,a,\n", "E131 row 2 has no attribute or no group"),
        ("attribute,value,group\nrace,a,x\nrace,a,y\n", "E131 row 3 gives race 'a' a second group"),
        ("attribute,value,group\n", "E131 no rows"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_mapping(path)


def test_too_many_values_are_no_grouping():
    rows = table(ethnicity=[f"text {k}" for k in range(60)])
    with pytest.raises(UserError, match=r"E122 ethnicity has 40 different values, more than 20.*--mapping-template"):
        evaluate({"eye": rows}, by=["ethnicity"])
    with pytest.raises(UserError, match=r"E161 the table has no attribute 'rase'.*did you mean race\?"):
        evaluate({"eye": rows}, by=["rase"])
    with pytest.raises(UserError, match=r"--by race\*race: E161 crosses an attribute with itself"):
        evaluate({"eye": rows}, by=["race*race"])


def test_a_table_on_the_prostate_with_women_says_so():
    _, said_of = notes(table(sex="F", task="prostate cancer"))
    assert "E134 A table on the prostate holds patients of sex F" in said_of
    assert "E134" not in notes(table(sex="M", task="prostate cancer"))[1]


def test_prevalence_and_missingness_are_told_before_any_number():
    n = np.arange(400)
    label = np.where(n % 4 == 0, n % 8 == 0, n % 3 == 0).astype(float)
    rows = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": np.where(n % 5 == 4, "val", "test"),
        "label": label, "score": (n * 37 % 100) / 100, "site": np.where(label == 1, "x", np.where(n % 5 == 0, "x", "y")),
        "race": np.where((label == 1) & (n % 3 == 0), "unknown", np.array(["a", "b"])[n % 2]),
    })  # fmt: skip
    _, said_of = notes(rows, by=("site", "race"))
    assert re.search(r"W202 site: the finding is more than twice as common in x \(\d+ %, 95 % interval", said_of)
    assert re.search(r"W203 race is not known for \d+ % of rows .*goes with the outcome \(p = ", said_of)


def test_every_code_is_described_and_every_one_described_is_used():
    from pathlib import Path

    import medssl.evaluate as package

    sources = [p.read_text() for p in Path(package.__file__).parent.rglob("*.py")]
    used = {code for text in sources for code in re.findall(r"\b[EW][12]\d\d\b", text)}
    assert used == set(checks.CODES) | {"E140"} & used
    body = "".join(text.replace(text[text.find("CODES = {") : text.find('"""Every code')], "") for text in sources)
    assert {code for code in checks.CODES if code in body} == set(checks.CODES)


# --- from the command line


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", *map(str, arguments)])
    return left.value.code


def test_the_command_refuses_with_2_and_writes_nothing(tmp_path, capsys):
    table(score=at(7, 1)).to_csv(tmp_path / "p.csv", index=False)
    assert run(tmp_path / "p.csv", "-o", tmp_path / "r.json") == 2
    assert "E102 score 7.0 in row 3" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_what_was_not_declared_is_not_said_to_be(tmp_path):
    table().to_csv(tmp_path / "p.csv", index=False)
    assert run(tmp_path / "p.csv", "-o", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["provenance"]["settings"]["terms"] == {}
    assert "terms" not in dict(lines_of(report))


def test_a_report_tells_whose_predictions_it_is_of():
    own = table(model="plain", weights="0123456789abcdef")
    told = dict(lines_of(evaluate({"a": own, "b": table()})))
    assert told["model a"] == "plain 0123456789abcdef"
    assert told["model b"] == "not told; evaluate takes it with --columns model=:NAME"
    many = [f"fold {number:02d}" for number in range(len(table()))]
    assert lines_of(evaluate({"a": table(model=many)}))[1] == (
        "model a", "; ".join(many[:20]) + f"; and {len(many) - 20} more",
    )  # fmt: skip


def test_the_command_lets_in_a_table_that_we_did_not_write(tmp_path, capsys):
    rows = table(race=lambda t: t["race"].replace("b", "B/AA")).rename(columns={"patient_id": "PID", "score": "logit"})
    rows = rows.assign(logit=rows["logit"] * 10 - 5, age=[str(30 + k) for k in range(60)]).drop(columns="sample_id")
    rows.to_csv(tmp_path / "p.csv", index=False, sep=";", decimal=",")
    (tmp_path / "ids.txt").write_text("somebody\n")
    common = [tmp_path / "p.csv", "--columns", "patient_id=PID,score=logit", "--by", "race"]
    assert run(*common, "--mapping-template", tmp_path / "map.csv") == 0
    filled = (
        (tmp_path / "map.csv")
        .read_text()
        .replace("race,a,,30", "race,a,A,30")
        .replace("race,B/AA,,30", "race,B/AA,B,30")
    )
    (tmp_path / "map.csv").write_text(filled)
    options = ["--score-kind", "rank", "--mapping", tmp_path / "map.csv", "--by", "age_band", "--age-bands", "50"]
    options += [
        "--trained-on",
        tmp_path / "ids.txt",
        "--minimum-patients",
        5,
        "--margin",
        0.1,
        "--target-sensitivity",
        0.9,
    ]
    assert run(*common, *options, "-o", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    (analysis,) = report["analyses"]
    assert groups(analysis, "race") == {"A", "B"}
    assert groups(analysis, "age_band") == {"0-49", "50+"}
    assert (report["margin"], report["minimum_patients"], report["explored"]) == (0.1, 5, False)
    assert "sensitivity of at least 0.90" in analysis["threshold"]["provenance"]


def test_few_without_a_sex_hide_nobody_unless_asked(tmp_path):
    table(sex=["F"] * 18 + ["M"] * 17 + [""] * 5 + ["F"] * 20).to_csv(tmp_path / "p.csv", index=False)
    hidden = {}
    for options in ([], ["--protect-unknown"]):
        assert run(tmp_path / "p.csv", "--by", "sex", *options, "-o", tmp_path / "r.json") == 0
        (analysis,) = json.loads((tmp_path / "r.json").read_text())["analyses"]
        hidden[len(options)] = {
            row["group"] for row in analysis["estimates"] if row["metric"] == "auroc" and row["status"] == "suppressed"
        }
    assert hidden == {0: {"unknown"}, 1: {"unknown", "M"}}


def test_thresholds_say_where_they_come_from(tmp_path):
    assert read_thresholds("0.31:site A, 2026")[""].provenance == "0.310, site A, 2026 (as declared)"
    path = tmp_path / "t.json"
    one = {"value": 0.31, "rule": "sensitivity of at least 0.90", "data": "validation, site A", "date": "2026-03-01"}
    path.write_text(json.dumps(one))
    assert read_thresholds(str(path))[""].value == 0.31
    path.write_text(json.dumps({"mass": one, "nodule": {**one, "value": 0.5}}))
    assert {task: t.value for task, t in read_thresholds(str(path)).items()} == {"mass": 0.31, "nodule": 0.5}
    for given, message in [
        ("0.31", r"--threshold 0.31: E141 does not say where it comes from; give 0.31:WHERE FROM"),
        ("0.31: ", "E141 does not say where"),
        ("none.json", "no such file"),
        ("high:site A", r"E141 'high' is neither a number nor a JSON file"),
        ("nan:site A", "E141 'nan' is neither a number"),
    ]:
        with pytest.raises(UserError, match=message):
            read_thresholds(given)
    for content, message in [
        ({"value": 0.3}, "E141 does not tell its rule, data, date"),
        ({**one, "value": True}, "E141 True is neither a number"),
        ({"mass": {"value": 0.3, "rule": "r"}}, "mass: E141 does not tell its data, date"),
        ([], "E141 holds no threshold"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            read_thresholds(str(path))
    percent = read_thresholds("31:a percentage")
    with pytest.raises(UserError, match="--threshold 31: E141 is not between 0 and 1"):
        Terms(thresholds=percent)
    assert Terms(thresholds=percent, probabilities=False).thresholds == percent
    path.write_text("{")
    with pytest.raises(UserError, match="E141 not JSON"):
        read_thresholds(str(path))


def test_a_given_threshold_is_used_as_it_is():
    terms = Terms(thresholds=read_thresholds("0.45:site A"))
    analysis = evaluate({"eye": table()}, terms=terms)["analyses"][0]
    assert (analysis["threshold"]["value"], analysis["threshold"]["source"]) == (0.45, "given")
    test = table()[:40]
    (found,) = [r["value"] for r in analysis["estimates"] if (r["metric"], r["group"]) == ("sensitivity", "all")]
    assert found == (test[test["label"] == 1]["score"] >= 0.45).mean()
    two = pd.concat([table(task="mass"), table(task="nodule")])
    each = Terms(thresholds={"mass": read_thresholds("0.3:x")[""], "nodule": read_thresholds("0.6:x")[""]})
    report = evaluate({"eye": two}, terms=each)
    assert [analysis["threshold"]["value"] for analysis in report["analyses"]] == [0.3, 0.6]
    with pytest.raises(UserError, match="E141 one for 2 analyses"):
        evaluate({"eye": two}, terms=terms)
    with pytest.raises(UserError, match=r"E161 there is no 'masses'.*did you mean mass\?"):
        evaluate({"eye": two}, terms=Terms(thresholds={"masses": each.thresholds["mass"]}))
    with pytest.raises(UserError, match="target sensitivity"):
        evaluate({"eye": table()}, terms=terms, target_sensitivity=0.9)


DECLARED = [
    {},
    {"target_sensitivity": 0.8},
    {"terms": Terms(thresholds=read_thresholds("0.4:x"))},
    {"terms": Terms(missing_scores="exclude")},
    {"terms": Terms(probabilities=False)},
]


@pytest.mark.parametrize("declared", DECLARED)
def test_no_judged_row_moves_a_threshold_unless_explored(declared):
    """Another model on the judged rows: whatever is declared, the threshold is the same; explored, it is not."""
    other = table(score=lambda t: t["score"].where(t["split"] == "val", t["score"] ** 3))
    other["label"] = other["label"].where(other["split"] == "val", 1 - other["label"])
    one, two = (evaluate({"eye": rows}, **declared)["analyses"][0]["threshold"]["value"] for rows in (table(), other))
    assert one is not None
    assert one == two
    terms = Terms(explore=True)
    explored = [evaluate({"eye": rows}, terms=terms) for rows in (table(), other)]
    values = [report["analyses"][0]["threshold"]["value"] for report in explored]
    assert values[0] != values[1]
    assert all(report["explored"] for report in explored)
    assert "chosen on these same patients" in explored[0]["findings"][0]


def test_an_explored_report_says_so_on_top(tmp_path):
    from medssl.report import write_report

    report = evaluate({"eye": table()}, terms=Terms(explore=True))
    page = write_report(report, tmp_path).read_text()
    assert page.index("Explored, not evaluated") < page.index('class="findings"')
    assert "Explored" not in write_report(evaluate({"eye": table()}), tmp_path / "plain").read_text()
    with pytest.raises(UserError, match="--explore chooses a threshold"):
        Terms(explore=True, thresholds=read_thresholds("0.4:x"))


def test_a_comparison_refuses_bad_tables_too():
    with pytest.raises(UserError, match="first table: E102"):
        compare(table(score=at(2, 0)), table())
