"""Maps of the nerve fibre layer with a visual field: every pixel where it belongs, to the prepared store and out of it."""

import numpy as np
import pandas as pd
import pytest

from medssl.archive import Refusal, open_volume
from medssl.archive.field import POINTS, ROWS, field_picture
from medssl.archive.npz import header
from medssl.errors import UserError
from medssl.manifest import index, read_card
from medssl.store import Preparation, open_store, prepare
from medssl.views import Crops
from medssl.views.select import narrowed, select
from tests.conftest import REPOSITORY

GAP = -999.0
LAYOUT = """
. . . 0 1 2 3 . .
. . 4 5 6 7 8 9 .
. 10 11 12 13 14 15 16 17
18 19 20 21 22 23 24 . 25
26 27 28 29 30 31 32 . 33
. 34 35 36 37 38 39 40 41
. . 42 43 44 45 46 47 .
. . . 48 49 50 51 . .
"""
"""Numbers of the points of a right eye's 24-2 field, row by row, as they are printed."""


def golden():
    rows = [[GAP if word == "." else float(word) for word in line.split()] for line in LAYOUT.strip().splitlines()]
    return np.array(rows)


def write(path, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: np.asarray(value) for name, value in members.items()})
    return path


def thickness(seed=0, missing=True):
    found = np.random.default_rng(seed).uniform(0, 349, (225, 225))
    if missing:
        found[50:60, 70:90], found[100, 100] = -1, -2
    return found


def test_the_points_of_a_row_add_up_to_the_field():
    assert [len(row) for row in ROWS] == [4, 6, 8, 8, 8, 8, 6, 4] and sum(map(len, ROWS)) == POINTS == 52


def test_each_point_is_a_rectangle_at_its_place():
    picture = field_picture(np.arange(52.0), (224, 224))
    for row in range(8):
        for column in range(9):
            block = np.nan_to_num(picture[28 * row : 28 * (row + 1), 25 * column : 25 * (column + 1)], nan=GAP)
            assert block.shape == (28, 24 if column == 8 else 25)
            assert (block == golden()[row, column]).all(), (row, column)
    assert np.isnan(picture[90, 180]) and picture[90, 210] == 25  # the blind spot, and the point beyond it


def test_a_map_and_its_field_are_two_channels(tmp_path):
    path = write(tmp_path / "data_0001.npz", rnflt=thickness(), tds=np.arange(52.0) - 30)
    volume = open_volume(path)
    assert volume.voxels.shape == (2, 224, 224, 1) and volume.unit == "um, dB" and volume.spacing_source == "nominal"
    told = header(path, path.stat().st_size)
    assert told.shape == volume.shape and np.allclose(np.reshape(told.affine, (4, 4)), volume.affine)
    assert np.allclose(volume.affine @ [0, 0, 0, 1], [6 / 225, 6 / 225, 0, 1])  # the second pixel of the whole map
    source = thickness()
    assert volume.voxels[0, 3, 7, 0] == np.float32(source[8, 4])  # (column, row): one less than in the file
    missing = np.isnan(volume.voxels[0])
    assert missing.sum() == 201 and missing[69:89, 49:59].all() and missing[99, 99]
    assert volume.voxels[1, 80, 0, 0] == -30 and np.isnan(volume.voxels[1, 0, 0, 0])


@pytest.mark.parametrize("field", [None, np.full(52, np.nan)])
def test_a_map_without_a_field_is_one_channel(tmp_path, field):
    members = {} if field is None else {"tds": field}
    volume = open_volume(write(tmp_path / "data_0001.npz", rnflt=thickness()[:50, :60], **members))
    assert volume.voxels.shape == (1, 60, 50, 1) and volume.unit == "um" and not volume.affine[:3, 3].any()


@pytest.mark.parametrize("field", [np.zeros(54), np.zeros(70_000), np.array(["a"] * 52)])
def test_what_is_no_field_is_refused(tmp_path, field):
    path = write(tmp_path / "data_0001.npz", rnflt=thickness(), tds=field)
    for read in (open_volume, lambda one: header(one, 0)):
        with pytest.raises(Refusal) as refusal:
            read(path)
        assert refusal.value.code == "NPZ_LAYOUT"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """Twenty patients in the layout of Harvard-GDP, the last without a visual field, from files to store."""
    folder = tmp_path_factory.mktemp("gdp")
    rng = np.random.default_rng(3)
    for number in range(20):
        field = {} if number == 19 else {"tds": rng.uniform(-38, 26, 52)}
        progression = rng.integers(0, 2, 6) if number < 12 else np.full(6, -1)
        write(
            folder / "archive" / "rnflt_maps" / f"data_{number + 1:04d}.npz", rnflt=thickness(number), **field,
            md=rng.uniform(-10, 1), age=40.0 + number, male=number % 2, race=number % 3, hispanic=0, glaucoma=number % 2,
            progression=progression,
        )  # fmt: skip
    index(folder / "archive", folder / "cohort", card=read_card(REPOSITORY / "data_manifests" / "harvard_gdp.yaml"))
    prepare(folder / "cohort", folder / "store", settings=Preparation(modalities=("OPT",), xray_pixels=224))
    return folder


def test_the_store_holds_what_the_authors_train_on_but_for_the_scale_of_the_thickness(clinic):
    store = open_store(clinic / "store")
    sources = pd.read_parquet(clinic / "cohort" / "phi" / "sources.parquet").set_index("volume_id")["path"]
    assert len(store.volumes) == 20 and sorted(store.volumes["channels"]) == [1] + [2] * 19
    for name in store.volumes.query("channels == 2")["volume_id"][:4]:
        with np.load(clinic / "archive" / sources[name]) as file:
            rnflt, tds = file["rnflt"], file["tds"]
        theirs = np.clip(np.delete(np.delete(rnflt, 0, 0), 0, 1), -2, 350) + 2
        codes = np.delete(np.delete(rnflt, 0, 0), 0, 1) < 0
        image, valid = store.read(name)[..., 0], store.read(name, "valid")[..., 0]
        assert np.array_equal(valid[0] == 0, codes.T) and not image[0][codes.T].any()
        assert np.allclose(image[0][~codes.T], theirs.T[~codes.T] / 352, atol=1e-3)
        points = (tds + 38) / 64 * 2
        cells = np.array([[0 if one == GAP else points[int(one)] for one in row] for row in golden()])
        assert np.allclose(image[1].T, cells.repeat(28, 0).repeat(25, 1)[:, :-1], atol=2e-3)
        facts = store.volumes.set_index("volume_id").loc[name, "channel_facts"]
        assert [one["role"] for one in facts] == ["rnfl", "visual field"]


def test_a_recipe_reads_one_channel_or_both(clinic):
    store = open_store(clinic / "store")
    whole = store.volumes.query("channels == 2")["volume_id"].iloc[0]
    one = narrowed(store, {"channels": ["0"]})
    assert set(select(one, {"channels": ["0"]}, split="train")["channels"]) == {1}
    assert np.array_equal(one.read(whole), store.read(whole)[:1])
    assert np.array_equal(one.read(whole, "valid"), store.read(whole, "valid")[:1])
    with pytest.raises(UserError, match=r"data\.channels: \[1\], but 1 of 20 volumes have no channel 1"):
        narrowed(store, {"channels": ["1"]})
    assert np.array_equal(store.only((1, 0)).read(whole), store.read(whole)[::-1])
    part = store.only((1,)).read(whole, "image", (0, 0, 0), (9, 9, 1))
    assert np.array_equal(part, store.read(whole, "image", (0, 0, 0), (9, 9, 1))[1:])
    assert narrowed(store, {}) is store
    with pytest.raises(UserError, match=r"data\.channels: \[0, 0\] names one twice"):
        narrowed(store, {"channels": ["0", "0"]})


def test_an_unaltered_view_is_the_map(clinic):
    from medssl.answers import whole_view

    store = open_store(clinic / "store")
    name = store.volumes["volume_id"].iloc[0]
    view = whole_view(store, name, Crops(size=(224, 224)))
    assert np.array_equal(view[0].numpy(), store.read(name)[..., 0].astype(np.float32))


SMALL = ["finetune={steps: 4, batch: 2, precision: 32-true}", "views.size=[64, 64]", "trunk.widths=[4, 4, 4, 4, 4]"]
CLASSIFY = "head={name: classify, label: glaucoma, covariates: [age_years, md]}"


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        (["learn={name: pseudo_supervisor, window: 2}"], 1),
        (["learn={}", "data.channels=[0, 1]", "trunk.channels=2"], 2),
        (["learn={}", CLASSIFY], 1),
    ],
    ids=["as it ships", "with the field", "detection"],
)
def test_the_recipe_of_the_set_takes_its_steps(clinic, tmp_path, changes, channels):
    """Training, predictions, features and maps all read the channels that it names."""
    from medssl.adapt import finetune
    from medssl.explain import explain
    from medssl.predict import load_model, predict
    from medssl.probe.features import features_of
    from medssl.recipe import read_recipe
    from medssl.runs import read_run

    recipe = read_recipe(REPOSITORY / "pipelines" / "harvard_gdp_progression.yaml", [*SMALL, *changes])
    store = clinic / "store"
    if channels == 2:  # the file without a field is left out, as a cohort of complete files is
        store = _without_lone_channels(clinic, tmp_path / "store")
    run = finetune(recipe, store, tmp_path / "run")
    assert load_model(run, read_run(run)).trunk.channels == channels
    table = predict(run, store, tmp_path / "p.csv", splits=["train"])
    assert table["score"].between(0, 1).all() and set(table["task"]) == {recipe["head"]["label"]}
    features, rows = features_of(run, open_store(store), "train")
    assert len(features) == len(rows) >= len(table)
    assert len(explain(run, store, tmp_path / "maps", table["sample_id"].tolist()[:1])) == 1


def _without_lone_channels(clinic, folder):
    """A store of those files that have a field."""
    import shutil

    shutil.copytree(clinic / "archive", folder.with_name("archive"))
    (folder.with_name("archive") / "rnflt_maps" / "data_0020.npz").unlink()
    card = read_card(REPOSITORY / "data_manifests" / "harvard_gdp.yaml")
    index(folder.with_name("archive"), folder.with_name("cohort"), card=card)
    prepare(folder.with_name("cohort"), folder, settings=Preparation(modalities=("OPT",), xray_pixels=224))
    return folder
