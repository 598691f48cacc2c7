"""Crops told by geometry: which view holds a finding, and what of that is learned, and said of a volume."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn import functional

from medssl.adapt import finetune
from medssl.answers import Ensemble, likeliest
from medssl.evaluate import read_predictions
from medssl.explain import explain
from medssl.heads import Present
from medssl.predict import load_model, predict
from medssl.recipe import read_recipe
from medssl.runs import read_run
from medssl.store import open_store
from medssl.trunks import build_trunk
from medssl.views.select import build_views

SMALL = ["head={name: present, least: 40}", "views={size: [8, 8, 8], turn: 5}", "trunk={name: resenc, widths: [8, 16]}"]


def test_a_view_is_of_the_finding_s_label_and_a_cut_edge_of_none():
    head = Present(build_trunk({"name": "resenc", "widths": ["4", "8"]}, (8, 8, 8)), lesions=(2,), least=5)
    maps = torch.zeros(4, 8, 8, 8, dtype=torch.long)
    maps[1, 0, 0, :4], maps[2, 0, 0, :5], maps[3] = 2, 2, 1
    labels = head.labels(maps)
    assert labels[[0, 2, 3]].tolist() == [0, 1, 0] and labels[1].isnan()
    logits = torch.tensor([0.3, -2.0, 0.5, 1.0], requires_grad=True)
    loss = head.loss(logits, maps)
    kept = functional.binary_cross_entropy_with_logits(logits[[0, 2, 3]], torch.tensor([0.0, 1.0, 0.0]))
    assert loss.item() == pytest.approx(kept.item())
    loss.backward()
    assert logits.grad[1] == 0 and (logits.grad[[0, 2, 3]] != 0).all()
    assert head.loss(logits, maps[1:2].expand(4, -1, -1, -1)).item() == 0


def test_windows_with_a_ball_are_told_from_those_without(balls, tmp_path):
    changes = [*SMALL, "finetune={steps: 80, batch: 8, lr: 1e-2, precision: 32-true}"]
    run = finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "run")
    table = predict(run, balls / "store", tmp_path / "p.csv", splits=["test"])
    assert read_predictions(tmp_path / "p.csv")["label"].eq(1).all() and set(table["task"]) == {"present"}
    assert table["score"].gt(0.5).mean() > 0.8
    model, store = load_model(run, read_run(run)).eval(), open_store(balls / "store")
    scores, labels = [], []
    for name in table["sample_id"]:
        image, mask = store.read(name).astype(np.float32), store.read(name, "mask")[0]
        for i, j, k in np.ndindex(*(n // 8 for n in mask.shape)):
            box = (*(slice(8 * at, 8 * at + 8) for at in (i, j, k)),)
            label = model.head.labels(torch.from_numpy(mask[box].astype(np.int64))[None])
            if label.isfinite():
                with torch.no_grad():
                    scores.append(float(model.answer(torch.from_numpy(image[:, *box])[None])))
                labels.append(float(label))
    scores, labels = np.array(scores), np.array(labels)
    assert 10 < labels.sum() < 0.5 * len(labels)
    assert (scores[labels == 1][:, None] > scores[labels == 0]).mean() > 0.9


@pytest.mark.parametrize("size", [[8, 8, 8], [8, 8]])
def test_what_is_explained_is_the_window_that_was_answered_by(balls, tmp_path, size):
    changes = [*SMALL, f"views.size={size}", "finetune={steps: 2, batch: 2, precision: 32-true}"]
    run = finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "run")
    table = predict(run, balls / "store", tmp_path / "p.csv", splits=["test"]).set_index("sample_id")["score"]
    cases = [*table.index[:3]]
    told = explain(run, balls / "store", tmp_path / "maps", cases)
    assert told["score"].tolist() == pytest.approx(table[cases].tolist(), abs=1e-6)
    model, store = load_model(run, read_run(run)).eval(), open_store(balls / "store")
    for case in cases:
        seen = np.asarray(nib.load(tmp_path / "maps" / f"{case}.nii.gz").dataobj) > 0
        if not seen.any():
            continue
        inside = np.argwhere(seen)
        assert (inside.max(0) - inside.min(0) < [*size, 1][:3]).all()
        models = Ensemble(models=(model,), crops=build_views({"size": [*map(str, size)]}).crops)
        with torch.no_grad():
            score, start = likeliest(models, store, case)
        assert score == pytest.approx(table[case], abs=1e-6)
        assert (inside.min(0) >= start).all()
