"""``bnkit check`` of a LightningModule with the weights of its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.cli_runner import invoke
from tests.integrations import lightning_network

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")]  # fmt: skip
FILE = str(Path(lightning_network.__file__))


def _checkpoint(path, **options):
    import lightning.pytorch as pl

    torch.manual_seed(0)
    module = lightning_network.Net(5, **options)
    module.net[1].running_var.fill_(float("nan"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "options"), [("Net", {}), ("make", {}), ("make", {"options": lightning_network.Options()})]
)
def test_the_weights_of_a_checkpoint_are_looked_at(name, options, tmp_path, capsys):
    checkpoint = _checkpoint(tmp_path / "last.ckpt", **options)
    result = invoke(capsys, "check", f"{FILE}:{name}", "--weights", checkpoint, "--input", "8x3")
    assert result.status == 1
    assert "BN101 net.0" in " ".join(result.out.split())
    assert "net.1" in result.out and "running" in result.out  # the NaN that only the checkpoint has


def test_a_hyper_parameter_that_is_code_is_not_made(tmp_path, capsys):
    checkpoint = _checkpoint(tmp_path / "last.ckpt", options=lightning_network.Options())
    result = invoke(capsys, "check", f"{FILE}:Net", "--weights", checkpoint, "--input", "8x3")
    assert result.status == 2
    assert "the hyper-parameter options is a tests.integrations.lightning_network.Options, which is code" in result.err
    assert "expected a factory without arguments, such as def make(): return Net(…)" in result.err


def test_a_class_that_needs_arguments_and_has_no_checkpoint_is_refused_as_before(capsys):
    result = invoke(capsys, "check", f"{FILE}:Net", "--input", "8x3")
    assert (result.status, "requires the arguments width" in result.err) == (2, True)
