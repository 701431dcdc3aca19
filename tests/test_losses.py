"""The losses, compared with values computed by hand and with naive twins."""

import math

import pytest
import torch
from torch import Tensor

from larr.losses import click_loss, info_nce


def naive_info_nce(scores: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Eq. (24)-(25) term by term, with the logarithm."""
    anchors, candidates = scores.shape
    total = scores.new_zeros(())
    for i in range(anchors):
        row = [scores[i, j] for j in range(candidates) if j == i or not excluded[i, j]]
        column = [scores[k, i] for k in range(anchors) if k == i or not excluded[k, i]]
        for terms in (row, column):
            logits = torch.stack(terms) / temperature
            total = total - (scores[i, i] / temperature - logits.logsumexp(0))
    return total / (2 * anchors)


def test_info_nce_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.25]])
    rows = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(0.5))]
    columns = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-0.5))]
    none = torch.zeros(2, 2, dtype=torch.bool)
    expected = (sum(rows) + sum(columns)) / 4
    assert info_nce(scores, none, 0.5).item() == pytest.approx(expected, abs=1e-6)
    lower = torch.tensor([[True, False], [True, True]])  # the diagonal is never excluded
    expected = (rows[0] + columns[1]) / 4
    assert info_nce(scores, lower, 0.5).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("temperature", [0.1, 0.024, 0.003])
def test_info_nce_and_its_gradient_equal_the_naive_twin(extra: int, temperature: float) -> None:
    scores = (torch.rand(6, 6 + extra) * 2 - 1).requires_grad_()
    excluded = torch.rand(6, 6 + extra) < 0.3
    fast = info_nce(scores, excluded, temperature)
    slow = naive_info_nce(scores, excluded, temperature)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(3 * fast, scores)
    (expected,) = torch.autograd.grad(3 * slow, scores)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_info_nce_of_one_row_is_zero_and_of_equal_scores_the_logarithm_of_the_batch() -> None:
    one = torch.zeros(1, 1, dtype=torch.bool)
    assert info_nce(torch.tensor([[0.3]]), one, 0.1).item() == 0
    equal = info_nce(torch.full((8, 8), 0.7), torch.zeros(8, 8, dtype=torch.bool), 0.1)
    assert equal.item() == pytest.approx(math.log(8), abs=1e-6)


def test_click_loss_is_the_sum_over_tasks_of_means() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    labels = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    click = (math.log(2) + math.log(1 + math.e)) / 2
    order = (math.log(1 + math.exp(2)) + math.log(1 + math.e)) / 2
    same, weights = torch.empty(2, 0), torch.tensor([[2.0], [0.0]])
    assert click_loss(logits, labels, same).item() == pytest.approx(click + order, abs=1e-6)
    first = math.log(2) + math.log(1 + math.exp(2))
    assert click_loss(logits, labels, weights).item() == pytest.approx(first, abs=1e-6)
