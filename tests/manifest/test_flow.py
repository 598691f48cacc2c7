"""The flow: everything is counted once at every level, and what enters is what stays and what leaves."""

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.archive.reasons import REASONS
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.cohort import Cohort
from medssl.manifest.flow import BY_DESIGN, LEVELS, Level, fates, flow, without_name

CODES = ["BAD_GEOMETRY", "DUP_INSTANCE", "MISSING_SLICE"]
NONE = {name: pd.DataFrame() for name in ("patients", "labels")}


def cohort_of(files):
    """Tables from (patient, study, series, reason) a file; a series "" is a file of its own, a patient "" is unread."""
    instances, volumes = [], {}
    for number, (patient, study, series, reason) in enumerate(files):
        status = "excluded" if reason else "ok"
        study, series = study and f"{patient}.{study}", series and f"{patient}.{study}.{series}"
        row = {"series_pid": series, "study_pid": study, "patient_pid": patient, "status": status, "reason": reason}
        instances.append({"instance_pid": f"i{number}", **row})
        if patient:
            key = (series or number, reason)
            volumes.setdefault(key, {**row, "volume_id": f"v{number}", "n_sources": 0})["n_sources"] += 1
    columns = ["instance_pid", "series_pid", "study_pid", "patient_pid", "status", "reason"]
    return Cohort(
        instances=pd.DataFrame(instances, columns=columns),
        volumes=pd.DataFrame(list(volumes.values()), columns=[*columns[1:], "volume_id", "n_sources"]),
        **NONE,
    )


def told(reasons):
    """The reason of most files, of equally many the first by name."""
    counts = Counter(reasons)
    return min(counts, key=lambda code: (-counts[code], code))


def counted_slowly(files):
    """The flow by plain counting, file by file."""
    levels = {"files": {n: [reason] for n, (_, _, _, reason) in enumerate(files)}}
    for level, depth in ("series", 3), ("studies", 2), ("patients", 1):
        things = levels[level] = {}
        for number, file in enumerate(files):
            if file[0]:
                own = f"alone {number}" if level != "patients" and not file[depth - 1] else file[:depth]
                things.setdefault(own, []).append(file[3])
    out = {}
    for level, things in levels.items():
        gone = [told(reasons) for reasons in things.values() if all(reasons)]
        out[level] = (len(things), len(things) - len(gone), dict(Counter(gone)))
    return out


read = st.tuples(
    st.sampled_from("AB"), st.sampled_from(["1", "2"]), st.sampled_from(["x", "y"]), st.sampled_from(["", *CODES])
)
nameless = st.tuples(st.sampled_from("ABC"), st.just(""), st.just(""), st.sampled_from(["", *CODES]))
unread = st.tuples(st.just(""), st.just(""), st.just(""), st.sampled_from(CODES))


@settings(max_examples=40, deadline=None)
@given(st.lists(read | nameless | unread, max_size=30))
def test_the_flow_is_that_of_plain_counting(files):
    levels = flow(fates(cohort_of(files)))
    assert {level.name: (level.entered, level.stayed, level.left) for level in levels} == counted_slowly(files)
    for level in levels:
        assert level.entered == level.stayed + sum(level.left.values())
        assert list(level.left.values()) == sorted(level.left.values(), reverse=True)
    assert [level.name for level in levels] == ["files", "series", "studies", "patients"] == list(LEVELS)


@settings(max_examples=15, deadline=None)
@given(st.lists(read | nameless | unread, max_size=20), st.randoms())
def test_the_order_of_the_rows_does_not_matter(files, random):
    shuffled = [*files]
    random.shuffle(shuffled)
    assert flow(fates(cohort_of(files))) == flow(fates(cohort_of(shuffled)))


def test_one_good_volume_keeps_a_patient_and_the_weightiest_reason_tells_why_one_left():
    files = [("A", "1", "x", ""), ("A", "1", "y", "MISSING_SLICE"), ("A", "2", "x", "BAD_GEOMETRY")]
    files += [("B", "1", "x", "MISSING_SLICE")] * 3 + [("B", "1", "y", "BAD_GEOMETRY")] * 2
    files += [("C", "1", "x", "MISSING_SLICE"), ("C", "1", "y", "BAD_GEOMETRY")]
    by_name = {level.name: level for level in flow(fates(cohort_of(files)))}
    assert by_name["patients"] == Level(
        name="patients", entered=3, stayed=1, left={"BAD_GEOMETRY": 1, "MISSING_SLICE": 1}
    )
    assert by_name["studies"].left == {"BAD_GEOMETRY": 2, "MISSING_SLICE": 1}
    assert by_name["series"].left == {"BAD_GEOMETRY": 3, "MISSING_SLICE": 3}
    assert by_name["files"].left == {"MISSING_SLICE": 5, "BAD_GEOMETRY": 4}


def test_a_refused_file_that_says_whose_it_is_counts_for_its_patient():
    cohort = cohort_of([("A", "1", "x", "")])
    lost = {"instance_pid": "i9", "series_pid": "s", "study_pid": "", "patient_pid": "D", "status": "excluded"}
    instances = pd.concat([cohort.instances, pd.DataFrame([{**lost, "reason": "PIXELDATA_TRUNCATED"}])])
    levels = {level.name: level for level in flow(fates(Cohort(instances, cohort.volumes, **NONE)))}
    for name, entered in ("files", 2), ("series", 2), ("studies", 1), ("patients", 2):
        left = {} if name == "studies" else {"PIXELDATA_TRUNCATED": 1}
        assert (levels[name].entered, levels[name].stayed, levels[name].left) == (entered, 1, left)


def test_real_files_flow_as_they_were_made(series, scan, tmp_path):
    archive = tmp_path / "archive"
    series(archive / "whole", "P1")
    series(archive / "gap", "P1")
    (archive / "gap" / "3.dcm").unlink()
    series(archive / "other", "P2")
    (archive / "other" / "2.dcm").unlink()
    scan(archive / "P3.nii.gz", 3)
    (archive / "copy_P3.nii.gz").write_bytes((archive / "P3.nii.gz").read_bytes())
    (archive / "letter.txt").write_text("no picture")
    index(archive, tmp_path / "c", card=Card(name="x", patient="(P3)"))
    cohort = read_cohort(tmp_path / "c")
    assert [(level.name, level.entered, level.stayed, level.left) for level in flow(fates(cohort))] == [
        ("files", 19, 7, {"MISSING_SLICE": 10, "DUP_INSTANCE": 1, "NOT_AN_ARCHIVE_FILE": 1}),
        ("series", 5, 2, {"MISSING_SLICE": 2, "DUP_INSTANCE": 1}),
        ("studies", 5, 2, {"MISSING_SLICE": 2, "DUP_INSTANCE": 1}),
        ("patients", 3, 2, {"MISSING_SLICE": 1}),
    ]
    assert without_name(cohort, "studies") == without_name(cohort, "series") == 2


def test_a_file_of_which_one_volume_was_made_and_one_was_not_keeps_its_series():
    cohort = cohort_of([("A", "1", "x", "BAD_GEOMETRY")])
    kept = cohort.volumes.assign(volume_id="other", status="ok", reason="")
    cohort = Cohort(cohort.instances, pd.concat([cohort.volumes, kept]), **NONE)
    assert [level.stayed for level in flow(fates(cohort))] == [0, 1, 1, 1]


def test_files_refused_on_their_own_weigh_as_much_as_those_refused_with_their_series():
    cohort = cohort_of([("A", "1", "x", "MISSING_SLICE")] * 2)
    lost = cohort.instances.iloc[[0, 0, 0]].assign(instance_pid=["j1", "j2", "j3"], reason="PIXELDATA_TRUNCATED")
    cohort = Cohort(pd.concat([cohort.instances, lost]), cohort.volumes, **NONE)
    assert [level.left for level in flow(fates(cohort))[1:]] == [{"PIXELDATA_TRUNCATED": 1}] * 3


def test_an_empty_cohort_has_four_empty_levels():
    levels = flow(fates(cohort_of([])))
    assert [(level.entered, level.stayed, level.left) for level in levels] == [(0, 0, {})] * 4


@pytest.mark.parametrize("code", sorted(BY_DESIGN))
def test_what_is_left_out_by_design_is_in_the_table_of_reasons(code):
    assert code in REASONS
