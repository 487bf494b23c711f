"""A model split over several processes: FSDP for the frozen weights, DDP for the recovery parameters.

    frozen weights         1/P of each in every process, gathered when a group of layers runs, then freed
    recovery parameters    whole in every process; their gradients are averaged as in plain DDP

A target reads its reference's weights, so layers that share anything are one FSDP group, gathered together: from the
first of them to the last, forwards as backwards. The recovery parameters are small and stay out of FSDP, so that
optimizer, checkpoints and clipping are the same with it and without.
"""

from collections.abc import Iterable

import torch
from torch.distributed import get_world_size, is_initialized
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import causal_lm
from sharp_mobile.recovery.finetune.teacher import LossModel


def shard_frozen_weights(loss_model: LossModel, pairs: Iterable[tuple[int, int]], device: torch.device) -> None:
    """Split the frozen weights of a model over all processes, in place.

    Args:
        pairs: of layers that share weights, 0-based.

    Raises:
        SharpError: there is one process only.
    """
    if not is_initialized() or get_world_size() == 1:
        raise SharpError("finetune.shard: there is one process only; start several with torchrun, or shard: false")
    mesh = init_device_mesh(device.type, (get_world_size(),))
    trained = {parameter for parameter in loss_model.parameters() if parameter.requires_grad}
    layers = causal_lm(loss_model.model).model.layers
    for group in layer_groups(len(layers), pairs):
        members = [layers[index] for index in group]
        fully_shard(members if len(members) > 1 else members[0], mesh=mesh, ignored_params=trained)
    fully_shard(loss_model, mesh=mesh, ignored_params=trained)
    split = [name for name, parameter in loss_model.named_parameters() if isinstance(parameter, DTensor)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(loss_model, split)


def layer_groups(layers: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The layers that must be gathered together, by their first."""
    first = list(range(layers))
    for pair in pairs:
        low, high = sorted(first[layer] for layer in pair)
        first = [low if its == high else its for its in first]
    groups: dict[int, list[int]] = {}
    for layer, its in enumerate(first):
        groups.setdefault(its, []).append(layer)
    return list(groups.values())
