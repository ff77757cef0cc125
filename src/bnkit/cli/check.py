"""``bnkit check``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Exit, Option

from bnkit.checks.finding import Severity
from bnkit.cli.model_command import (
    Data,
    Debug,
    Force,
    Inputs,
    Quiet,
    Shapes,
    Target,
    Weights,
    print_weights,
    recalibrate_command,
)
from bnkit.cli.options import with_options
from bnkit.console import stderr_console, stdout_console
from bnkit.errors import SettingsError

if TYPE_CHECKING:
    from bnkit.checks.findings_output import Findings
    from bnkit.model.change_list import Change
    from bnkit.model.verify.accept_changed_model import Outcome

_FIXED = Path("fixed.safetensors")


def check(
    target: Target,
    shapes: Shapes = None,
    data: Data = None,
    inputs: Inputs = None,
    weights: Weights = None,
    select: Annotated[
        list[str] | None,
        Option(metavar="BN1,BN201", help="Only these rules: codes, beginnings of codes, or names. May be repeated."),
    ] = None,
    ignore: Annotated[list[str] | None, Option(metavar="BN102", help="Skip these rules. May be repeated.")] = None,
    per_layer_ignores: Annotated[
        list[str] | None,
        Option(metavar="LAYER:CODE", help="Skip this rule at these layers, as 'backbone.*:BN101'. May be repeated."),
    ] = None,
    fail_on: Annotated[
        Severity | None, Option(help="The lowest severity that leads to exit status 1.", show_default="warning")
    ] = None,
    batch_size: Annotated[int, Option(metavar="N", help="The batch size, as in training.")] = 256,
    batches: Annotated[int, Option(metavar="N", help="The number of batches of the training part to measure.")] = 32,
    fix: Annotated[
        bool,
        Option("--fix", help="Apply the mechanical fixes, and write the weights to --out; nothing else is changed."),
    ] = False,
    out: Annotated[
        Path | None, Option(metavar="FILE", help="With --fix: the file for the weights.", show_default=str(_FIXED))
    ] = None,
    force: Force = False,
    config: Annotated[
        Path | None,
        Option(metavar="FILE", help="A pyproject.toml with [tool.bnkit].", show_default="the nearest one upwards"),
    ] = None,
    form: Annotated[
        Literal["text", "json", "github", "sarif"],
        Option("--format", help="github: annotations for a workflow; sarif: a log for code scanning (SARIF 2.1.0)."),
    ] = "text",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit check nets.py:net --data data.py:data --weights w.safetensors` finds mistakes in how your network uses batch norm.

    `bnkit check results/quickstart/runs/3f2a` checks the trained network of a run, on its own data. --input 64x3x32x32 instead
    of --data runs only the rules that need no data. `bnkit explain BN101` explains a rule.

    The model gets the output of `--data file.py:factory` unchanged, and the data of a run in the form that the run was trained
    on; for other data, `--inputs` names the form that the model was trained on. The first line of the output says which data.

    Checking does not change the model. --fix writes the fixed weights to a separate file, and reports accuracy and loss on the
    test part before and after; a result that became worse is not written without --force. pyproject.toml can select rules too:
    [tool.bnkit] with select, ignore, fail-on, per-layer-ignores.

    Exit status: 0 no findings as severe as --fail-on, 1 such findings, 2 could not check.
    """
    began = time.perf_counter()

    def in_commands(remedy: str) -> str:
        """``remedy`` with the command for this model in place of a call."""
        this = recalibrate_command(target, data, inputs, weights) if is_factory_name(target) else "--fix"
        return with_options(remedy).replace("bnkit recalibrate", this)

    from bnkit.checks.config import load_config, nearest_config
    from bnkit.cli.check_target import read_check_target
    from bnkit.import_user_function import is_factory_name
    from bnkit.strict_json import dumps

    read = nearest_config(Path.cwd()) if config is None else load_config(config)
    settings = read.with_overrides(select, ignore, _ignores_by_layer(per_layer_ignores), fail_on)
    if out is not None and not fix:
        raise SettingsError(f"--out {out} without --fix; expected both, or neither")
    destination = (out or _FIXED) if fix else None
    replaced = destination is not None and destination.exists()
    if force and not fix:
        raise SettingsError("--force without --fix; expected both, or neither")
    with stderr_console().status(f"reading {target}"):
        check_target = read_check_target(target, shapes or (), data, weights, batch_size, batches, destination, inputs)
    given, loaded = check_target.model_target.given, check_target.model_target.weights
    print_weights(loaded)
    with stderr_console().status(f"checking {target}"):
        findings = check_target.check(settings)
    before, model = findings.with_remedies(in_commands), check_target.model_target.model
    changes: list[Change] = []
    outcome: Outcome | None = None
    if destination is not None:
        with stderr_console().status(f"fixing {target}"):
            check_target, changes, outcome = check_target.apply_fixes(findings, destination, settings, force=force)
            findings = check_target.check(settings) if changes else findings
    findings = findings.with_remedies(in_commands)
    remark = ", replacing the existing file" if replaced else ""
    if loaded is not None and destination is not None:
        remark += loaded.own_names(destination)
    loading = check_target.loading_lines(model, destination)
    fix_lines = [*_fix_lines(changes, outcome, destination, remark, loading)]
    if form == "text":
        _print(given, before, fix_lines, time.perf_counter() - began, quiet=quiet)
        if changes:
            worse = ", but it is worse than before" if outcome is not None and outcome.is_loss else ""
            rules = "" if settings.select is None else f" by the rules selected ({', '.join(settings.select)})"
            stdout_console().print_sentences(f"left after fixing: {findings.summary}{rules}{worse}")
    else:
        written = {
            "json": lambda: dumps(findings.to_json(), indent=2) + "\n",
            "github": lambda: findings.to_github(check_target.file),
            "sarif": lambda: dumps(findings.to_sarif(check_target.file), indent=2) + "\n",
        }
        stdout_console().file.write(written[form]())
        for line in [*([] if given is None else [f"given: {given}"]), *before.notes, *fix_lines]:
            stderr_console().print_sentences(line)
    if findings.at_least(settings.fail_on) or (outcome is not None and outcome.is_loss):
        raise Exit(1)


def _print(given: str | None, findings: Findings, fix_lines: Sequence[str], seconds: float, *, quiet: bool) -> None:
    console = stdout_console()
    if given is not None:
        console.print_sentences(f"given: {given}")
    if findings and not quiet:
        console.print(*findings.lines(console.width), sep="\n", soft_wrap=True)
    # Without a terminal the output may be stored, and a time would make it differ between runs.
    console.print_sentences(f"{findings.summary} ({seconds:.1f} s)" if console.is_terminal else findings.summary)
    if not quiet:
        for remark in findings.remarks:
            console.print_sentences(remark)
        if findings.fixable_count:
            console.print_sentences(f"{findings.fixable_count} can be fixed with --fix")
    for line in fix_lines:
        console.print_sentences(line)


def _fix_lines(
    changes: Sequence[Change], outcome: Outcome | None, destination: Path | None, remark: str, loading: Iterable[str]
) -> Iterator[str]:
    """Lines about the fixes, how to load them, their effect on the outputs, and the file that was written."""
    if destination is None:
        return
    for change in changes:
        yield f"fixed: {change.site or '(the model)'}: {change.action}; {change.detail}"
    yield from loading
    if outcome is not None:
        yield outcome.line
    yield f"written: {destination}{remark}" if changes else "nothing to fix; nothing written"


def _ignores_by_layer(texts: list[str] | None) -> dict[str, list[str]] | None:
    """The rules to ignore by layer, from entries such as ``backbone.*:BN101``."""
    if texts is None:
        return None
    by_layer: dict[str, list[str]] = {}
    for text in texts:
        layer, colon, codes = text.rpartition(":")
        if not colon or not layer or not codes:
            raise SettingsError(f"--per-layer-ignores {text}; expected a layer and a rule, as 'backbone.*:BN101'")
        by_layer.setdefault(layer, []).append(codes)
    return by_layer
