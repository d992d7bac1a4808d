"""Training with sharded weights (FSDP2): `trainer.strategy=fsdp2`.

As under DDP each process takes its share of every batch, but weights, gradients and optimiser state are
shared out: a process gathers a transformer block's weights when it computes with them, and lets go of them
again (Zhao et al. 2023, arXiv 2304.11277; `torch.distributed.fsdp.fully_shard`). What is saved is whole, as
from one process.
"""

import re
from collections.abc import Iterable

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

FSDP2 = "fsdp2"
_BLOCK = re.compile(r"(.*\.)?blocks\.\d+")  # a transformer block, as timm names them


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with data parallelism alone: one share for each process."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh, entrances: Iterable[str] = ()) -> None:
    """Share out a model's parameters, block by block and then what is left; buffers stay whole.

    Args:
        model: changed in place; nothing happens where it is sharded already.
        mesh: the processes, one-dimensional.
        entrances: methods beside `forward` through which training enters the model.
    """
    if isinstance(model, FSDPModule):
        return
    for path, block in model.named_modules():
        if _BLOCK.fullmatch(path):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in entrances:
        register_fsdp_forward_method(model, method)


if FSDP2 not in StrategyRegistry.available_strategies():
    StrategyRegistry.register(FSDP2, FullySharded, description="Weights shared out over all processes.")
