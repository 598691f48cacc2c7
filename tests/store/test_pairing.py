"""A study's T2w, ADC and high-b become one case: which volumes, on which grid, in which units."""

import numpy as np
import pytest

from medssl.errors import UserError
from medssl.store import Preparation, open_store, prepare
from medssl.store.pairing import overlap, pair
from medssl.volume import Volume

T2, DWI = np.diag([-1.0, -1.0, 2.0, 1.0]), np.diag([-2.0, -2.0, 3.0, 1.0])
T2_SHAPE, DWI_SHAPE = (20, 24, 16), (16, 18, 14)
BPMRI = Preparation(mr_spacing=(1.0, 1.0, 2.0), groups="bpmri")
ADC_PER_MM = np.array([10.0, -7.0, 5.0])
"""Slope of a planted ADC ramp in 1e-6 mm2/s, so that the right value is known at every millimetre."""


def shifted(affine, *mm):
    there = affine.copy()
    there[:3, 3] += mm
    return there


DWI_PLACE = shifted(DWI, 4.0, 5.0, -4.0)
"""The diffusion grid holds all of the T2w's."""


def world(shape, affine):
    return Volume(np.empty((1, *shape), np.float32), affine).world(
        np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    )


def adc_at(points):
    return 1500 + points @ ADC_PER_MM


def ramp(shape, affine, factor=1.0):
    return (adc_at(world(shape, affine)) * factor).astype(np.float32)


class Study:
    """Series of one study, added to a clinic."""

    def __init__(self, clinic, name="a"):
        self.clinic, self.name, self.count = clinic, name, 0

    def add(self, role, affine=None, voxels=None, **told):
        default = T2 if role == "t2w" else DWI_PLACE
        affine = default if affine is None else affine
        shape = T2_SHAPE if role == "t2w" else DWI_SHAPE
        if voxels is None:
            noise = np.random.default_rng(self.count).normal(300, 30, shape).astype(np.float32)
            voxels = ramp(shape, affine) if role == "adc" else noise
        self.count += 1
        name = f"{self.name}{role}{self.count}"
        told = {"role": role, "study_pid": self.name, "patient_pid": self.name, **told}
        return self.clinic.scan(name, voxels=voxels, affine=affine, **told)

    def whole(self):
        return self.add("t2w"), self.add("adc"), self.add("hbv")


def made(clinic, settings=BPMRI):
    receipt = prepare(clinic.write(), clinic.store, settings=settings)
    return open_store(clinic.store), receipt


def why(store):
    return dict(zip(store.left_out["volume_id"], store.left_out["reason"], strict=True))


def test_three_series_become_three_channels_on_the_t2_grid(clinic):
    t2, adc, hbv = Study(clinic).whole()
    alone = prepare(clinic.write(), clinic.store, settings=Preparation(mr_spacing=(1.0, 1.0, 2.0)))
    single = open_store(clinic.store).read(t2)
    assert alone.prepared == 3
    store, receipt = made(clinic)
    assert (receipt.prepared, receipt.reasons, receipt.not_asked) == (1, {}, {})
    row = store.volumes.iloc[0]
    assert (row["volume_id"], row["role"], row["channels"], row["alignment"]) == (t2, "t2w", 3, "header")
    assert row["channel_volumes"].tolist() == [t2, adc, hbv]
    assert [facts["role"] for facts in row["channel_facts"]] == ["t2w", "adc", "hbv"]
    assert row["channel_overlap"].tolist() == [1.0, 1.0, 1.0]
    image = store.read(t2)
    assert image.shape == (3, *T2_SHAPE)
    assert np.array_equal(image[:1], single), "the T2w is what it is on its own"
    truth = adc_at(world(T2_SHAPE, store.affine(t2))) / 1000
    assert np.abs(image[1].astype(np.float32) - truth).max() < 2e-3, "ADC is in units of 1e-3 mm2/s at every mm"
    assert abs(float(np.median(image[2].astype(np.float32)))) < 0.1
    assert not row["has_valid"]


def test_beyond_a_partner_s_field_nothing_is_valid(clinic):
    study = Study(clinic)
    t2 = study.add("t2w")
    study.add("adc", shifted(DWI_PLACE, 0, 0, 8.0))  # the lowest T2w slices (2 mm) are below its field
    study.add("hbv")
    store, _ = made(clinic)
    valid, image = store.read(t2, "valid"), store.read(t2)
    assert (valid.shape, valid.dtype) == ((3, *T2_SHAPE), np.uint8)
    assert valid[[0, 2]].all()
    heights = world(T2_SHAPE, store.affine(t2))[..., 2]
    assert np.array_equal(valid[1] == 1, heights >= -4.0 + 8.0 - 1.5)
    assert (valid[1] == 0).any()
    assert (image[1][valid[1] == 0] == 0).all()
    assert store.volumes["channel_facts"][0][1]["valid_fraction"] == pytest.approx(valid[1].mean())
    assert store.volumes["channel_facts"][0][1]["mean"] == pytest.approx(
        adc_at(world(T2_SHAPE, store.affine(t2)))[valid[1] == 1].mean(), rel=1e-3
    )


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e-6])
def test_adc_in_any_of_its_units_is_the_same(clinic, factor):
    study = Study(clinic)
    t2 = study.add("t2w")
    study.add("adc", voxels=ramp(DWI_SHAPE, DWI_PLACE, factor))
    study.add("hbv")
    store, _ = made(clinic)
    truth = adc_at(world(T2_SHAPE, store.affine(t2))) / 1000
    assert np.abs(store.read(t2)[1].astype(np.float32) - truth).max() < 2e-3


def test_adc_in_no_known_unit_leaves_the_case_out(clinic):
    study = Study(clinic)
    t2 = study.add("t2w")
    study.add("adc", voxels=ramp(DWI_SHAPE, DWI_PLACE, 1e3))
    study.add("hbv")
    store, _ = made(clinic)
    assert why(store) == {t2: "ADC_UNITS_UNKNOWN"}
    assert store.left_out["detail"].tolist() == ["adc"]


def test_the_label_map_on_the_t2_stays(clinic):
    study = Study(clinic)
    study.add("adc")
    study.add("hbv")
    t2 = study.add("t2w")
    mask = np.zeros(T2_SHAPE, np.uint8)
    mask[5:9, 6:12, 4:8] = 2
    clinic.mask(mask, T2)
    store, receipt = made(clinic)
    assert receipt.masks == 1
    found = store.read(t2, "mask")
    assert found.shape == (1, *T2_SHAPE)
    assert found.sum() == mask.sum()
    places = [
        v.world(np.argwhere(v.voxels[0])).mean(0) for v in (Volume(found, store.affine(t2)), Volume(mask[None], T2))
    ]
    assert np.allclose(*places)


def test_a_repeat_is_chosen_by_overlap_then_voxels_and_the_rest_has_a_reason(clinic):
    study = Study(clinic)
    t2, adc, hbv = study.whole()
    half = study.add("adc", shifted(DWI_PLACE, 0, 0, 6.0))
    coarse = study.add("hbv", shifted(np.diag([-3.0, -3.0, 4.0, 1.0]), 6, 6, -6))
    store, receipt = made(clinic)
    assert store.volumes["channel_volumes"][0].tolist() == [t2, adc, hbv]
    assert why(store) == {half: "PAIR_SPARE", coarse: "PAIR_SPARE"}
    assert receipt.reasons == {"PAIR_SPARE": 2}


def test_a_second_t2_gives_way_to_the_one_with_a_label_map(clinic):
    study = Study(clinic)
    first, _, _ = study.whole()
    finer = study.add("t2w", shifted(T2, 0.1, 0, 0))
    clinic.mask(np.ones(T2_SHAPE, np.uint8), shifted(T2, 0.1, 0, 0))
    store, _ = made(clinic)
    assert store.volumes["volume_id"].tolist() == [finer]
    assert why(store) == {first: "PAIR_SPARE"}


def test_what_cannot_be_paired_has_a_reason(clinic):
    lone = [Study(clinic, "lone").add("t2w"), Study(clinic, "lone").add("hbv")]
    away = Study(clinic, "away")
    far = [away.add("t2w"), away.add("adc", shifted(DWI_PLACE, 300, 0, 0)), away.add("hbv")]
    blind = Study(clinic, "blind")
    unknown = [blind.add("t2w"), blind.add("adc", orientation="unknown"), blind.add("hbv")]
    other = clinic.scan("ct", modality="CT")
    clinic.scan("brain", role="")
    store, receipt = made(clinic)
    assert store.volumes["volume_id"].tolist() == [other], "MR of no role is not asked for"
    assert why(store) == (
        dict.fromkeys(lone, "PAIR_INCOMPLETE") | dict.fromkeys(far, "FOV_MISMATCH")
        | dict.fromkeys(unknown, "PAIR_INCOMPLETE")
    )  # fmt: skip
    assert receipt.reasons == {"PAIR_INCOMPLETE": 5, "FOV_MISMATCH": 3}
    assert receipt.not_asked == {"MR": 1}


def test_millimetres_of_two_frames_of_reference_do_not_meet(clinic):
    study = Study(clinic)
    t2 = study.add("t2w", frame_pid="one")
    adc, moved, hbv = (
        study.add("adc", frame_pid="one"),
        study.add("adc", frame_pid="two"),
        study.add("hbv", frame_pid=""),
    )
    store, _ = made(clinic)
    assert store.volumes["channel_volumes"][0].tolist() == [t2, adc, hbv], "an unknown frame is not another one"
    clinic.rows[1]["frame_pid"] = "two"
    store, _ = made(clinic)
    assert why(store) == dict.fromkeys((t2, adc, moved, hbv), "FOV_MISMATCH")


def test_a_broken_partner_leaves_the_case_out(clinic):
    t2, _, _ = Study(clinic).whole()
    (clinic.archive / clinic.files[-1]["path"]).write_bytes(b"not an image")
    store, _ = made(clinic)
    assert why(store).keys() == {t2}
    assert store.left_out["detail"][0].startswith("hbv")


def test_the_index_s_own_groups_come_before_studies(clinic):
    early, late = Study(clinic), Study(clinic)
    late.count = 3
    ids = [*early.whole(), *late.whole()]
    for number, row in enumerate(clinic.rows):
        row["pair_group"] = "early" if number < 3 else "late"
    store, _ = made(clinic)
    assert {tuple(ids_) for ids_ in store.volumes["channel_volumes"]} == {tuple(ids[:3]), tuple(ids[3:])}


def test_a_second_run_keeps_cases_and_another_partner_makes_one_again(clinic):
    study = Study(clinic)
    t2, _, hbv = study.whole()
    _, first = made(clinic)
    _, second = made(clinic)
    assert (first.reused, second.reused) == (0, 1)
    clinic.rows[2]["status"] = "excluded"
    other = study.add("hbv", shifted(DWI_PLACE, 0.2, 0, 0))
    store, third = made(clinic)
    assert third.reused == 0
    assert store.volumes["channel_volumes"][0].tolist()[2] == other != hbv
    assert store.volumes["volume_id"].tolist() == [t2]


def test_overlap_counts_turned_boxes_as_they_lie():
    box = {"shape": [20, 20, 20], "affine": np.eye(4).ravel()}
    half = {"shape": [20, 20, 20], "affine": shifted(np.eye(4), 10, 0, 0).ravel()}
    assert (overlap(box, box), overlap(box, half)) == (1.0, 0.5)
    turn = np.eye(4)
    turn[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    turn[:3, 3] = 9.5 - turn[:3, :3] @ np.full(3, 9.5)
    octagon = 8 * (np.sqrt(2) - 1) / 4  # a square turned by 45 degrees shares an octagon with itself
    assert overlap(box, {"shape": [20, 20, 20], "affine": turn.ravel()}) == pytest.approx(octagon, abs=0.03)


def test_nothing_is_paired_where_nothing_is_asked(clinic):
    Study(clinic).whole()
    clinic.write()
    table = open_cohort(clinic)
    assert not pair(table, "").partners
    assert not pair(table[:0], "bpmri").partners


def open_cohort(clinic):
    from medssl.manifest import read_cohort

    return read_cohort(clinic.cohort).volumes


@pytest.mark.parametrize("wrong", [{"groups": "mpmri"}, {"groups": "bpmri", "roles": ("t2w",)}], ids=str)
def test_settings_say_what_a_group_is(wrong):
    with pytest.raises(UserError, match=r"prepare\.(groups|roles)"):
        Preparation(**wrong)


RECIPE = """\
data: {modality: MR, role: t2w}
views: {size: [8, 8, 8], turn: 0}
trunk: {name: resenc, channels: 3, widths: [4, 8]}
method: {mask: {ratio: 0.5}, rebuild: {weight: 1.0}}
pretrain: {steps: 2, batch: 2, lr: 1e-3}
head: {name: segment, structures: [lesion]}
finetune: {steps: 2, batch: 1, lr: 1e-3}
"""


def test_a_case_of_three_channels_trains_and_predicts(clinic, tmp_path):
    from medssl.adapt import finetune
    from medssl.predict import predict
    from medssl.recipe import read_recipe
    from medssl.train import pretrain

    for name, split in (("a", "train"), ("b", "train"), ("c", "test")):
        study = Study(clinic, name)
        study.add("adc", split=split)
        study.add("hbv", split=split)
        study.add("t2w", split=split)
        clinic.mask(np.ones(T2_SHAPE, np.uint8), T2)
    store, _ = made(clinic)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    start = pretrain(recipe, store.path, tmp_path / "trunk")
    model = finetune(recipe, store.path, tmp_path / "model", start=start)
    table = predict(model, store.path, tmp_path / "predictions.csv", splits=("test",))
    assert len(table) == 1
    assert np.isfinite(table["dice_lesion"]).all()
