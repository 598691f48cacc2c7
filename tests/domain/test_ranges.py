"""Which volumes a model is not asked about: each law at its edge, with value, range and remedy in the sentence."""

import json

import numpy as np
import pandas as pd
import pytest

from medssl.domain.ranges import COVERED, LEEWAY, NAME, ranges_of, read_ranges, write_ranges
from medssl.domain.refusals import REASONS, Refused, write_refused
from medssl.errors import UserError
from medssl.views import Crops

CUBE = Crops(size=(16, 16, 16))


def row(name="a", spacing=(1.0, 1.0, 3.0), shape=(20, 24, 16), **told):
    """A row of a store whose volume was prepared at 1 x 1 x 2 mm."""
    affine = np.diag([*spacing, 1.0]).ravel().tolist()
    prepared = [round(n * mm / goal) for n, mm, goal in zip(shape, spacing, (1, 1, 2), strict=True)]
    whole = {
        "volume_id": name, "modality": "MR", "role": "", "channels": 1, "shape": list(shape), "spacing": list(spacing),
        "affine": affine, "prepared_affine": np.diag([1.0, 1.0, 2.0, 1.0]).ravel().tolist(),
        "prepared_shape": prepared, "prepared_spacing": [1.0, 1.0, 2.0],
    }  # fmt: skip
    return whole | told


def picture(name="a", pixels=(400, 300), **told):
    return row(name, (1.0, 1.0, 1.0), (*pixels, 1), modality="DX", prepared_shape=[128, 128, 1], **told)


def code(trained, new, crops=CUBE):
    """The reason of a volume for a model that was trained on some; "" where it is answered."""
    ranges = ranges_of(pd.DataFrame(trained))
    found = ranges.other_kind(new) or ranges.outside(new, crops)
    assert found is None or found.told.endswith(REASONS[found.reason])
    return found.reason if found else ""


def test_what_it_was_trained_on_is_answered():
    rows = [row("a"), row("b", (0.5, 0.5, 4.0)), picture("c", role="")]
    assert [code(rows, one) for one in rows] == ["", "", ""]


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        (row(modality="CT"), "OTHER_MODALITY"),
        (row(modality="unknown"), "OTHER_MODALITY"),
        (row(role="adc"), "OTHER_ROLE"),
        (row(channels=3), "OTHER_CHANNELS"),
        (picture() | {"modality": "MR"}, "OTHER_FORM"),
        (row(spacing=(1.0, 1.0, 3.0 * LEEWAY)), ""),
        (row(spacing=(1.0, 1.0, 3.0 * LEEWAY * 1.001)), "SPACING_OUTSIDE"),
        (row(spacing=(1.0, 1 / LEEWAY, 3.0), shape=(20, 40, 16)), ""),
        (row(spacing=(1.0, 0.999 / LEEWAY, 3.0), shape=(20, 40, 16)), "SPACING_OUTSIDE"),
    ],
)
def test_the_law_of_each_reason(new, wanted):
    assert code([row("x"), row("y")], new) == wanted


@pytest.mark.parametrize(("slices", "wanted"), [(30, ""), (16, ""), (15, ""), (14, "TOO_FEW_SLICES")])
def test_fewer_slices_than_a_view_has_are_too_few_where_training_volumes_had_them(slices, wanted):
    assert 14 < COVERED * 16 <= 15
    assert code([row(prepared_shape=[20, 24, 24])], row(prepared_shape=[20, 24, slices])) == wanted
    small = row(prepared_shape=[20, 24, 10])
    assert code([small], row(prepared_shape=[20, 24, slices])) == ""
    assert code([small], row(prepared_shape=[20, 24, 8])) == "TOO_FEW_SLICES"


def test_a_flat_view_needs_one_slice_and_one_in_mm_as_many_as_it_reaches_over():
    assert code([row()], row(prepared_shape=[20, 24, 1]), Crops(size=(16, 16))) == ""
    wide = Crops(size=(16, 16, 4), mm=(16.0, 16.0, 40.0))  # 20 slices of 2 mm
    assert code([row(prepared_shape=[20, 24, 30])], row(prepared_shape=[20, 24, 17]), wide) == "TOO_FEW_SLICES"
    assert code([row(prepared_shape=[20, 24, 30])], row(prepared_shape=[20, 24, 18]), wide) == ""


def test_a_thumbnail_is_no_radiograph_and_pictures_have_no_millimetres():
    trained = [picture("x"), picture("y", (600, 500))]
    assert code(trained, picture(pixels=(20, round(400 / LEEWAY) + 1))) == ""
    assert code(trained, picture(pixels=(100, 80))) == "TOO_FEW_PIXELS"
    assert code(trained, picture() | {"spacing": [9.0, 9.0, 1.0]}) == ""


def test_axes_are_those_of_the_prepared_volume():
    sagittal = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    turned = row(spacing=(1.0, 1.0, 3.0), affine=sagittal.ravel().tolist())  # 3 mm along the prepared I
    ranges = ranges_of(pd.DataFrame([row()]))
    found = ranges.outside(turned, CUBE)
    assert found.reason == "SPACING_OUTSIDE"
    assert "voxels of 3 mm along I, trained on 1 mm" in found.told
    assert code([turned], turned) == ""


def test_a_triplet_s_roles_are_all_known():
    facts = [{"role": name} for name in ("t2w", "adc", "hbv")]
    trained = [row(role="t2w", channels=3, channel_facts=facts)]
    assert [code(trained, row(role=role, channels=3)) for role in ("t2w", "adc", "hbv")] == [""] * 3
    assert code(trained, row(role="", channels=3)) == "OTHER_ROLE"


def test_they_are_the_same_when_read_again_and_none_is_an_error(tmp_path):
    rows = pd.DataFrame([row("a"), row("b", (0.7, 0.7, 5.0)), picture("c")])
    write_ranges(tmp_path, rows)
    assert read_ranges(tmp_path) == ranges_of(rows)
    told = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        read_ranges(tmp_path)
    (tmp_path / NAME).unlink()
    with pytest.raises(UserError, match="run medssl finetune again with its recipe and store: it adds that"):
        read_ranges(tmp_path)


def test_what_it_began_with_was_learned_from_too_but_is_no_kind_that_it_answers(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    picture_rows, own = pd.DataFrame([picture("p"), row("a")]), pd.DataFrame([row("a"), row("b")])
    write_ranges(first, picture_rows)
    write_ranges(second, own, first)
    write_ranges(third, pd.DataFrame([row("c")]), second)
    assert read_ranges(second).volumes == {"a", "b", "p"} and read_ranges(third).volumes == {"a", "b", "c", "p"}
    assert read_ranges(second).kinds == ranges_of(own).kinds
    write_ranges(third, own, tmp_path / "of another program")
    assert read_ranges(third) == ranges_of(own)


def test_the_list_is_for_its_owner_and_there_when_empty(tmp_path):
    path = tmp_path / "p_refused.csv"
    write_refused(path, [])
    assert path.read_text().strip() == ",".join(Refused._fields)
    write_refused(path, [Refused("", "012/a b.nii", "UNREADABLE", "damaged, sadly")])
    assert pd.read_csv(path, dtype=str, keep_default_na=False).iloc[0].tolist() == [
        "", "012/a b.nii", "UNREADABLE", "damaged, sadly",
    ]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
