"""Check how a model uses batch normalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bnkit.argument_checks import check_int
from bnkit.checks.check_context import BatchExample, CheckContext, TrainingSetup
from bnkit.checks.config import CheckConfig, load_config
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.findings_output import Findings
from bnkit.checks.fix_findings import is_fixed_by_default
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.checks.rule_registry import Names, selected_rules
from bnkit.errors import ModelError, SettingsError
from bnkit.message_parts import did_you_mean
from bnkit.model.edit.deepcopy_model import deepcopy_model
from bnkit.model.inspect.batches import Batches, Forward, device_of
from bnkit.model.inspect.construction_lines import line_of
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.lazy_parameters import first_lazy, materialise
from bnkit.model.inspect.recognise_batch_norm import no_batch_norm
from bnkit.model.inspect.supported_models import check_supported
from bnkit.model.preserve_state import Snapshot, force_eager, preserve_everything
from bnkit.model.statistics.distributed_ranks import without_broadcasts

if TYPE_CHECKING:
    from torch.optim import Optimizer


def check(
    model: nn.Module,
    batches: Any = None,
    optimizer: Optimizer | None = None,
    *,
    example_inputs: Any = None,
    test_batches: Any = None,
    forward: Forward | None = None,
    batch_size: int | None = None,
    loader: Any = None,
    ema: nn.Module | None = None,
    accumulation: int = 1,
    processes: int | None = None,
    select: Names | None = None,
    ignore: Names | None = None,
    per_layer_ignores: Mapping[str, Names] | None = None,
    config: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Findings:
    """Find mistakes in how ``model`` uses batch normalization, the worst first.

    Rules about structure need a run on an example, those about statistics batches of data, those about training the optimizer
    or the loader. A rule without its inputs is skipped, and ``not_checked`` lists it.

    The model is not changed: parameters, gradients, buffers, counters, modes, hooks and the random state are restored bit for
    bit, also after an exception. An iterator is consumed. A model with lazy layers is copied, and the copy, after a run on the
    example, is checked.

    Args:
        model: Any model with batch norms that runs; layers of other libraries are recognised by what they compute.
        batches: A ``DataLoader``, a list, an iterator, or a tensor, which is one batch. Of a batch that is a tuple or a list, the
            first entry is the input, and the second the target, if it is class numbers or floating targets of the output's
            shape (with ``forward``, only class numbers); a dictionary holds keyword arguments. In the dtype that the model
            takes.
        optimizer: The optimizer that trains the model.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords) to run the model on; random values
            are enough. By default, the input of the first batch.
        test_batches: Batches to compare outputs, accuracy and loss on; None for some of ``batches``.
        forward: Called with the model and each batch, for models with more arguments than one input.
        batch_size: Split the tensor ``batches`` into batches of this size.
        loader: The ``DataLoader`` of the training batches; only its settings are read.
        ema: The model with averages of this one's parameters, such as ``torch.optim.swa_utils.AveragedModel``.
        accumulation: The number of batches whose gradients are summed for one optimizer step.
        processes: The number of processes that train together; None for those of ``torch.distributed``, if it is initialised.
        select, ignore: Rules by code ("BN101"), beginning of a code ("BN1") or name; commas separate several in one text.
        per_layer_ignores: Rules to skip, by dotted layer names with shell wildcards.
        config: A ``pyproject.toml``; its ``[tool.bnkit]`` has the defaults of ``select``, ``ignore`` and ``per_layer_ignores``.
        device: The device that batches are moved to; None for that of the model's first parameter.

    Returns:
        The findings, sorted by severity, code, and place in the model; ``print`` shows them as a list.

    Raises:
        SettingsError: If an argument is invalid, for example an unknown rule.
        ModelError: If the model has no batch norm, or raises on its input.
        DataError: If the batches are empty.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
        >>> print(check(model, example_inputs=torch.ones(1, 3, 4, 4), select="BN1"))
        warning  BN101 0  its bias is cancelled by 1; set bias=False (saves 6 parameters)
        1 warning in 1 layer
    """
    check_supported(model, runs=True)
    for name, number in (("accumulation", accumulation), ("processes", 1 if processes is None else processes)):
        check_int(name, number)
    file_config = CheckConfig() if config is None else load_config(config)
    check_config = file_config.with_overrides(select, ignore, per_layer_ignores)
    rules = selected_rules(check_config.select, check_config.ignore)
    on_device = device_of(model) if device is None else device
    data = None if batches is None else Batches(batches, forward, batch_size, on_device)
    test_data = None if test_batches is None else Batches(test_batches, forward, None, on_device)
    if test_data is not None and not test_data.is_repeatable:
        raise SettingsError(
            f"test_batches is a {type(test_batches).__name__}, which can be read only once; expected a list, a tensor or a "
            "DataLoader: outputs are compared under two sets of statistics"
        )
    example = None if example_inputs is None else Example(example_inputs)
    loaders = [each for each in (batches, test_batches, loader) if each is not None]
    generators = tuple(_generators(loaders))
    with ExitStack() as stack:
        snapshot = stack.enter_context(preserve_everything(model, generators))
        if example is None and data is not None:
            data, first = _peek(data)
            example = BatchExample(data, first[0]) if first else None
            snapshot.restore_random_state()  # so that the batches are the same as without the peek
        lazy = first_lazy(model)
        if lazy is not None:
            copied = _copy_with_shapes(model, example, lazy)
            optimizer = None if optimizer is None else _optimizer_of_copy(optimizer, model, copied)
            snapshot.restore_random_state()
            model, snapshot = copied, Snapshot(copied, generators)
        stack.enter_context(without_broadcasts(model))
        stack.enter_context(force_eager())
        training = TrainingSetup(optimizer, loader, ema, accumulation, processes)
        context = CheckContext(model, snapshot, example, data, test_data, training)
        if not context.sites:
            raise no_batch_norm(model)
        runnable = [rule for rule in rules if rule.needs <= context.has]
        findings = [
            finding for rule in runnable for finding in rule.findings(context) if not check_config.ignores(finding)
        ]
        return Findings(
            [_located(finding, model) for finding in _sorted(findings, model)],
            layers=len(context.sites),
            not_checked=_not_checked(rules, context.has),
            fixable=frozenset(rule.code for rule in runnable if is_fixed_by_default(rule)),
            notes=(*context.notes, *check_config.unmatched(name for name, _ in model.named_modules())),
        )


def assert_healthy(
    model: nn.Module, batches: Any = None, *, fail_on: Severity | str = Severity.WARNING, **arguments: Any
) -> None:
    """Raise if ``check`` finds anything at least as severe as ``fail_on``: for a test suite.

    Args:
        model, batches: As for ``check``.
        fail_on: "error", "warning" or "note".
        arguments: Other arguments of ``check``.

    Raises:
        AssertionError: If it does; the message lists the findings.
        SettingsError, ModelError, DataError: If the model could not be checked.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> assert_healthy(model, example_inputs=torch.ones(3, 2))
    """
    try:
        severity = Severity(fail_on)
    except ValueError as error:
        close = did_you_mean(fail_on, Severity)
        raise SettingsError(f"fail_on={fail_on!r}; expected one of {', '.join(Severity)}{close}") from error
    findings = check(model, batches, **arguments).at_least(severity)
    if findings:
        raise AssertionError(f"{type(model).__name__} is not healthy\n{findings}")


def _copy_with_shapes(model: nn.Module, example: Example | None, name: str) -> nn.Module:
    """A copy of ``model``, with lazy layers initialised by a run on the example."""
    if example is None:
        raise ModelError(
            f"{name} of {type(model).__name__} has no shape yet; expected an example that gives it one (`example_inputs` "
            "or `batches`), or a model that has run"
        )
    copied = deepcopy_model(model)
    materialise(copied, example)
    return copied


def _optimizer_of_copy(optimizer: Optimizer, model: nn.Module, copied: nn.Module) -> Any:
    """The parameter groups of ``optimizer`` with the model's parameters replaced by the copy's."""
    own = dict(copied.named_parameters())
    copies = {id(parameter): own[name] for name, parameter in model.named_parameters()}
    groups = [
        {**group, "params": [copies.get(id(parameter), parameter) for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return SimpleNamespace(param_groups=groups)


def _peek(batches: Batches) -> tuple[Batches, list[Any]]:
    """The batches, including the first, and a list of the first one; the list is empty if there are no batches."""
    first = list(islice(batches, 1))
    return batches if batches.is_repeatable else batches.after(first), first


def _generators(loaders: Sequence[Any]) -> Iterator[torch.Generator]:
    """The random generators of the loaders, except the global one."""
    for loader in loaders:
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                yield generator


def _not_checked(rules: Sequence[Rule], has: frozenset[Need]) -> dict[str, list[str]]:
    """The codes of the rules that were skipped, by the missing inputs."""
    lacking: dict[str, list[str]] = {}
    for rule in rules:
        missing = [need.value for need in Need if need in rule.needs - has]
        if missing:
            lacking.setdefault(" and ".join(missing), []).append(rule.code)
    return lacking


def _sorted(findings: Sequence[Finding], model: nn.Module) -> list[Finding]:
    order = {name: position for position, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    return sorted(findings, key=lambda f: (f.severity.rank, f.code, order.get(f.site, len(order))))


def _located(finding: Finding, model: nn.Module) -> Finding:
    """``finding`` with the line that made its module, if that was recorded."""
    source = line_of(model, finding.site)
    return finding if source is None else replace(finding, file=source.file, line=source.line)
