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


class _Client(NotebookClient):
    """Remembers every state of each output; ``execute`` keeps the last."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.states = []

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.states.append((cell_index, msg["msg_type"], msg["content"]["data"]["text/plain"]))
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The client, after it has run all cells."""
    folder = tmp_path_factory.mktemp("r") / "notebook"
    cells = [f"folder = {str(folder)!r}", *_CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    before = os.environ.copy()
    os.environ.update(_OFFLINE)
    try:
        client = _Client(notebook, timeout=240, kernel_name="python3")
        client.execute(cwd=Path.cwd())
    finally:
        os.environ.clear()
        os.environ.update(before)
    return client


@pytest.fixture(scope="module")
def outputs(executed):
    """By cell, the last state of its outputs."""
    return [cell.outputs for cell in executed.nb.cells[1:]]


def _html(cell):
    (html,) = [output.data["text/html"] for output in cell if output.output_type == "execute_result"]
    return html


def test_a_comparison_shows_verdict_pictures_and_table(outputs):
    page = _html(outputs[1])
    assert '<p class="headline">' in page
    assert page.count("<svg ") == 2 and page.count("<table>") == 1


def test_it_shows_its_progress_in_one_output_while_it_trains(executed, outputs):
    kinds, shown = zip(*((kind, text) for cell, kind, text in executed.states if cell == 2), strict=True)
    assert kinds[0] == "display_data" and set(kinds[1:]) == {"update_display_data"}
    assert any("no_batch_norm" in text and "waiting" in text for text in shown)
    progress, result = outputs[1]
    assert progress.data["text/plain"].endswith(": 4 of 4 runs done\n") and result.output_type == "execute_result"


def test_an_answer_a_summary_findings_and_changes_show_themselves(outputs):
    assert "batch_norm against no_batch_norm" in _html(outputs[2])
    assert "new_examples_low" in _html(outputs[3])
    assert "BN101" in _html(outputs[6]) and '<div class="wide">' in _html(outputs[6])
    assert "<td style='text-align:left;vertical-align:top'>removed</td>" in _html(outputs[7])


@pytest.mark.parametrize("cell", [4, 5], ids=["first", "another"])
def test_a_plot_is_a_picture(outputs, cell):
    (picture,) = [output.data["image/png"] for output in outputs[cell] if "image/png" in output.get("data", {})]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
