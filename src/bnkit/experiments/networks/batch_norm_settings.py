"""Set eps and momentum of the batch norms of a network."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.errors import SettingsError
from bnkit.experiments.run_settings import Settings
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, batch_norm_sites, recognise

# The settings, and the attribute of a batch norm that each sets.
_ATTRIBUTES = {"bn_eps": "eps", "bn_momentum": "momentum"}
BATCH_NORM_SETTINGS = tuple(_ATTRIBUTES)


def set_batch_norms(model: nn.Module, settings: Settings, key: str) -> None:
    """Give every batch norm of ``model`` the eps and the momentum of ``settings``; "default" keeps its own.

    Args:
        model: The network, before it is trained.
        settings: The settings of the run.
        key: The name of the network in messages.

    Raises:
        SettingsError: If a batch norm of another library has an eps that cannot be set.
    """
    values = {setting: getattr(settings, setting) for setting in BATCH_NORM_SETTINGS}
    wanted = {_ATTRIBUTES[setting]: value for setting, value in values.items() if isinstance(value, float)}
    if not wanted:
        return
    for site in batch_norm_sites(model):
        module = site.module
        if not isinstance(module, _BatchNorm) and not isinstance(site.recognised_as, BatchNormLike):
            continue
        for attribute, value in wanted.items():
            if hasattr(module, attribute):
                setattr(module, attribute, value)
        if "eps" in wanted and not isinstance(module, _BatchNorm):
            like = recognise(module)
            if like is None or abs(like.eps - wanted["eps"]) > 0.01 * wanted["eps"]:
                raise SettingsError(
                    f"grid: bn_eps={wanted['eps']:g} with network {key}, whose {site.name or 'only layer'} is a "
                    f"{type(module).__name__} that takes no eps from outside; leave bn_eps out of the grid"
                )


def ineffective(model: nn.Module) -> tuple[str, ...]:
    """Those of ``BATCH_NORM_SETTINGS`` that have no effect on ``model``: without batch norm neither has.

    The momentum has none where no batch norm keeps running statistics, or all are frozen.
    """
    effective = set[str]()
    for site in batch_norm_sites(model):
        like = site.recognised_as
        if isinstance(site.module, _BatchNorm) or isinstance(like, BatchNormLike):
            effective.add("bn_eps")
        if isinstance(like, BatchNormLike):
            moves = like.tracks_statistics and not like.is_frozen and hasattr(site.module, "momentum")
        else:
            moves = isinstance(site.module, _BatchNorm) and site.module.track_running_stats
        if moves:
            effective.add("bn_momentum")
    return tuple(setting for setting in BATCH_NORM_SETTINGS if setting not in effective)
