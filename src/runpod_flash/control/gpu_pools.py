"""GPUs as the control API selects them: pools of models, less some models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import ANY_DEVICE, POOL_TYPES, GpuGroup, expand_gpus
from runpod_flash.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

_POOLS = tuple(group for group in GpuGroup if group is not GpuGroup.ANY)


def devices_of(pools: Sequence[str], excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """The device names of these pools in their order, less the excluded ones; all pools are any.

    Raises `ConfigurationError` for what is no pool, and for an exclusion that is in none of them
    or that leaves nothing.
    """
    without = [name.strip() for name in excluded]
    named = [_pool(each) for each in pools]
    if not without and (GpuGroup.ANY in named or set(named) == set(_POOLS)):
        return (ANY_DEVICE,)
    found = expand_gpus(_POOLS if GpuGroup.ANY in named else named)
    for name in without:
        if name not in found:
            hint = did_you_mean(name, found)
            raise ConfigurationError(f"{name!r} is in none of the pools {', '.join(pools)}.{hint}")
    left = tuple(name for name in found if name not in without)
    if not left:
        raise ConfigurationError("the exclusions leave no GPU of the pools")
    return left


def pools_of(devices: Sequence[str]) -> tuple[list[str], list[str]]:
    """The inverse: pools in order of preference, and the models of these that are left out."""
    if ANY_DEVICE in devices:
        return [group.value for group in _POOLS], []
    pools = dict.fromkeys(pool for name in devices if (pool := pool_of(name)) is not None)
    out = [name for pool in pools for name in expand_gpus([pool]) if name not in devices]
    return [pool.value for pool in pools], out


def pool_of(device: str) -> GpuGroup | None:
    """The pool of a device name; None for a model that no pool has."""
    return next((pool for pool in POOL_TYPES if device in expand_gpus([pool])), None)


def _pool(name: str) -> GpuGroup:
    try:
        return GpuGroup(name)
    except ValueError:
        hint = did_you_mean(name, [group.value for group in _POOLS])
        raise ConfigurationError(f"{name!r} is no pool of GPUs.{hint}") from None
