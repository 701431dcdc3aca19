"""What the machine can do."""

from __future__ import annotations

import torch


def device() -> str:
    """Where models run: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16_is_fast() -> bool:
    """Whether this GPU or processor has bfloat16 products in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
