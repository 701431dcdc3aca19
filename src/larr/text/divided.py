"""Divides a language model among the processes of a group: fully sharded data parallelism.

Each process keeps a part of every weight, with its gradient and optimizer state. The weights of a
layer are gathered when it computes, and freed afterwards; its gradients are added up, and each
process receives those of its part. So all processes must call the model equally often.
Source: ZeRO, arXiv 1910.02054; FSDP, arXiv 2304.11277.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import Module, Parameter
from transformers import PreTrainedModel

from larr.group import Group
from larr.text.backbone import stack_of


def divide(model: Module, group: Group) -> Module:
    """Divides a model in place, and returns a copy without weights, for `collect`.

    If the group does not divide, returns the model itself. Embeddings and heads are gathered for
    the whole of a forward or backward pass.
    """
    if not group.divides:
        return model
    empty = {
        id(weight): Parameter(weight.detach().to("meta"), weight.requires_grad)
        for weight in model.parameters()
    }
    whole: Module = copy.deepcopy(model, empty)
    torch.set_autocast_cache_enabled(False)  # it would keep copies of gathered weights
    mesh = init_device_mesh("cpu", (group.size,))
    body = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    for part in (*body.get_submodule(stack_of(body)), model):
        # by default the outermost module would keep its weights, which the optimizer must not see
        divided = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        divided.set_gradient_divide_factor(1.0)  # losses are shares of the sum over all processes
        divided.set_force_sum_reduction_for_comms(enable=True)
    return whole


@torch.no_grad()
def collect(model: Module, whole: Module) -> None:
    """Gives the copy from `divide` the weights, in the first process; all processes must call it.

    In the others it has none.
    """
    if whole is model:
        return
    torch.set_autocast_cache_enabled(True)
    parts: Iterable[Any] = model.parameters()
    for part, empty in zip(parts, whole.parameters(), strict=True):
        weight = part.full_tensor()
        if distributed.get_rank() == 0:
            torch.utils.swap_tensors(empty, Parameter(weight, empty.requires_grad))
