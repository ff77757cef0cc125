"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import defaultdict

import pytest

from tests import compile_once, random_examples

# Two workers of two threads each would wait for each other on two cores. Tests of threads ask for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where a shell started the tests in the background, SIGINT is ignored, by them and by every process they start. Tests of Ctrl-C
# need what a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)

random_examples.register_profiles()


def pytest_sessionstart(session):
    compile_once.install()


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the cache of the user who runs it."""
    monkeypatch.setenv("BNKIT_DATA", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(autouse=True)
def _compiled_from_scratch():
    """torch.compile gives up on a function after eight versions of it; those of other tests do not count."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


@pytest.fixture(autouse=True, scope="module")
def _no_charts_in_reports(request):
    """Every comparison writes its report: without charts a small one takes a third of the time. ``charts`` marks who looks at them."""
    if random_examples.is_exhaustive() or request.node.get_closest_marker("charts"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bnkit.report.page", "bnkit.report.charts.page_charts"):
            patch.setattr(f"{module}.charts", lambda results, contrasts: {}, raising=False)
        patch.setattr("bnkit.report.page.components", lambda drawn: ("", defaultdict(str)), raising=False)
        yield


@pytest.fixture
def chromium():
    """The path of a Chromium. Without one the test is skipped, but never in CI."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium; .ci/run installs one")
        pytest.skip("no Chromium on this machine: the report was not looked at in a browser")
    return CHROMIUM
