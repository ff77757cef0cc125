"""An unknown name says which one it resembles, wherever names are given; and one thing is not called several."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

import bnkit
from bnkit.claims.evaluate_claims import evaluate_claims
from bnkit.errors import BnkitError
from bnkit.experiments.experiment import parse_experiment, read_recipe
from bnkit.message_parts import plural
from tests.report.fake_runs import fake_plan

_MODEL = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
_COMPARISON = bnkit.Comparison.__new__(bnkit.Comparison)
_COMPARISON.plan = fake_plan()
_COMPARISON.folder = SimpleNamespace(runs=lambda plan: SimpleNamespace(plan=plan))
_CONTENT = {"name": "m", "networks": ["lenet"], "grid": {"lr": 0.1}, "seeds": 1, "epochs": 1}


def _configured(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.bnkit]\n{text}\n")
    bnkit.check(_MODEL, config=folder / "pyproject.toml")


@pytest.mark.parametrize(
    ("call", "close"),
    [
        (lambda _: read_recipe("lenet-fashoin-mnist"), "lenet-fashion-mnist"),
        (lambda _: parse_experiment({**_CONTENT, "epoch": 2}, "here"), "epochs"),
        (lambda _: parse_experiment({**_CONTENT, "grid": {"batchsize": 2}}, "here"), "batch_size"),
        (lambda _: parse_experiment({**_CONTENT, "grid": {"lr": 1, "schedule": "cosin"}}, "here"), "cosine"),
        (lambda folder: bnkit.compare("LeNat", out=folder), "lenet"),
        (lambda folder: bnkit.compare("lenet", "fashoin-mnist", out=folder), "fashion-mnist"),
        (lambda folder: bnkit.compare("lenet", loss="cross_entropi", out=folder), "cross_entropy"),
        (lambda folder: evaluate_claims(out=folder, only=["covariate-shft"]), "covariate-shift"),
        (lambda _: bnkit.check(_MODEL, select="useles-bias"), "useless-bias"),
        (lambda _: bnkit.assert_healthy(_MODEL, fail_on="warn"), "warning"),
        (lambda folder: _configured(folder, "selct = []"), "select"),
        (lambda folder: _configured(folder, "ignore = ['useles-bias']"), "useless-bias"),
        (lambda _: bnkit.nn.BatchNorm1d(2, kernel="refrence"), "reference"),
        (lambda _: bnkit.nn.BatchNorm1d(2, activation="ReLu"), "relu"),
        (lambda _: bnkit.convert(_MODEL, to="groupnorm"), "group_norm"),
        (lambda _: _COMPARISON.plot("test_acuracy"), "test_accuracy"),
        (lambda _: _COMPARISON.plot("loss", batchsize=1), "batch_size"),
        (lambda _: _COMPARISON.best("batchnorm"), "batch_norm"),
        (lambda _: bnkit.Compare, "compare"),
    ],
)
def test_an_unknown_name_is_answered_by_the_one_that_was_meant(tmp_path, call, close):
    with pytest.raises((BnkitError, AttributeError)) as error:
        call(tmp_path)
    assert f"; did you mean {close!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("nouns", "one", "two"), [(("epoch",), "1 epoch", "2 epochs"), (("batch", "batches"), "1 batch", "2 batches")]
)
def test_the_plural_follows_the_number(nouns, one, two):
    assert (plural(1, *nouns), plural(2, *nouns), plural(0, *nouns)[0]) == (one, two, "0")
