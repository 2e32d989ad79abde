"""Random images from a bank on the device: a loader of almost no cost, for benchmarks of everything else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Batch, Dataset, TrainLoader, ValLoader, to_device
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.runtime.ranks import Ranks

#: Distinct images; sample i is image i modulo this.
BANK = 256


def make_bank(image_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Draw normal noise [BANK, H, W, 3], the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BANK, image_size, image_size, 3, generator=generator).to(device, dtype)


def _batch(bank: Tensor, indices: Tensor, num_classes: int) -> Batch:
    chosen = to_device(indices, bank.device)
    labels = torch.where(chosen < 0, chosen, chosen % num_classes)
    return Batch(bank[chosen % BANK].permute(0, 3, 1, 2), labels, indices)


class SyntheticTrain(TrainLoader):
    """Training batches from the bank, in the same order as real data."""

    def __init__(self, bank: Tensor, num_classes: int, plan: TrainPlan, source: Mapping[str, Any]) -> None:
        super().__init__(plan, source)
        self._bank = bank
        self._num_classes = num_classes

    def _fetch(self, position: int) -> Batch:
        _, indices = self.plan.samples(position)
        return _batch(self._bank, torch.from_numpy(indices.copy()), self._num_classes)


class SyntheticVal(ValLoader):
    """Validation batches from the bank."""

    def __init__(self, bank: Tensor, num_classes: int, plan: ValPlan) -> None:
        super().__init__(plan)
        self._bank = bank
        self._num_classes = num_classes

    def _fetch(self, position: int) -> Batch:
        return _batch(self._bank, torch.from_numpy(self.plan.samples(position)), self._num_classes)


class SyntheticData(Dataset):
    """Random images, with the numbers of samples and classes from the options."""

    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype) -> None:
        super().__init__(options, ranks, dtype)
        assert options.num_classes is not None
        assert options.num_train is not None
        assert options.num_val is not None
        self.num_classes = options.num_classes
        self.num_train = options.num_train
        self.num_val = options.num_val
        self.fingerprint = "synthetic"
        self._bank = make_bank(options.image_size, ranks.device, dtype)

    def _train(self, plan: TrainPlan, source: Mapping[str, Any]) -> TrainLoader:
        return SyntheticTrain(self._bank, self.num_classes, plan, source)

    def _val(self, plan: ValPlan) -> ValLoader:
        return SyntheticVal(self._bank, self.num_classes, plan)
