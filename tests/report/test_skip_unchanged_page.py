"""A page is made again when something that it shows, or what makes it, is another; and only then."""

from __future__ import annotations

import dataclasses

import pytest

from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.report import skip_unchanged_page
from bnkit.report.results_of_plan import Results
from bnkit.report.skip_unchanged_page import is_up_to_date, mark_page
from tests.report.fake_runs import fake_plan, fake_results, finished_record


def _results(plan=None):
    return fake_results(plan or fake_plan(), lambda run: finished_record(0.5, 0.6))


def _with(results, record):
    first = next(iter(results.records))
    return Results(results.plan, {**results.records, first: record})


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(mark_page("<html>…</html>", _results()), encoding="utf-8")
    return path


def test_a_page_of_the_same_results_is_up_to_date(page):
    assert page.read_text(encoding="utf-8").startswith("<html>…</html>\n<!-- made from ")
    assert is_up_to_date(page, _results())


def test_another_record_makes_another_page(page):
    results = _results()
    before = next(iter(results.records.values()))
    last = dataclasses.replace(before.epochs[-1], test_accuracy=0.123)
    assert not is_up_to_date(page, _with(results, Record(before.status, [*before.epochs[:-1], last])))
    assert not is_up_to_date(page, _with(results, dataclasses.replace(before, status=Status.FAILED)))
    assert not is_up_to_date(page, _with(results, dataclasses.replace(before, environment={"torch": "9"})))


def test_another_plan_makes_another_page(page):
    assert not is_up_to_date(page, _results(fake_plan(grid={"lr": [0.2]})))
    assert not is_up_to_date(page, _results(fake_plan(about="something else")))


def test_other_code_makes_another_page(page, monkeypatch):
    monkeypatch.setattr(skip_unchanged_page, "_code_digest", lambda: "another version")
    assert not is_up_to_date(page, _results())


@pytest.mark.parametrize("content", [None, "", "<html></html>", "a page of an earlier version " * 10])
def test_what_is_no_such_page_is_not(tmp_path, content):
    path = tmp_path / "report.html"
    if content is not None:
        path.write_text(content)
    assert not is_up_to_date(path, _results())
