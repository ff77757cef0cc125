"""What is shown below the cells of a notebook, run by Jupyter's own client, with no network."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

# Proxies that lead nowhere: whatever asked the network for something would fail.
_OFFLINE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
_CELLS = [
    "import torch, bnkit\nfrom torch import nn\nfrom tests.experiments import tiny_experiment",
    (
        "comparison = bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), {'lr': [0.05], 'batch_size': [16]}, 2, "
        "epochs=2, out=folder)\ncomparison"
    ),
    "comparison.answer",
    "comparison.summary()",
    "comparison.plot('difference')",
    "axes = comparison.plot('loss')",
    (
        "model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))\n"
        "bnkit.check(model, example_inputs=torch.rand(4, 1, 8, 8))"
    ),
    "bnkit.remove(model.eval(), torch.rand(4, 1, 8, 8)).changes",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """By cell, the last result."""
    folder = tmp_path_factory.mktemp("r") / "notebook"
    cells = [f"folder = {str(folder)!r}", *_CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    before = os.environ.copy()
    os.environ.update(_OFFLINE)
    try:
        NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=Path.cwd())
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [cell.outputs for cell in notebook.cells[1:]]


def _html(cell):
    (html,) = [output.data["text/html"] for output in cell if output.output_type == "execute_result"]
    return html


def test_a_comparison_shows_verdict_pictures_and_table(outputs):
    page = _html(outputs[1])
    assert '<p class="headline">' in page
    assert page.count("<svg ") == 2 and page.count("<table>") == 1


def test_it_shows_its_progress_while_it_trains(outputs):
    shown = "".join(str(output) for output in outputs[1] if output.output_type != "execute_result")
    assert "batch_norm" in shown


def test_an_answer_a_summary_findings_and_changes_show_themselves(outputs):
    assert "batch_norm against no_batch_norm" in _html(outputs[2])
    assert "new_examples_low" in _html(outputs[3])
    assert "BN101" in _html(outputs[6]) and '<div class="wide">' in _html(outputs[6])
    assert "<td style='text-align:left;vertical-align:top'>removed</td>" in _html(outputs[7])


@pytest.mark.parametrize("cell", [4, 5], ids=["first", "another"])
def test_a_plot_is_a_picture(outputs, cell):
    (picture,) = [output.data["image/png"] for output in outputs[cell] if "image/png" in output.get("data", {})]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
