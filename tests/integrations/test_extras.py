"""The base installation imports no package of an extra, works without all of them, and names the extra that a feature needs."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.child_processes import run

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
del EXTRAS["dev"]
# What only stands behind a feature of an extra, and imports its package.
OF_EXTRAS = (
    "bnkit.integrations.lightning", "bnkit.integrations.transformers", "bnkit.kernels.cpu", "bnkit.kernels.gpu",
    "bnkit.kernels.compilation.compile_warning", "bnkit.model.verify.onnx_operators",
)  # fmt: skip
# torch.utils.flop_counter imports Triton, if it is there.
OF_TORCH = {"triton"}


def _distribution(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def _packages():
    """By extra, the packages to import."""
    by_distribution = {}
    for package, distributions in packages_distributions().items():
        for name in distributions:
            by_distribution.setdefault(_distribution(name), set()).add(package)
    return {
        extra: sorted(
            package for requirement in requirements for package in by_distribution.get(_distribution(requirement), ())
        )
        for extra, requirements in EXTRAS.items()
    }


PACKAGES = _packages()
ALL = sorted({package for packages in PACKAGES.values() for package in packages})

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import bnkit
for module in pkgutil.walk_packages(bnkit.__path__, "bnkit."):
    if not module.name.startswith({left_out}):
        importlib.import_module(module.name)
print(json.dumps([package for package in {packages} if package in sys.modules]))
"""

# Each of the features that an extra brings, asked for without any of them.
ASK = """
import contextlib, io, json, os
import torch
from torch import nn
import bnkit
from bnkit.cli.main import main
from tests.experiments import tiny_experiment

networks, data = tiny_experiment.NETWORKS, tiny_experiment.data()
settings = {"grid": {"lr": [0.05], "batch_size": [16]}, "seeds": 2, "epochs": 1, "out": "results", "progress": False}
comparison = bnkit.compare(networks, data, **settings)
model, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), torch.rand(4, 1, 8, 8)
os.environ["TRITON_INTERPRET"] = "1"


def command(*arguments):
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main(list(arguments))
    raise RuntimeError(printed.getvalue().strip())


def log(name):
    bnkit.compare(networks, data, log=name, **settings)


def layer(kernel):
    bnkit.nn.BatchNorm2d(2, kernel=kernel)(torch.rand(4, 2, 3, 3))


asked = {
    "fast": [lambda: layer("numba"), lambda: command("warm-up")],
    "frame": [comparison.summary, comparison.data_frame, lambda: bnkit.Comparison.from_frame([], metric="accuracy")],
    "lightning": [lambda: __import__("bnkit.integrations.lightning")],
    "mlflow": [lambda: log("mlflow"), lambda: command("compare", "--log", "mlflow", "-q")],
    "onnx": [lambda: command("fold", "nets.py:net", "--input", "4x1x8x8", "--out", "net.onnx")],
    "plot": [comparison.plot, lambda: comparison.savefig("a.pdf"), lambda: command("report", "results", "--format", "pdf")],
    "ray": [lambda: bnkit.compare(networks, data, engine="ray", **settings), lambda: command("compare", "--engine", "ray", "-q")],
    "tensorboard": [lambda: log("tensorboard"), lambda: command("compare", "--tensorboard", "-q")],
    "transformers": [lambda: __import__("bnkit.integrations.transformers")],
    "triton": [lambda: layer("triton")],
    "wandb": [lambda: log("wandb"), lambda: command("compare", "--log", "wandb", "-q")],
}
messages = {}
for extra, features in asked.items():
    for feature in features:
        try:
            feature()
        except Exception as error:
            messages.setdefault(extra, []).append(str(error))
        else:
            messages.setdefault(extra, []).append("no error")

# What needs no extra.
assert comparison.answer.contrasts and "<svg " in comparison._repr_html_() and comparison.write_report().exists()
assert comparison.to_latex() and comparison.to_markdown() and comparison.to_csv()
assert {finding.code for finding in bnkit.check(model, example_inputs=images)} == {"BN101"}
bnkit.convert(model, example_inputs=images)
bnkit.recalibrate(model, [images])
bnkit.remove(model.eval(), images)
with contextlib.redirect_stdout(io.StringIO()):
    for ending in ("pt2", "safetensors"):
        with contextlib.suppress(SystemExit):
            main(["fold", "nets.py:net", "--input", "4x1x8x8", "--out", f"net.{ending}"])
        assert os.path.exists(f"net.{ending}")
print(json.dumps(messages))
"""


def _python(code, folder=None):
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = run([sys.executable, "-c", code], cwd=folder, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_package_of_an_extra_is_known_by_the_name_that_it_is_imported_by():
    """Otherwise the other tests would look for nothing."""
    absent = {
        requirement for requirements in EXTRAS.values() for requirement in requirements if "platform" not in requirement
    }
    known = {_distribution(name) for names in packages_distributions().values() for name in names}
    assert {name for name in absent if _distribution(name) not in known} == set()
    assert all(packages for extra, packages in PACKAGES.items() if extra != "triton")


@pytest.mark.slow
def test_no_module_of_the_base_imports_an_extra():
    assert set(_python(IMPORT_EVERYTHING.format(left_out=OF_EXTRAS, packages=ALL))) <= OF_TORCH


@pytest.mark.slow
def test_without_any_extra_bnkit_works_and_each_feature_names_the_one_that_it_needs(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())\n"
    )
    hidden = f"from tests.without_packages import hide; hide({ALL})\n"
    assert _python(hidden + IMPORT_EVERYTHING.format(left_out=OF_EXTRAS, packages=ALL)) == []
    messages = _python(hidden + ASK, tmp_path)
    assert messages.keys() == EXTRAS.keys()
    for extra, lines in messages.items():
        for line in lines:
            assert f"pip install 'bnkit[{extra}]'" in line and "\n" not in line and "Traceback" not in line, line
