"""How ranks share a model: each with all weights (DDP), or with a part of each (FSDP2)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lightning_bench.case import Device
from lightning_bench.measure.ranks.rank import Rank
from lightning_bench.model_run import Parallel
from lightning_bench.models.language_model import LanguageModel


def shared(
    model: LanguageModel, parallel: Parallel, rank: Rank, device: Device
) -> tuple[nn.Module, list[Tensor]]:
    """Share a model with the other ranks, whose weights are the same. Return what a step calls.

    The second result are the weights that every rank has, and updates by itself.
    """
    if parallel == "ddp":
        devices = [torch.cuda.current_device()] if device == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices), list(model.parameters())
    mesh = init_device_mesh(device, (rank.count,))
    # One group of FSDP2 has weights of one dtype, and LRPE's θ is fp32: it is small, and every rank has it.
    odd = {weight for name, weight in model.named_parameters() if name.endswith("theta")}
    for each in (*model.blocks, model):
        fully_shard(each, mesh=mesh, ignored_params=odd)
    for weight in odd:
        weight.register_post_accumulate_grad_hook(_averaged)
    return model, list(odd)


def weight_groups(model: nn.Module) -> list[dict[str, list[Tensor]]]:
    """Return the weights in groups for a fused step, which takes no tensors of both kinds at once."""
    weights: list[Tensor] = list(model.parameters())
    kinds = [[x for x in weights if isinstance(x, DTensor) is sharded] for sharded in (True, False)]
    return [{"params": group} for group in kinds if group]


def _averaged(weight: Tensor) -> None:
    assert weight.grad is not None
    distributed.all_reduce(weight.grad)
    weight.grad /= distributed.get_world_size()
