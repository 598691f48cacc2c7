import math

import pytest
import torch

from medssl.methods.pairs import Pairs, Rows
from medssl.methods.relations import info_nce


def instance_relation(scan, patient, scanner, *, same_scanner):
    """What contrast compares when its recipe names no pairs."""
    rows = Rows(facts={"scan": scan, "patient": patient, "scanner": scanner})
    return Pairs(ignore=Pairs.ignore if same_scanner else Pairs.ignore[:1]).between(rows, rows)


def plain_info_nce(z, positive, ignore, temperature):
    """Loops over rows and pairs; nobody can doubt it."""
    unit = [row / row.norm() for row in z]
    losses = []
    for i in range(len(z)):
        allowed = [j for j in range(len(z)) if not ignore[i][j]]
        mates = [j for j in range(len(z)) if positive[i][j]]
        if not mates:
            continue
        below = sum(math.exp(float(unit[i] @ unit[j]) / temperature) for j in allowed)
        losses.append(
            sum(-math.log(math.exp(float(unit[i] @ unit[j]) / temperature) / below) for j in mates) / len(mates)
        )
    return sum(losses) / len(losses)


def rows():
    scan = torch.tensor([0, 1, 2, 3] * 2)
    patient = torch.tensor([0, 0, 1, 2] * 2)
    scanner = torch.tensor([0, 0, 0, 1] * 2)
    return scan, patient, scanner


@pytest.mark.parametrize("same_scanner", [True, False])
def test_info_nce_equals_its_slow_twin(same_scanner):
    torch.manual_seed(0)
    z = torch.randn(8, 5, dtype=torch.float64)
    positive, ignore = instance_relation(*rows(), same_scanner=same_scanner)
    assert info_nce(z, positive, ignore, 0.3).item() == pytest.approx(
        plain_info_nce(z, positive, ignore, 0.3), rel=1e-5
    )


def test_relations_say_who_is_who():
    positive, ignore = instance_relation(*rows(), same_scanner=True)
    assert positive[0].tolist() == [False] * 4 + [True] + [False] * 3
    # itself, the other scan of the same patient (twice), and the scan of another scanner (twice)
    assert ignore[0].nonzero().flatten().tolist() == [0, 1, 3, 5, 7]
    assert not (positive & ignore).any()
    _, anyone = instance_relation(*rows(), same_scanner=False)
    assert anyone[0].nonzero().flatten().tolist() == [0, 1, 5]


def test_perfect_and_uniform_embeddings_have_known_losses():
    scan = torch.tensor([0, 1, 0, 1])
    positive, ignore = instance_relation(scan, scan, torch.zeros(4), same_scanner=True)
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert info_nce(apart, positive, ignore, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(torch.ones(4, 2), positive, ignore, 0.5).item() == pytest.approx(math.log(3))


def test_permuting_rows_and_scaling_vectors_change_nothing():
    torch.manual_seed(1)
    z, order = torch.randn(8, 6), torch.randperm(8)
    scan, patient, scanner = rows()
    once = info_nce(z, *instance_relation(scan, patient, scanner, same_scanner=True), 0.2)
    mixed = info_nce(
        3 * z[order], *instance_relation(scan[order], patient[order], scanner[order], same_scanner=True), 0.2
    )
    assert mixed.item() == pytest.approx(once.item(), rel=1e-5)


def test_without_positives_the_loss_is_zero_and_harmless():
    z = torch.randn(3, 4, requires_grad=True)
    loss = info_nce(z, torch.zeros(3, 3, dtype=torch.bool), torch.eye(3, dtype=torch.bool), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()
