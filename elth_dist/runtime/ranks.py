"""The processes of a run and their communication. Every collective of the project is in this file."""

import atexit
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch re-exports it

from elth_dist.errors import DisagreementError, OneRankError, UserError
from elth_dist.runtime.launcher import launcher_ranks


@dataclass(frozen=True)
class Ranks:
    """One process of the run and its collectives.

    With ``world_size == 1`` nothing is ever sent. ``side`` is a second process group (gloo) for small CPU messages
    (signals, JSON); the main group is NCCL on GPUs and gloo on CPUs.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    side: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this process is the only rank."""
        return self.world_size == 1

    def barrier(self) -> None:
        """Wait for every rank."""
        if not self.alone:
            dist.barrier(group=self.side)

    def require_group(self) -> None:
        """Make a process group of one rank if there is none: some libraries need one."""
        if self.alone and not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
            atexit.register(dist.destroy_process_group)

    @torch.no_grad()
    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor of numbers (on this rank's device, or small on the CPU) by its sum over ranks."""
        assert tensor.dtype != torch.bool, "bool has no sum: convert it to int64 first"
        if not self.alone:
            whole = tensor.contiguous()  # elements are matched by position in memory, and strides may differ over ranks
            dist.all_reduce(whole, group=self._group_for(whole))
            if whole is not tensor:
                tensor.copy_(whole)
        return tensor

    @torch.no_grad()
    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each floating tensor by its mean over ranks, with one all-reduce per device and dtype."""
        if self.alone:
            return
        for group in _alike(tensors):
            assert group[0].is_floating_point(), f"{group[0].dtype} has no mean"
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat, group=self._group_for(flat))
            flat /= self.world_size
            _write_back(flat, group)

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor (of any dtype and strides) by rank 0's, with one broadcast per device and dtype."""
        if self.alone:
            return
        for group in _alike(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.broadcast(flat.view(torch.uint8), src=0, group=self._group_for(flat))
            _write_back(flat, group)

    def broadcast_json(self, value: Any) -> Any:
        """Send rank 0's `value` to every rank as JSON and return it (tuples become lists)."""
        if self.alone:
            return json.loads(json.dumps(value))
        data = json.dumps(value).encode() if self.is_main else b""
        return json.loads(self._broadcast_bytes(data))

    def gather_json(self, value: Any) -> list[Any]:
        """Return every rank's `value` on every rank, in rank order, sent as JSON (tuples become lists)."""
        if self.alone:
            return [json.loads(json.dumps(value))]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([data.numel()]), group=self.side)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: data.numel()] = data
        received = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(received, padded, group=self.side)
        return [json.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(received, sizes, strict=True)]

    def start_max(self, tensor: Tensor) -> dist.Work | None:
        """Start to replace a small CPU tensor by its maximum over ranks; wait() for the result before reading it."""
        if self.alone:
            return None
        return dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.side, async_op=True)

    def require_equal(self, what: str, hashes: Mapping[str, int]) -> None:
        """Compare named 64-bit values with rank 0's.

        Raises:
            DisagreementError: on every rank; names the first entry that differs and all ranks on which it does.
        """
        if self.alone:
            return
        everyone = self.gather_json({name: str(value) for name, value in hashes.items()})
        for name in everyone[0]:
            wrong = [rank for rank, theirs in enumerate(everyone) if theirs.get(name) != everyone[0][name]]
            if wrong:
                ranks = ", ".join(str(rank) for rank in wrong)
                raise DisagreementError(f"{what}: {name} differs from rank 0's on rank {ranks}")
        for rank, theirs in enumerate(everyone):
            if theirs.keys() != everyone[0].keys():
                raise DisagreementError(f"{what}: rank {rank} does not hold the same names as rank 0")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Share errors: if the block raises UserError on any rank, every rank raises the first rank's. Collective.

        The block itself must not contain a collective, in which the others would wait for a rank that failed. Any other
        exception propagates on its own rank only; the others notice the lost connection.
        """
        own: UserError | None = None
        try:
            yield
        except UserError as error:
            own = error
        messages = self.gather_json(None if own is None else str(own))
        first = next((message for message in messages if message is not None), None)
        if first is not None:
            raise UserError(first) from own

    def _group_for(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """Choose the process group for a tensor: NCCL takes no CPU tensors."""
        return self.side if tensor.device.type == "cpu" else None

    def _broadcast_bytes(self, data: bytes) -> bytes:
        size = torch.tensor([len(data)])
        dist.broadcast(size, src=0, group=self.side)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_main:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, src=0, group=self.side)
        return buffer.numpy().tobytes()


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group tensors by device and dtype, in order of appearance: every rank forms the same groups."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(groups.values())


def _write_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def open_ranks(device: str = "auto", timeout_minutes: float = 30.0) -> Iterator[Ranks]:
    """Join the process group that the environment describes and leave it when the block ends.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        timeout_minutes: how long a collective may wait for a rank before the run stops.

    Raises:
        UserError: there is no such device, or the environment does not describe a group.
    """
    rank, world_size, local_rank = launcher_ranks()
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_cuda and not torch.cuda.is_available():
        raise UserError("engine.device: 'cuda' needs a GPU, but torch sees none (valid here: auto, cpu)")
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: this host has {torch.cuda.device_count()}; "
            "start at most as many processes per node as it has GPUs"
        )
    target = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(target)
    if world_size == 1:
        yield Ranks(device=target)
        return
    timeout = timedelta(minutes=timeout_minutes)
    dist.init_process_group("nccl" if use_cuda else "gloo", timeout=timeout)
    leaving_together = False
    try:
        side = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(side, dist.ProcessGroup)
        yield Ranks(rank, world_size, local_rank, target, side)
        leaving_together = True
    except (UserError, DisagreementError) as error:
        leaving_together = not isinstance(error, OneRankError)
        raise
    finally:
        if leaving_together or not use_cuda:  # NCCL would wait for ranks that know nothing of this one's failure
            dist.destroy_process_group()
