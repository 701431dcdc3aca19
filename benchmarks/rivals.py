"""PLE in other libraries, as they document it. `benchmarks/training.py` runs this in their venvs.

Only numpy, pandas, pyarrow and torch may be imported here. TorchRec has no PLE, so a plain one is
trained on its embedding tables with their fused optimizer, in bf16 where this is fast.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

LABELS, BATCH, RATE, EMBEDDING = ["click", "order"], 2400, 8e-4, 16
EXPERTS, TOWERS = [128, 64], [64]
Result = tuple[float, np.ndarray]
"""Seconds of the training, and the scores of the test rows, [N, T]."""


def deepctr_torch(train: pd.DataFrame, test: pd.DataFrame, sizes: dict[str, int]) -> Result:
    """Trains DeepCTR-Torch's PLE."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import PLE

    numbers = [name for name in train if name not in (*sizes, *LABELS)]
    columns = [SparseFeat(name, size, embedding_dim=EMBEDDING) for name, size in sizes.items()]
    columns += [DenseFeat(name, 1) for name in numbers]
    model = PLE(
        columns,
        shared_expert_num=2,
        specific_expert_num=2,
        expert_dnn_hidden_units=EXPERTS,
        gate_dnn_hidden_units=[],
        tower_dnn_hidden_units=TOWERS,
    )
    losses = 2 * ["binary_crossentropy"]
    model.compile(torch.optim.Adam(model.parameters(), lr=RATE), loss=losses)
    inputs, labels = {name: train[name].to_numpy() for name in train}, train[LABELS].to_numpy()
    started = time.perf_counter()
    model.fit(inputs, labels, batch_size=BATCH, epochs=1, verbose=0)
    seconds = time.perf_counter() - started
    return seconds, model.predict({name: test[name].to_numpy() for name in test}, 4096)


def torch_rechub(train: pd.DataFrame, test: pd.DataFrame, sizes: dict[str, int]) -> Result:
    """Trains torch-rechub's PLE."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import PLE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator, PredictDataset

    numbers = [name for name in train if name not in (*sizes, *LABELS)]
    features = [SparseFeature(name, size, embed_dim=EMBEDDING) for name, size in sizes.items()]
    features += [DenseFeature(name) for name in numbers]
    kinds, towers = 2 * ["classification"], 2 * [{"dims": TOWERS}]
    model = PLE(features, kinds, 2, 2, 2, {"dims": EXPERTS}, towers)
    trainer = MTLTrainer(model, kinds, optimizer_params={"lr": RATE, "weight_decay": 0.0})
    inputs, tested = (
        {name: table[name].to_numpy() for name in [*sizes, *numbers]} for table in (train, test)
    )
    generator = DataGenerator(inputs, train[LABELS].to_numpy())
    loader, *_ = generator.generate_dataloader(batch_size=BATCH)
    started = time.perf_counter()
    trainer.train_one_epoch(loader)
    seconds = time.perf_counter() - started
    return seconds, np.array(trainer.predict(model, DataLoader(PredictDataset(tested), BATCH)))


class PlainPle(nn.Module):
    """PLE for two tasks, expert by expert, over embeddings that a library looks up."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.experts, self.gates = nn.ModuleList(), nn.ModuleList()
        for width, gates in ((inputs, 3), (EXPERTS[-1], 2)):
            self.experts.append(nn.ModuleList(layers([width, *EXPERTS]) for _ in range(6)))
            self.gates.append(
                nn.ModuleList(nn.Linear(width, 4 + 2 * (g == 2)) for g in range(gates))
            )
        self.towers = nn.ModuleList(
            nn.Sequential(layers([EXPERTS[-1], *TOWERS]), nn.Linear(TOWERS[-1], 1))
            for _ in range(2)
        )

    def forward(self, x_BI: Tensor) -> Tensor:
        """Returns logits, [B, T]."""
        x = 3 * [x_BI]
        for experts, gates in zip(self.experts, self.gates, strict=True):
            outputs = [expert(x[number // 2]) for number, expert in enumerate(experts)]
            mixed = []
            for task, gate in enumerate(gates):
                own = outputs if task == 2 else outputs[2 * task : 2 * task + 2] + outputs[4:]
                shares = gate(x[task]).softmax(dim=1)
                mixed.append((shares[:, :, None] * torch.stack(own, dim=1)).sum(dim=1))
            x = mixed
        return torch.cat([tower(x[task]) for task, tower in enumerate(self.towers)], dim=1)


def layers(units: list[int]) -> nn.Sequential:
    """Returns linear layers with ReLU."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(units)))


def torchrec(train: pd.DataFrame, test: pd.DataFrame, sizes: dict[str, int]) -> Result:
    """Trains `PlainPle` over TorchRec's tables in a process group of one, as its examples do."""
    import torchrec as library
    from torch import distributed
    from torchrec.distributed import DistributedModelParallel
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29511",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    distributed.init_process_group("gloo")
    numbers = [name for name in train if name not in (*sizes, *LABELS)]
    tables = [
        library.EmbeddingBagConfig(
            name=name, embedding_dim=EMBEDDING, num_embeddings=size, feature_names=[name]
        )
        for name, size in sizes.items()
    ]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = library.EmbeddingBagCollection(tables=tables)
            self.ple = PlainPle(EMBEDDING * len(sizes) + len(numbers))

        def forward(self, categories: Any, numbers_BM: Tensor) -> Tensor:
            embedded_BE = self.tables(categories).values()
            return self.ple(torch.cat([embedded_BE, numbers_BM], dim=1)).float()

    model = Model()
    apply_optimizer_in_backward(RowWiseAdagrad, model.tables.parameters(), {"lr": 0.02})
    model = DistributedModelParallel(model, device=torch.device("cpu"))
    dense = [weight for name, weight in model.named_parameters() if "ple" in name]
    adam = torch.optim.Adam(dense, lr=RATE, fused=True)
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def arrays(table: pd.DataFrame) -> tuple[Tensor, ...]:
        parts = ((list(sizes), np.int64), (numbers, np.float32), (LABELS, np.float32))
        return tuple(torch.from_numpy(table[names].to_numpy(kind)) for names, kind in parts)

    def logits(categories_BF: Tensor, numbers_BM: Tensor) -> Tensor:
        lengths = torch.ones(categories_BF.numel(), dtype=torch.int32)
        values = categories_BF.T.flatten()
        jagged = library.KeyedJaggedTensor(list(sizes), values, lengths=lengths)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(jagged, numbers_BM)

    categories, numbers_NM, labels = arrays(train)
    started = time.perf_counter()
    for rows in torch.randperm(len(labels)).split(BATCH):
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits(categories[rows], numbers_NM[rows]), labels[rows], reduction="none"
        )
        adam.zero_grad()
        loss.mean(dim=0).sum().backward()
        adam.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        return seconds, logits(*arrays(test)[:2]).numpy()


RIVALS: dict[str, Callable[..., Result]] = {
    "deepctr_torch": deepctr_torch,
    "torch_rechub": torch_rechub,
    "torchrec": torchrec,
}


def main() -> None:
    """Trains one library on FOLDER/impressions.parquet; writes FOLDER/NAME.json and NAME.npy."""
    folder, name, test_rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(1)
    sizes: dict[str, int] = json.loads((folder / "sizes.json").read_text())
    started = time.perf_counter()
    table = pd.read_parquet(folder / "impressions.parquet")
    table = table.drop(columns=["request_id", "time"]).astype(dict.fromkeys(LABELS, "float32"))
    prepared = time.perf_counter() - started
    seconds, scores_NT = RIVALS[name](table[:-test_rows], table[-test_rows:], sizes)
    np.save(folder / f"{name}.npy", scores_NT)
    figures = {"training": seconds, "seconds": prepared + seconds}
    (folder / f"{name}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
