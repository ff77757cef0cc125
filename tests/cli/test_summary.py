"""`bnkit summary` as its user meets it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.cli import user_networks
from tests.cli.cli_runner import invoke

NETS = str(Path(user_networks.__file__))
SUMMARY = ("summary", f"{NETS}:Normalised", "--repetitions", "1")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_and_what_it_comes_to(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke(capsys, *SUMMARY, "--input", "5x1x8x8")
    header, row, blank, total, *savings, measured = result.out.splitlines()
    assert result.status == 0 and result.err == "" and blank == ""
    assert header.split()[:6] == ["site", "kind", "channels", "before", "after", "parameters"]
    assert row.split()[:7] == ["norm", "BatchNorm2d", "4", "conv", "relu,", "head", "8"]
    assert total.startswith("1 batch norm: ") and total.endswith(" MB kept for backward, 8 parameters")
    assert [line.partition(":")[0] for line in savings] == ["convert", "recompute", "fold"]
    assert measured.startswith("medians of 1 round after 2 to warm up")


@pytest.mark.parametrize("width", ["40", "80"])
def test_a_narrow_terminal_shows_what_matters_most(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    table = invoke(capsys, *SUMMARY, "--input", "5x1x8x8").out.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= int(width)
    shown, _, left_out = table.partition("\nwithout ")
    assert "share" in shown and "norm" in shown and "parameters" not in shown and "parameters" in left_out


def test_json_and_data(capsys):
    torch.save({"model": user_networks.Normalised().state_dict()}, "w.pt")
    result = invoke(capsys, *SUMMARY, "--data", f"{NETS}:data", "--weights", "w.pt", "--json")
    content = json.loads(result.out)
    assert result.status == 0 and content["given"].startswith("the training part of ")
    (row,) = content["batch_norms"]
    # The first 64 examples: the input, and the mean and deviation of each channel.
    assert row["bytes_kept"] == 64 * 4 * 6 * 6 * 4 + 2 * 4 * 4
    assert [saving["verb"] for saving in content["savings"]] == ["convert", "recompute", "fold"]
    quiet = invoke(capsys, *SUMMARY, "--data", f"{NETS}:data", "-q").out.splitlines()
    assert quiet[0].startswith("given: ") and quiet[1].startswith("1 batch norm: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "and none was given; expected --input 64x3x32x32 or --data D"),
        (("--input", "5x2x8x8"), "Normalised raised RuntimeError on the example"),
        (("--input", "5x1x8x8", "--repetitions", "0"), "--repetitions 0; expected a whole number from 1"),
        (("--input", "5x1x8x8", "--weights", "w.pt"), "w.pt is not there"),
        (("--input", "5x1x8x8", "--data", "digits"), "expected one of the two"),
    ],
)
def test_bad_input_is_told_in_a_line(capsys, arguments, message):
    result = invoke(capsys, *SUMMARY, *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1) and message in result.err


def test_a_network_without_batch_norm(capsys):
    result = invoke(capsys, "summary", f"{NETS}:layer_norm_alone", "--input", "2x1x8x8")
    assert result.status == 2 and "holds no batch norm" in result.err


@pytest.mark.slow
def test_the_documentation_shows_what_is_printed(capsys, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "summary.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    network, example = (text for language, text in blocks if language == "python")
    Path("nets.py").write_text(network)
    (shown,) = [text for language, text in blocks if not language]
    command, *lines = shown.splitlines()
    monkeypatch.setenv("COLUMNS", "160")
    printed = invoke(capsys, *shlex.split(command)[2:], "--repetitions", "1").out.splitlines()
    # Times are others each time, and so are the widths of their columns.
    assert [*_without_times(printed)] == [*_without_times(lines)]
    exec(compile(example, "example.py", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 ")


def _without_times(lines):
    """The rows of the table without their times; what is said of bytes."""
    for line in lines:
        words = line.split()
        if re.match(r"\d\.1 ", line):
            yield [*words[:6], words[-3], words[-1]]
        elif re.match(r"\w+.*: ", line) and not line.startswith("medians"):
            yield [line.partition(":")[0], re.findall(r"[\d.]+ of [\d.]+ MB kept for backward", line)]
