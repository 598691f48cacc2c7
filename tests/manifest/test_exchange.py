"""A cohort out to BIDS and nnssl, and back in through a card: the same people."""

import json
import stat

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.manifest import Card, index, read_card, read_cohort
from medssl.manifest.exchange import export_bids, export_nnssl, import_nnssl

PEOPLE = "participant_id\tsex\tage\nsub-01\tF\t34\nsub-02\tm\tn/a\nsub-03\tn/a\t77\n"


@pytest.fixture
def bids(tmp_path):
    """A BIDS data set of three subjects, one with two sessions, and what is not anatomy beside it."""
    root = tmp_path / "bids"
    places = ["sub-01/ses-1/anat/a", "sub-01/ses-2/anat/a", "sub-02/anat/b", "sub-03/anat/c", "sub-03/func/bold"]
    for n, place in enumerate(places):
        path = root / f"{place}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        voxels = np.random.default_rng(n).integers(0, 99, (5, 6, 7)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    (root / "participants.tsv").write_text(PEOPLE)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    return root


def facts(cohort):
    """Sex, age and number of studies and volumes of each patient, without names."""
    people = read_cohort(cohort).patients.fillna(-1)
    return sorted(map(tuple, people[["sex", "age_years", "n_volumes"]].to_numpy().tolist()))


def test_a_bids_set_is_read_by_its_card(bids, tmp_path):
    receipt = index(bids, tmp_path / "c", card=read_card("data_manifests/bids.yaml"))
    assert (receipt.volumes, receipt.patients, receipt.studies) == (4, 3, 4 - 2)
    assert facts(tmp_path / "c") == [("F", 34.0, 2), ("M", -1.0, 1), ("unknown", 77.0, 1)]


def test_participants_out_and_in_again(bids, tmp_path):
    index(bids, tmp_path / "c", card=read_card("data_manifests/bids.yaml"))
    path = export_bids(tmp_path / "c", tmp_path / "out")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    assert table["participant_id"].str.fullmatch(r"sub-[a-z2-7]{26}").all()
    assert sorted(zip(table["sex"], table["age"], strict=True)) == [("F", "34"), ("M", "n/a"), ("n/a", "77")]
    assert (table["race"] == "n/a").all()
    about = json.loads(path.with_suffix(".json").read_text())
    assert set(about) == set(table.columns)
    assert about["age"]["Units"] == "years"
    assert "sub-01" not in path.read_text()


def test_words_that_would_break_a_row(bids, tmp_path):
    (bids / "participants.tsv").write_text(PEOPLE.replace("\tF\t", "\tF\t"))
    card = read_card("data_manifests/bids.yaml")
    index(bids, tmp_path / "c", card=card)
    people = pd.read_parquet(tmp_path / "c" / "patients.parquet")
    people.assign(site="north\twing\nfloor 2").to_parquet(tmp_path / "c" / "patients.parquet")
    told = json.loads((tmp_path / "c" / "receipt.json").read_text())
    (tmp_path / "c" / "receipt.json").write_text(json.dumps(told | {"tables": {}}))
    table = pd.read_csv(export_bids(tmp_path / "c", tmp_path / "out"), sep="\t", dtype=str)
    assert set(table["site"]) == {"north wing floor 2"}


def test_a_collection_out_and_in_again(bids, tmp_path):
    card = Card(**{**vars(read_card("data_manifests/bids.yaml")), "splits": {"train": 1.0}})
    index(bids, tmp_path / "c", card=card)
    path, left = export_nnssl(tmp_path / "c", tmp_path / "out", name="ours")
    assert left == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    subjects = content["datasets"]["1"]["subjects"]
    assert len(subjects) == 3
    assert sorted(len(one["sessions"]) for one in subjects.values()) == [1, 1, 2]
    images = [i for one in subjects.values() for session in one["sessions"].values() for i in session["images"]]
    assert len({image["name"] for image in images}) == 4
    assert all(
        image["name"].endswith(".nii.gz") and nib.load(image["image_path"]).shape == (5, 6, 7) for image in images
    )
    made = import_nnssl(path, bids, tmp_path / "card")
    receipt = index(bids, tmp_path / "d", card=read_card(made))
    assert (receipt.volumes, receipt.patients) == (4, 3)  # not the functional image, which it does not list
    assert facts(tmp_path / "d") == facts(tmp_path / "c")


def test_those_who_are_judged_are_not_for_pretraining(bids, tmp_path):
    card = Card(**{**vars(read_card("data_manifests/bids.yaml")), "splits": {"test": 1.0}})
    index(bids, tmp_path / "c", card=card)
    with pytest.raises(UserError, match="no volume for training"):
        export_nnssl(tmp_path / "c", tmp_path / "out", name="ours")


COLLECTION = {
    "collection_index": 7,
    "collection_name": "Theirs 1",
    "datasets": {
        "3": {"dataset_index": 3, "subjects": {"s1": {
            "subject_id": "s1", "subject_info": {"age": 51, "sex": "F", "handedness": "left"},
            "sessions": {"0": {"session_id": 0, "session_info": None, "images": [
                {"name": "b.nii.gz", "image_path": "$nnssl_raw/sub-02/anat/b_T1w.nii.gz", "modality": "T1w",
                 "image_info": None,
                 "associated_masks": {"anatomy_mask": None, "anonymization_mask": "$nnssl_raw/sub-03/anat/c_T1w.nii.gz"}},
            ]}}}}},
    },
}  # fmt: skip


def test_a_collection_of_theirs(bids, tmp_path, monkeypatch):
    (tmp_path / "theirs.json").write_text(json.dumps(COLLECTION))
    monkeypatch.delenv("nnssl_raw", raising=False)
    with pytest.raises(UserError, match=r"^\$nnssl_raw: .* export nnssl_raw=FOLDER$"):
        import_nnssl(tmp_path / "theirs.json", bids, tmp_path / "card")
    monkeypatch.setenv("nnssl_raw", str(bids))
    card = read_card(import_nnssl(tmp_path / "theirs.json", bids, tmp_path / "card"))
    receipt = index(bids, tmp_path / "c", card=card)
    assert (receipt.volumes, receipt.by_modality) == (1, {"MR": 1})
    assert facts(tmp_path / "c") == [("F", 51.0, 1)]
    with pytest.raises(UserError, match=r"^[^:]*: an image of the collection lies outside it"):
        import_nnssl(tmp_path / "theirs.json", tmp_path / "card", tmp_path / "x")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"datasets": {"1": {}}}', '{"datasets": {"1": {"subjects": 3}}}'])
def test_what_is_no_collection(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"not a pretrain_data\.json"):
        import_nnssl(tmp_path / "x.json", tmp_path, tmp_path / "card")


def test_from_the_shell(bids, tmp_path, capsys):
    index(bids, tmp_path / "c", card=Card(**{**vars(read_card("data_manifests/bids.yaml")), "splits": {"train": 1.0}}))
    out, card = tmp_path / "out", tmp_path / "card"
    commands = [
        ["export", tmp_path / "c", "-o", out],
        ["export", tmp_path / "c", "-o", out, "--to", "nnssl"],
        ["import", out / "pretrain_data.json", "--archive", bids, "-o", card],
    ]
    for arguments in commands:
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)))
        assert left.value.code == 0
    assert "medssl index" in capsys.readouterr().out
    assert read_card(tmp_path / "card" / "card.yaml").only_listed
