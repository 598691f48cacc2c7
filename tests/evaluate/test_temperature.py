"""Temperature scaling against its closed form, and that nobody who is judged has a say in it."""

import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import auroc, read_predictions
from medssl.evaluate.temperature import fit_temperature, log_loss, logit


def table(score, label, split="val"):
    count = len(score)
    return pd.DataFrame({
        "sample_id": [f"s{n}" for n in range(count)], "patient_id": [f"p{n}" for n in range(count)], "split": split,
        "label": np.asarray(label, float), "score": np.asarray(score, float),
    })  # fmt: skip


@pytest.mark.parametrize(("sure", "right"), [(0.99, 0.8), (0.6, 0.9)])
def test_one_logit_has_a_closed_form(sure, right):
    """Answers all as sure, of which a share is right: T = logit(sure) / logit(right), after which sure is what right is."""
    hits = np.arange(200) < 200 * right
    label = np.arange(200) % 2
    said = np.where(hits, label, 1 - label)
    found = fit_temperature(table(np.where(said == 1, sure, 1 - sure), label), "d")
    assert found.value == pytest.approx(logit(np.array(sure)) / logit(np.array(right)), rel=1e-4)
    assert found.of(np.array([sure])) == pytest.approx(right, rel=1e-4)


def test_a_known_temperature_is_found_again_and_ranks_stay(rng):
    logits = rng.normal(0, 2, 4000)
    label = rng.random(4000) < 1 / (1 + np.exp(-logits / 2.5))
    score = 1 / (1 + np.exp(-logits))
    found = fit_temperature(table(score, label), "d")
    assert found.value == pytest.approx(2.5, rel=0.1)
    scaled = found.of(score)
    assert log_loss(label, logit(scaled)) < log_loss(label, logit(score))
    assert auroc(truth=label.astype(float), score=scaled) == auroc(truth=label.astype(float), score=score)
    assert np.isnan(found.of(np.array([np.nan]))).all() and np.isfinite(found.of(np.array([0.0, 1.0]))).all()


def test_those_who_are_judged_have_no_say(rng):
    label = np.arange(80) % 2
    score = np.clip(0.3 + 0.4 * label + rng.normal(0, 0.25, 80), 0.01, 0.99)
    fitted = fit_temperature(table(score, label), "d")
    judged = table(1 - score, 1 - label, "test").assign(sample_id=lambda t: "t" + t["sample_id"])
    assert fit_temperature(pd.concat([table(score, label), judged]), "d").value == fitted.value
    with pytest.raises(UserError, match="split val: 0 positives and 0 negatives"):
        fit_temperature(judged, "d")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_keeps_what_was_and_says_where_it_is_from(tmp_path, capsys, ending, rng):
    label = np.arange(60) // 2 % 2
    given = table(np.clip(0.3 + 0.4 * label + rng.normal(0, 0.25, 60), 0.01, 0.99), label, ["val", "test"] * 30)
    given.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", str(tmp_path / "p.csv"), "-o", str(tmp_path / f"c.{ending}")])
    found = read_predictions(tmp_path / f"c.{ending}")
    assert np.allclose(found["score_before"], given["score"])
    assert "validation rows of 30 patients" in found["calibration"].iloc[0] and "temperature" in capsys.readouterr().out
    given.rename(columns={"score": "prob"}).to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        main(
            ["calibrate", str(tmp_path / "theirs.csv"), "--columns", "score=prob", "-o", str(tmp_path / f"d.{ending}")]
        )
    assert read_predictions(tmp_path / f"d.{ending}")["score"].equals(found["score"])
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", str(tmp_path / "p.csv"), "-o", str(tmp_path / "c.txt")])


def test_classes_that_are_separated_without_an_error_have_no_best_temperature(rng):
    label = np.arange(40) % 2
    with pytest.raises(UserError, match=r"no temperature from 0\.05 to 20 is best"):
        fit_temperature(table(np.where(label, 0.6, 0.4) + rng.uniform(-0.05, 0.05, 40), label), "d")
