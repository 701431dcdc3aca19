"""The loss functions of stages 2 and 3.

Shapes: A anchors, B candidates (the first A are the positives of the anchors, in order), T tasks,
W = 1 or 0 weights per row.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

SPREAD = 2.0  # the largest difference of two cosines
FLOAT32_EXPONENTS = 70.0  # exp(-87) is a normal float32; the rest is for popularity corrections


def info_nce(scores_AB: Tensor, excluded_AB: Tensor, temperature: float) -> Tensor:
    """Returns the cross-entropy of the diagonal in a matrix of cosines, mean of both directions.

    Paper: Eq. (12)-(16), (19)-(20), (24)-(25), with the logarithm that is missing there (decision
    1). Entries of `excluded_AB` (bool) are excluded from both denominators (decisions 9, 19), but
    not on the diagonal. Columns after the first A are negatives only for the rows. The temperature
    must be at least 1 / 350: exp(-700) is near the smallest normal float64.
    """
    return cast(Tensor, _InfoNce.apply(scores_AB, excluded_AB, temperature))


class _InfoNce(torch.autograd.Function):
    """`info_nce` with an explicit gradient, three times as fast as autograd on a CPU.

    Both directions share one matrix of exponentials, relative to the largest score of the matrix;
    row-wise and column-wise softmax would need a matrix each. In rows far below the largest score
    all exponentials are small, so low temperatures need float64. The precision depends only on the
    temperature, as reading the scores would synchronise with the GPU at each step.
    """

    @staticmethod
    def forward(ctx: Any, scores_AB: Tensor, excluded_AB: Tensor, temperature: float) -> Tensor:
        anchors = scores_AB.shape[0]
        is_wide = SPREAD / temperature > FLOAT32_EXPONENTS
        scores_AB = scores_AB.double() if is_wide else scores_AB.float()
        shares_AB = (scores_AB - scores_AB.max()).div_(temperature).exp_()
        positive_A = shares_AB.diagonal().clone()
        shares_AB = torch.where(excluded_AB, 0.0, shares_AB)
        shares_AB.diagonal().copy_(positive_A)
        rows_A, columns_A = shares_AB.sum(1), shares_AB[:, :anchors].sum(0)
        ctx.save_for_backward(shares_AB, rows_A, columns_A)
        ctx.temperature = temperature
        return ((rows_A.log() + columns_A.log()) / 2 - positive_A.log()).mean().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        shares_AB, rows_A, columns_A = ctx.saved_tensors
        anchors = len(rows_A)
        scale = gradients[0] / (2 * anchors * ctx.temperature)
        slope_AB = shares_AB * (scale / rows_A)[:, None]
        slope_AB[:, :anchors].addcmul_(shares_AB[:, :anchors], scale / columns_A)
        slope_AB.diagonal().sub_(2 * scale)
        return slope_AB, None, None


def click_loss(logits_BT: Tensor, labels_BT: Tensor, weights_BW: Tensor) -> Tensor:
    """Returns L_ctr: the mean binary cross-entropy, summed over the tasks.

    Paper: Eq. (26); BCE(click) + BCE(order) in a log with orders (decision 26). `weights_BW` has
    one column, or none for equal weights.
    """
    losses_BT = functional.binary_cross_entropy_with_logits(
        logits_BT.float(), labels_BT.float(), reduction="none"
    )
    if weights_BW.shape[1]:
        losses_BT = losses_BT * weights_BW
    return losses_BT.mean(dim=0).sum()


def cosine(first_AD: Tensor, second_BD: Tensor) -> Tensor:
    """Returns s_theta, the cosines of all pairs, [A, B]. Paper: Eq. (11), decision 7."""
    return functional.normalize(first_AD, dim=1) @ functional.normalize(second_BD, dim=1).T


def false_negatives(keys_AK: Tensor) -> Tensor:
    """Returns a mask of pairs of rows that share a key (user, place, chain or text), bool [A, A].

    Paper: the negatives of Eq. (12)-(19), decisions 9 and 10. Keys below 0 are missing.
    """
    same_AAK = (keys_AK[:, None] == keys_AK[None, :]) & (keys_AK[:, None] >= 0)
    return same_AAK.any(dim=2)
