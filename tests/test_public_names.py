"""What `import bnkit` gives, and what it costs."""

from __future__ import annotations

import sys

import pytest

import bnkit
from tests.child_processes import run


def test_the_public_names_are_these_and_no_others():
    assert bnkit.__all__ == [
        "Callback", "Comparison", "Monitor", "add", "assert_healthy", "check", "compare", "convert", "fold", "freeze",
        "keep_freed_memory", "nn", "recalibrate", "recalibrated", "recompute", "remove", "summary", "unfreeze",
    ]  # fmt: skip
    assert dir(bnkit) == sorted([*bnkit.__all__, "__version__"])
    for name in bnkit.__all__:
        assert getattr(bnkit, name) is not None


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'; it has Callback, Comparison, Monitor"):
        _ = bnkit.batchnorm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bnkit", ["torch", "numpy", "rich", "bokeh"]),
        ("bnkit.comparison.comparison_result", ["torch", "pandas", "matplotlib", "bokeh"]),
        ("bnkit.report.notebook.comparison_html", ["torch", "pandas", "matplotlib", "bokeh"]),
        ("bnkit.report.paper.write_files", ["torch", "pandas", "matplotlib", "bokeh"]),
        ("bnkit.report.page", ["torch"]),
        ("bnkit.comparison.compare", ["torch", "tensorboardX", "wandb", "mlflow"]),
        ("bnkit.integrations.loggers", ["torch", "tensorboardX", "wandb", "mlflow"]),
        ("bnkit.integrations.wandb_logger, bnkit.integrations.mlflow_logger", ["torch", "wandb", "mlflow"]),
        ("bnkit.cli.main", ["torch", "numpy", "pydantic"]),
        ("bnkit.data", ["torch", "numpy"]),
        ("bnkit.integrations.pytest_plugin", ["torch", "numpy", "rich", "bnkit.checks"]),
        (
            "bnkit.checks.check, bnkit.model.statistics.temporary_recalibration",
            ["lightning", "pytorch_lightning", "transformers"],
        ),
        ("bnkit.nn", ["numba", "rich", "pydantic", "bokeh", "scipy", "bnkit.kernels.gpu.kernel"]),
    ],
)
def test_an_import_does_not_load_what_it_need_not(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
