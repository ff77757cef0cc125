"""`bnkit check` and `bnkit explain` as their user meets them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bnkit.checks.rule_pages import read_page
from bnkit.checks.rule_registry import rules
from bnkit.cli.main import main
from bnkit.comparison.comparison_result import Comparison
from tests.cli import image_data, user_networks
from tests.cli.cli_runner import QUICK_COMPARE, invoke

NETS = str(Path(user_networks.__file__))
IMAGES = str(Path(image_data.__file__))
# Where the convolution of `biased` is made.
LINE = inspect.getsourcelines(user_networks.biased)[1] + 2


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_text_is_worst_first_and_the_same_each_time(capsys):
    arguments = ("check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101")
    result = invoke(capsys, *arguments)
    assert result.status == 1
    assert result.out.splitlines() == [
        "warning  BN101 0  its bias is cancelled by 1; set bias=False (saves 4 parameters)",
        f"                  made at {NETS}:{LINE}",
        "1 warning in 1 layer",
    ]
    assert invoke(capsys, *arguments) == result


def test_json_is_a_list_of_findings(capsys):
    result = invoke(capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101", "--format", "json")
    (finding,) = json.loads(result.out)
    assert list(finding) == ["code", "severity", "site", "measured", "limit", "message", "remedy", "file", "line"]
    assert (result.status, finding["code"], finding["severity"], finding["site"]) == (1, "BN101", "warning", "0")
    assert (finding["file"], finding["line"]) == (NETS, LINE)


def test_annotations_for_a_workflow(capsys):
    result = invoke(capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101", "--format", "github")
    (line,) = result.out.splitlines()
    assert line.startswith(f"::warning file={NETS},line={LINE},title=BN101::0: its bias is cancelled by 1%0Aremedy: ")


def test_a_log_for_code_scanning(capsys):
    result = invoke(capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101", "--format", "sarif")
    (result_entry,) = json.loads(result.out)["runs"][0]["results"]
    place = result_entry["locations"][0]["physicalLocation"]
    assert (result.status, result_entry["ruleId"]) == (1, "BN101")
    assert (place["artifactLocation"]["uri"], place["region"]) == (Path(NETS).as_uri(), {"startLine": LINE})


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ((), 1),
        (("--fail-on", "error"), 0),
        (("--fail-on", "note"), 1),
        (("--ignore", "useless-bias"), 0),
        (("--ignore", "BN103,BN1"), 0),
        (("--per-layer-ignores", "0:BN101"), 0),
        (("--per-layer-ignores", "1:BN101"), 1),
    ],
)
def test_the_exit_status(capsys, options, status):
    arguments = ("check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101", *options)
    assert invoke(capsys, *arguments).status == status


@pytest.mark.parametrize(
    ("table", "status"),
    [
        ('select = ["BN101"]', 1),
        ('select = ["BN103"]', 0),
        ('select = ["BN101"]\nfail-on = "error"', 0),
        ('select = ["BN101"]\nignore = ["BN1"]', 0),
        ('select = ["BN101"]\n[tool.bnkit.per-layer-ignores]\n"*" = ["BN101"]', 0),
        ('selected = ["BN101"]', 2),
        ('select = ["BN999"]', 2),
        ("select = 3", 2),
        ('fail-on = "never"', 2),
        ("this is no TOML", 2),
    ],
)
def test_pyproject(capsys, tmp_path, monkeypatch, table, status):
    (tmp_path / "pyproject.toml").write_text(f"[tool.bnkit]\n{table}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    result = invoke(capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8")
    assert result.status == status
    if status == 2:
        assert "pyproject.toml" in result.err and result.err.count("\n") == 1


def test_weights_for_the_network_without_the_bias(capsys):
    result = invoke(
        capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN101", "--fix", "--out", "new.safetensors"
    )  # fmt: skip
    assert result.status == 0
    assert "fixed: 0: bias removed; subtracted from the running mean of 1" in result.out
    assert "written: new.safetensors" in result.out
    assert (
        "to load new.safetensors: build 0 with bias=False; as it is, the network expects 0.bias, which the file does not hold"
        in result.out
    )
    tensors = load_file("new.safetensors")
    assert "0.bias" not in tensors and not torch.equal(tensors["1.running_mean"], torch.zeros(4))


def test_labels_that_do_not_fit_and_patterns_that_match_nothing_are_named(capsys):
    options = ("--data", f"{IMAGES}:without_labels_that_fit", "--per-layer-ignores", "backbone.*:BN101")
    result = invoke(capsys, "check", f"{IMAGES}:trained", *options)
    assert "accuracy and loss are not compared: targets of shape (" in result.out
    assert ", from 100 to 102, do not fit outputs of shape (" in result.out
    assert "no layer matches 'backbone.*' of per-layer-ignores; the model has 0, 1, " in result.out
    result = invoke(capsys, "check", f"{IMAGES}:trained", *options, "--format", "json")
    assert "accuracy and loss are not compared" in result.err and isinstance(json.loads(result.out), list)
    fitting = ("--data", f"{IMAGES}:scaled", "--per-layer-ignores", "1:BN101")
    said = invoke(capsys, "check", f"{IMAGES}:trained", *fitting).out
    assert "not compared" not in said and "no layer matches" not in said


def test_a_remedy_is_the_command_for_this_model(capsys):
    options = ("--data", f"{NETS}:data", "--select", "BN201")
    (finding,) = json.loads(invoke(capsys, "check", f"{NETS}:Normalised", *options, "--format", "json").out)
    assert finding["remedy"] == f"bnkit recalibrate {NETS}:Normalised --data {NETS}:data"


def test_nothing_is_written_where_nothing_is_fixed(capsys, tmp_path):
    result = invoke(capsys, "check", f"{NETS}:biased", "--input", "2x1x8x8", "--select", "BN1", "--fix")
    assert result.status == 1
    assert result.out.splitlines()[-1] == "nothing to fix; nothing written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing argument 'TARGET'"),
        (["nowhere"], "is neither a factory nor the folder of a run"),
        (["results/x/runs/3f2a"], "is neither a factory nor the folder of a run"),
        ([f"{NETS}:plain", "--input", "2x1x8x8"], "holds no batch norm"),
        ([f"{NETS}:biased", "--input", "2x3x8x8"], "raised RuntimeError on the example"),
        ([f"{NETS}:biased", "--data", "digits", "--input", "2x1x8x8"], "expected one of the two"),
        ([f"{NETS}:biased", "--select", "BN7"], "no rule is called 'BN7'"),
        ([f"{NETS}:biased", "--out", "x.safetensors"], "without --fix"),
        ([f"{NETS}:biased", "--fix", "--out", "x.bin"], "x.bin"),
        ([f"{NETS}:biased", "--per-layer-ignores", "BN101"], "expected a layer and a rule"),
        ([f"{NETS}:biased", "--data", "digits", "--batches", "0"], "--batches 0"),
        ([f"{NETS}:biased", "--data", "digits"], "--data digits: nothing says in which form"),
        ([f"{NETS}:biased", "--input", "2x1x8x8", "--inputs", "normal"], "expected --inputs only with --data"),
        ([f"{NETS}:biased", "--input", "2x1x8x8", "--force"], "--force without --fix"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, expected):
    result = invoke(capsys, "check", *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert expected in result.err


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.code) for rule in rules()])
def test_a_rule_is_explained(capsys, rule):
    for name in (rule.code.lower(), rule.name, *rule.former_names):
        assert invoke(capsys, "explain", name).out == read_page(rule.code).text


def test_rules_are_listed(capsys):
    result = invoke(capsys, "explain")
    assert all(rule.code in result.out and rule.name in result.out for rule in rules())
    assert (invoke(capsys, "explain", "BN7").status, invoke(capsys, "explain").status) == (2, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison that kept the weights of every epoch."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.raises(SystemExit):
        main(["compare", *QUICK_COMPARE, "--out", str(folder / "r"), "--keep-checkpoints", "-q"])
    return folder / "r"


def _runs(folder):
    plan = Comparison(folder).plan
    return {run.network.key: run for run in plan if run.seed == 0}


@pytest.mark.slow
def test_the_run_of_a_comparison(capsys, folder):
    run = folder / "runs" / _runs(folder)["batch_norm"].run_id
    whole = invoke(capsys, "check", str(run), "--format", "json")
    assert whole.status in (0, 1) and isinstance(json.loads(whole.out), list)
    # the beginning of its id, and its file of weights, stand for it as well
    assert invoke(capsys, "check", str(run)[:-4], "--format", "json") == whole
    assert invoke(capsys, "check", str(run / "weights.safetensors"), "--format", "json") == whole
    assert invoke(capsys, "check", str(run / "epoch-0002.safetensors"), "--format", "json") == whole
    other = invoke(capsys, "check", str(run), "--weights", str(run / "epoch-0001.safetensors"), "--format", "json")
    assert invoke(capsys, "check", str(run / "epoch-0001.safetensors"), "--format", "json") == other
    assert invoke(capsys, "check", str(run), "--input", "4x6", "--select", "BN101").status == 0


@pytest.mark.slow
def test_nothing_of_the_folder_is_touched(capsys, folder):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    run = folder / "runs" / _runs(folder)["batch_norm"].run_id
    invoke(capsys, "check", str(run), "--fix")
    result = invoke(capsys, "check", str(run), "--fix", "--out", str(run / "weights.safetensors"))
    assert (result.status, result.err.count("\n")) == (2, 1)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("runs/zz", "names 0 runs"),
        ("runs/{batch_norm}/epoch-0009.safetensors", "expected an epoch of a run with --keep-checkpoints"),
        ("runs/{no_batch_norm}", "holds no batch norm"),
    ],
)
def test_a_run_that_is_not_there(capsys, folder, target, expected):
    names = {key: run.run_id for key, run in _runs(folder).items()}
    result = invoke(capsys, "check", str(folder / target.format(**names)))
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert expected in result.err


@pytest.mark.slow
def test_an_epoch_of_a_comparison(folder):
    comparison = Comparison(folder)
    run = _runs(folder)["batch_norm"]
    first, last = comparison.load(run, epoch=1).state_dict(), comparison.load(run).state_dict()
    assert not torch.equal(first["fc1.weight"], last["fc1.weight"])
    assert torch.equal(comparison.load(run, epoch=2).state_dict()["fc1.weight"], last["fc1.weight"])
    built = comparison.build(run).state_dict()
    assert built.keys() == last.keys() and not torch.equal(built["fc1.weight"], first["fc1.weight"])
    assert len(comparison.data(run).test) == 30
