"""Data parallelism: processes that train one model together, each on a part of every step.

Each process has the whole model, unless `larr.text.training` divides it. The gradients are added up
before the optimizer's step, and a loss that compares the items of a step gathers their vectors
first. So the result is that of one process, up to rounding.

Shapes: N items of a step, M of them in one process, D vector length.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn import Module

from larr import progress
from larr.config import Config
from larr.errors import LarrError
from larr.workers import LOST, POLL_SECONDS, pool

TIMEOUT = timedelta(days=7)
"""For a message from a process that may evaluate a large model; a lost process is noticed at once,
a lost machine after LOST_SECONDS."""
MEETING = timedelta(minutes=5)
"""For reaching the first process, which is ready before the others start."""
LOST_SECONDS, PROBES = 60, 3
GRACE_SECONDS = 5.0
"""Time for the failed process to end after its connections."""


@dataclass(frozen=True)
class Group:
    """The processes that train one model, and the number of this one."""

    rank: int = 0
    size: int = 1
    address: tuple[str, int] = ("", 0)
    """The host and port at which they find each other."""
    threads: int = 0
    """Threads of each process during the training."""
    others: tuple[Future[None], ...] = ()
    """The other processes, for the first one."""
    divides: bool = False
    """Whether each process keeps a part of the language model only; see `larr.text.training`."""

    def start(self, model: Module) -> None:
        """Connects the processes, and gives each the trained weights of the first one.

        Raises the error of a process that failed before.
        """
        if self.size == 1:
            return
        store = TCPStore(*self.address, is_master=False, timeout=MEETING)
        store.add("ready", 1)
        while self.others and store.add("ready", 0) < self.size:
            for process in wait(self.others, POLL_SECONDS, FIRST_COMPLETED).done:
                process.result()
        torch.set_num_threads(self.threads)
        # By default gloo takes the address of the host name, often one inside the machine.
        os.environ["GLOO_SOCKET_IFNAME"] = _interface(self.address)
        distributed.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT
        )
        _notice_lost_machines()
        for parameter in model.parameters():
            if parameter.requires_grad:
                distributed.broadcast(parameter.data, 0)

    def part(self, items: Any) -> Any:
        """Returns the items of a list or the rows of a tensor for this process, every `size`-th."""
        return items[self.rank :: self.size]

    def gather_texts(self, vectors: list[Tensor], counts: list[int]) -> Tensor:
        """Returns the vectors of all processes in the order of the texts, float32 [N, D].

        `vectors` are those of `part(groups)`, each [texts of the group, D], `counts` the texts of
        all groups. Gradients flow into this process's own vectors only.
        """
        own_MD = torch.cat(vectors).float()
        if self.size == 1:
            return own_MD
        sizes = [sum(counts[rank :: self.size]) for rank in range(self.size)]
        received = self._all(own_MD.detach(), sizes)
        received[self.rank] = own_MD
        parts: list[Any] = [None] * len(counts)
        for rank, rows_MD in enumerate(received):
            parts[rank :: self.size] = rows_MD.split(counts[rank :: self.size])
        return torch.cat(parts)

    def all_gather(self, own_MX: Tensor) -> Tensor:
        """Returns the rows of all processes, [N, ...]; those of the first one come first.

        Gradients flow into this process's own rows only, multiplied by N / M: they are right for a
        loss of all rows that each process weights with its share M / N.
        """
        if self.size == 1:
            return own_MX
        sizes = self._all(torch.tensor([len(own_MX)]), [1] * self.size)
        received = self._all(own_MX.detach(), [int(size) for size in sizes])
        if own_MX.requires_grad:
            factor = sum(map(len, received)) / len(own_MX)
            received[self.rank] = own_MX + (factor - 1) * (own_MX - own_MX.detach())
        return torch.cat(received)

    def _all(self, own_MX: Tensor, sizes: list[int]) -> list[Tensor]:
        """Returns the rows of each process, of which `sizes` has the numbers."""
        missing = own_MX.new_zeros(max(sizes) - len(own_MX), *own_MX.shape[1:])
        padded_MX = torch.cat([own_MX, missing])
        received = [torch.empty_like(padded_MX) for _ in sizes]
        distributed.all_gather(received, padded_MX)
        return [rows_MX[:size] for rows_MX, size in zip(received, sizes, strict=True)]

    def all_to_all(self, own_MX: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Sends `sent[p]` rows to each process p, in order, and returns `received[p]` from each."""
        rows_NX = own_MX.new_empty(sum(received), *own_MX.shape[1:])
        distributed.all_to_all_single(rows_NX, own_MX.contiguous(), received, sent)
        return rows_NX

    def all_reduce(self, value: Tensor) -> Tensor:
        """Returns the sum over the processes; gradients flow into this process's own value only."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return value + (total - value.detach())

    def all_reduce_gradients(self, model: Module) -> None:
        """Replaces each gradient by its sum over the processes."""
        if self.size == 1:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        flat = torch.cat(
            [
                torch.zeros(weight.numel()) if weight.grad is None else weight.grad.flatten()
                for weight in trained
            ]
        )
        distributed.all_reduce(flat)
        sums = flat.split([weight.numel() for weight in trained])
        for weight, total in zip(trained, sums, strict=True):
            if weight.grad is None:
                weight.grad = torch.empty_like(weight)
            weight.grad.copy_(total.view_as(weight))

    def broadcast(self, decision: bool) -> bool:
        """Returns the decision of the first process."""
        if self.size == 1:
            return decision
        message = torch.tensor(decision)
        distributed.broadcast(message, 0)
        return bool(message)


ALONE = Group()


@contextmanager
def process_group(
    size: int, work: Callable[..., object], config: Config, *arguments: Any
) -> Iterator[Group]:
    """Yields the group of this process, the first of `size`.

    The others call `work(config, *arguments, group)`. Raises LarrError if one of them is lost.
    """
    if size == 1:
        yield ALONE
        return
    threads = torch.get_num_threads()
    with (
        pool(config.cluster, size - 1, this_one=True) as workers,
        _meeting_point(workers.address) as port,
    ):
        divides = config.cluster.divide_model
        first = Group(0, size, (workers.address, port), workers.threads, divides=divides)
        others = tuple(
            workers.submit(_run_worker, work, config, *arguments, replace(first, rank=rank))
            for rank in range(1, size)
        )
        try:
            yield replace(first, others=others)
        except RuntimeError as error:  # such as the connection to a process that has failed
            ended = wait(others, GRACE_SECONDS).done
            errors = [failed for process in ended if (failed := process.exception())]
            # those that lost their connections only follow from another one
            errors.sort(key=_is_lost_connection)
            if errors and not _is_lost_connection(errors[0]):
                raise errors[0] from error
            if _is_lost_connection(error):
                raise LarrError(LOST) from error
            raise
        finally:
            _leave()
            torch.set_num_threads(threads)
        for process in others:
            process.result()


def _run_worker(work: Callable[..., object], *arguments: Any) -> None:
    group: Group = arguments[-1]
    torch.set_num_threads(group.threads)
    progress.console.quiet = True  # the first process reports
    try:
        work(*arguments)
    finally:
        _leave()


@contextmanager
def _meeting_point(host: str) -> Iterator[int]:
    """Yields the port of a store at which processes exchange their addresses.

    It is reachable under this address only; torch itself would listen on all of the machine.
    """
    listener = socket.create_server((host, 0))
    port: int = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    yield port
    del store


def _interface(address: tuple[str, int]) -> str:
    """Returns the name of the network interface through which this process reaches an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        own = probe.getsockname()[0]
    names: dict[str, str] = {
        end.address: name for name, ends in psutil.net_if_addrs().items() for end in ends
    }
    return names[own]


def _notice_lost_machines() -> None:
    """Makes the connections of this process fail if the machine at the other end has vanished."""
    if sys.platform != "linux":
        return
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED:
            with socket.socket(fileno=os.dup(connection.fd)) as opened:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                seconds = LOST_SECONDS // (PROBES + 1)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
                milliseconds = 1_000 * LOST_SECONDS
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _is_lost_connection(error: BaseException) -> bool:
    is_of_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return is_of_gloo or isinstance(error, distributed.DistNetworkError)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
