"""Ranks that talk to each other: sums in two levels, halos, and an error in words when one of them is gone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction.distributed._topology import Topology, pieces
from ptycho_bluesky.reconstruction.distributed._wire import Precision, Wire, as_real, like

__all__ = ["Communicator", "Pending", "Traffic"]

T = TypeVar("T")

TAGS = {"node": 1, "global": 2, "halo": 3}
"""Messages of one level never meet those of another: a halo may be on its way while a probe is summed."""

SHORTEST = timedelta(milliseconds=1)


@dataclass
class Traffic:
    """What one rank sent at one level, and how long it waited there."""

    bytes: int = 0
    """Of the tensors handed over to be sent."""

    seconds: float = 0.0
    """In which the rank did nothing else."""

    messages: int = 0


class _Exchange:
    """Messages under way to and from other ranks."""

    def __init__(
        self,
        own: Communicator,
        level: str,
        phase: str,
        sent: Mapping[int, torch.Tensor],
        received: Mapping[int, torch.Tensor],
    ) -> None:
        self._own, self._level, self._phase = own, level, phase
        self._began, self._tensors = time.monotonic(), (sent, received)
        meter = own.meters[level]
        operations, self._peers = [], []
        for function, tensors in ((dist.irecv, received), (dist.isend, sent)):
            for peer, tensor in tensors.items():
                if tensor.numel():
                    operations.append(dist.P2POp(function, tensor, peer, tag=TAGS[level]))
                    self._peers.append(peer)
        for tensor in sent.values():
            meter.bytes += tensor.numel() * tensor.element_size()
            meter.messages += tensor.numel() > 0
        with own.guard(phase, self._peers, self._began):
            self._works = dist.batch_isend_irecv(operations) if operations else []
        meter.seconds += time.monotonic() - self._began

    def finish(self) -> None:
        """Wait until all is sent and received."""
        waited = time.monotonic()
        named = len(self._works) == len(self._peers)  # NCCL has one piece of work for all
        for number, work in enumerate(self._works):
            peers = [self._peers[number]] if named else self._peers
            with self._own.guard(self._phase, peers, waited):
                work.wait(max(SHORTEST, timedelta(seconds=waited + self._own.timeout_s - time.monotonic())))
        self._own.meters[self._level].seconds += time.monotonic() - waited


class Pending:
    """Halos under way; the rank works on its interior meanwhile."""

    def __init__(
        self, own: Communicator, name: str, values: Mapping[int, torch.Tensor], messages: Mapping[int, torch.Tensor]
    ) -> None:
        self._own, self._name, self._values = own, name, values
        self._received = {peer: torch.empty_like(message) for peer, message in messages.items()}
        self._exchange = _Exchange(own, "halo", f"the exchange of {name}", messages, self._received)

    def finish(self) -> dict[int, torch.Tensor]:
        """Wait, and return what each neighbour sent, in the shape and type of what it was sent."""
        self._exchange.finish()
        found = {}
        for peer, message in self._received.items():
            values = self._values[peer]
            numbers = self._own.wire.received(f"{self._name}<{peer}", message, values.real.dtype)
            found[peer] = like(numbers, values)
        return found


class Communicator:
    """The ranks of one reconstruction, as torchrun started them; without torchrun a single one.

    Every operation is called by all ranks in the same order. Each sum is formed in the order of the ranks, by one rank,
    and sent to the others, so that all hold the same bits.

    Parameters
    ----------
    timeout_s:
        Longest wait for other ranks, seconds, above 0.
    wire:
        Precision of float32 and complex64 on the wire (:class:`Wire`).
    nodes:
        Node of each rank, any numbers; None groups ranks by host name.

    Raises
    ------
    ReconstructionError
        A rank did not join in time, which the error names.
    """

    def __init__(
        self, timeout_s: float = 120.0, wire: Precision = "float32", nodes: Sequence[int] | None = None
    ) -> None:
        if timeout_s <= 0:
            raise ReconstructionError(f"a timeout of {timeout_s} s; give seconds above 0, longer than a segment takes")
        self.timeout_s, self.wire = timeout_s, Wire(wire)
        self.meters = {level: Traffic() for level in TAGS}
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._cpu: dist.ProcessGroup | None = None
        hosts = self._join() if self.size > 1 else [socket.gethostname()]
        self.topology = Topology.of(hosts if nodes is None else nodes, self.size)

    def _join(self) -> list[str]:
        """Meet all other ranks; return the host of each."""
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ReconstructionError(
                f"WORLD_SIZE is {self.size}, but {', '.join(missing)} is not set; start ranks with torchrun"
            )
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has a store of its own
        wait, others = timedelta(seconds=self.timeout_s), [rank for rank in range(self.size) if rank != self.rank]
        began = time.monotonic()
        with self.guard(f"the meeting at {address}:{port}", others, began):
            tcp = dist.TCPStore(  # type: ignore[attr-defined]
                address, port, None, self.rank == 0 and not hosted, wait, wait_for_workers=False, multi_tenant=True
            )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"ptycho_bluesky/{attempt}", tcp)  # type: ignore[attr-defined]
        store.set(f"host/{self.rank}", socket.gethostname())
        hosts = []
        for rank in range(self.size):
            left = timedelta(seconds=began + self.timeout_s - time.monotonic())
            with self.guard("the meeting of all ranks", [rank], began):
                store.wait([f"host/{rank}"], max(SHORTEST, left))
            hosts.append(store.get(f"host/{rank}").decode())
        # NCCL refuses two ranks on one GPU; such ranks exchange what lies in the memory of the CPU.
        on_gpus = 0 < int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
        if on_gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        with self.guard("the connection of all ranks", others, time.monotonic()):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=wait,
            )
            self._cpu = dist.new_group(backend="gloo", timeout=wait) if on_gpus else dist.group.WORLD
        return hosts

    @contextmanager
    def guard(self, phase: str, peers: Sequence[int], began: float) -> Iterator[None]:
        """Say in words which ranks were waited for, and where, when an operation of torch fails."""
        try:
            yield
        except RuntimeError as error:  # torch's own errors are among these
            awaited = sorted(set(peers))
            names = ("rank " if len(awaited) == 1 else "ranks ") + ", ".join(map(str, awaited))
            late = time.monotonic() - began >= 0.9 * self.timeout_s
            what = (
                f"waited {self.timeout_s:g} s for {names}: not started, stuck or starved"
                if late
                else f"lost {names}: ended, or not to be reached"
            )
            raise ReconstructionError(
                f"rank {self.rank} of {self.size} {what}, in {phase}. Read that rank's own messages, then start all "
                f"ranks again from the checkpoint, with a longer timeout if it was merely slow. ({_first_line(error)})"
            ) from error

    def all_reduce(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return the sum of a tensor over all ranks, the same bits on each: inside nodes, then between their leaders.

        Parameters
        ----------
        tensor:
            Of one shape and type on all ranks; it is left as it is.
        name:
            What it is: names it in errors, and tells the streams of the error feedback apart.
        """
        if self.size == 1:
            return tensor.clone()
        numbers, phase = as_real(tensor), f"the sum of {name}"
        node, leaders = self.topology.node_of(self.rank), self.topology.leaders
        empty = torch.empty(len(numbers), dtype=self.wire.type_of(numbers), device=numbers.device)
        parts = pieces(len(numbers), len(leaders))
        if self.rank == node[0]:
            inside = self._collect("node", phase, f"{name}>", numbers, dict.fromkeys(node[1:], numbers.shape))
            summed = self._sum_leaders(phase, name, inside, parts)
            self._swap("node", phase, dict.fromkeys(node[1:], summed), {})
        else:
            message = self.wire.message(f"{name}>{self.rank}", numbers)
            self.wire.received(f"{name}>{self.rank}", message, numbers.dtype)
            self._swap("node", phase, {node[0]: message}, {})
            summed = self._swap("node", phase, {}, {node[0]: empty})[node[0]]
        found = [
            self.wire.received(f"{name}={leader}", summed[part], numbers.dtype)
            for leader, part in zip(leaders, parts, strict=True)
        ]
        return like(torch.cat(found), tensor)

    def sum_of(self, numbers: Sequence[float], name: str) -> list[float]:
        """Return sums over all ranks, the same bits on each."""
        return [float(number) for number in self.all_reduce(torch.tensor(numbers, dtype=torch.float64), name)]

    def _collect(
        self, level: str, phase: str, stream: str, own: torch.Tensor, shapes: Mapping[int, torch.Size]
    ) -> torch.Tensor:
        """Return own numbers and those of peers, summed in the order of the ranks."""
        kind = self.wire.type_of(own)
        came = self._swap(
            level, phase, {}, {peer: torch.empty(s, dtype=kind, device=own.device) for peer, s in shapes.items()}
        )
        values = {peer: self.wire.received(f"{stream}{peer}", message, own.dtype) for peer, message in came.items()}
        values[self.rank] = own
        return _ordered_sum(values)

    def _sum_leaders(self, phase: str, name: str, numbers: torch.Tensor, parts: list[slice]) -> torch.Tensor:
        """Return the sum over all leaders, as it goes to the members. Each leader sums one piece."""
        leaders, kind = self.topology.leaders, self.wire.type_of(numbers)
        piece, sent, received = dict(zip(leaders, parts, strict=True)), {}, {}
        for leader in leaders:
            if leader != self.rank:
                stream = f"{name}>{self.rank}>{leader}"
                sent[leader] = self.wire.message(stream, numbers[piece[leader]])
                self.wire.received(stream, sent[leader], numbers.dtype)
                received[leader] = torch.empty_like(numbers[piece[self.rank]], dtype=kind)
        values = {
            leader: self.wire.received(f"{name}>{leader}>{self.rank}", message, numbers.dtype)
            for leader, message in self._swap("global", phase, sent, received).items()
        }
        values[self.rank] = numbers[piece[self.rank]]
        own = self.wire.message(f"{name}={self.rank}", _ordered_sum(values))
        others = [leader for leader in leaders if leader != self.rank]
        came = self._swap(
            "global",
            phase,
            dict.fromkeys(others, own),
            {leader: torch.empty_like(numbers[piece[leader]], dtype=kind) for leader in others},
        )
        return torch.cat([own if leader == self.rank else came[leader] for leader in leaders])

    def _swap(
        self, level: str, phase: str, sent: Mapping[int, torch.Tensor], received: dict[int, torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        _Exchange(self, level, phase, {peer: tensor.contiguous() for peer, tensor in sent.items()}, received).finish()
        return received

    def start_halo(self, values: Mapping[int, torch.Tensor], name: str = "halos") -> Pending:
        """Send each neighbour its values, and begin to receive as many of the same type from it.

        The values may be written to afterwards.
        """
        messages = {}
        for peer, tensor in values.items():
            numbers, stream = as_real(tensor), f"{name}>{self.rank}>{peer}"
            message = self.wire.message(stream, numbers)
            self.wire.received(stream, message, numbers.dtype)
            messages[peer] = message.clone() if message.data_ptr() == tensor.data_ptr() else message
        return Pending(self, name, values, messages)

    def broadcast(self, tensor: torch.Tensor, name: str, source: int = 0) -> torch.Tensor:
        """Return the tensor of rank `source`, bit for bit; all ranks give one of the same shape and type."""
        if self.size == 1:
            return tensor.clone()
        numbers, phase = as_real(tensor).clone(), f"the broadcast of {name}"
        node, home = self.topology.node_of(self.rank), self.topology.node_of(source)
        first = source if node == home else node[0]
        if self.rank != source:
            level, sender = ("global", source) if self.rank == first else ("node", first)
            self._swap(level, phase, {}, {sender: numbers})
        if self.rank == source:
            self._swap("global", phase, {one[0]: numbers for one in self.topology.nodes if one != home}, {})
        if self.rank == first:
            self._swap("node", phase, {peer: numbers for peer in node if peer != first}, {})
        return like(numbers, tensor)

    def gather_objects(self, value: T, name: str, root: int | None = None) -> list[T]:
        """Return the values of all ranks, in their order, on every rank; with `root`, there alone (elsewhere nothing).

        For what is small or comes once: it is pickled, and not counted as traffic.
        """
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if root in (None, self.rank) else None
        with self.guard(f"the collection of {name}", self._others(), time.monotonic()):
            if root is None:
                dist.all_gather_object(found, value, group=self._cpu)
            else:
                dist.gather_object(value, found, dst=root, group=self._cpu)
        return found or []

    def barrier(self, name: str) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            with self.guard(f"the wait for all ranks at {name}", self._others(), time.monotonic()):
                dist.monitored_barrier(self._cpu, timedelta(seconds=self.timeout_s), wait_all_ranks=True)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    @property
    def traffic(self) -> dict[str, dict[str, float]]:
        """What this rank sent so far at each level: ``halo``, ``node`` and ``global``, as plain numbers."""
        return {level: asdict(meter) for level, meter in self.meters.items()}

    def close(self) -> None:
        """Leave the group."""
        if self._cpu is not None:
            self._cpu = None
            dist.destroy_process_group()


def _ordered_sum(values: Mapping[int, torch.Tensor]) -> torch.Tensor:
    first, *others = (values[rank] for rank in sorted(values))
    total = first.clone()
    for one in others:
        total += one
    return total


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
