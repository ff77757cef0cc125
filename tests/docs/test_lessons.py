"""The lessons run from top to bottom on a small budget, and are kept without what they print."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import nbformat
import pytest

from tests.cases.selection import selected
from tests.child_processes import time_limit

FOLDER = Path(__file__).parents[2] / "docs" / "lessons"
execute, write_page = (runpy.run_path(str(FOLDER / "execute.py"))[name] for name in ("execute", "write_page"))
LESSONS = sorted(FOLDER.glob("*.ipynb"))
# What a reader sets in the environment or in the first cells; the defaults take longer.
SMALL_BUDGET = {"LESSON_DATA": "digits", "LESSON_EPOCHS": "2", "LESSON_SEEDS": "2", "BNKIT_COMPILE": "off"}

CLEAR = "run jupyter nbconvert --clear-output --inplace docs/lessons/*.ipynb"
lessons = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)


@pytest.mark.slow
@pytest.mark.parametrize(
    # `make docs`, a part of `make test`, runs all of them.
    "lesson",
    selected(
        [(lesson,) for lesson in LESSONS], lambda lesson: lesson.stem[:2] == "01", name=lambda lesson: lesson.stem
    ),
)
def test_a_lesson_runs_and_makes_a_page(lesson, tmp_path, monkeypatch):
    for name, value in SMALL_BUDGET.items():
        monkeypatch.setenv(name, value)
    with time_limit(500):
        notebook = execute(lesson)  # a cell that fails, an assertion included, raises
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]

    page = write_page(notebook, lesson.stem, tmp_path).read_text()
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert len(pictures) == sum("image/svg+xml" in output.get("data", {}) for output in outputs) > 0
    for description, path in pictures:
        assert len(description.split()) > 8, f"{path} is not described: {description!r}"
        assert (tmp_path / path).read_text().startswith("<?xml")
    assert re.findall(r"\((\S+\.ipynb)\)", page) == [lesson.name]  # links to other lessons lead to their pages
    # The section that closes a lesson is computed: a table of what was said and what was measured.
    course = page.split("## What the course page says, and what we measured")[1].split("\n## ")[0]
    assert re.search(r"^\| the course.*\|\n\| ---.*\|\n\| .+ \|", course, re.MULTILINE)
    assert "nan" not in re.findall(r"\w+", course)


@lessons
def test_a_lesson_is_kept_without_outputs_in_one_form(lesson):
    notebook = nbformat.read(lesson, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, f"{cell.id} has outputs; {CLEAR}"
    form = nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert lesson.read_text(encoding="utf-8") == form, CLEAR


@lessons
def test_a_lesson_says_how_to_run_it_and_has_exercises_with_answers(lesson):
    cells = nbformat.read(lesson, as_version=4).cells
    assert cells[0].source.startswith(f"# {int(lesson.name[:2])} · ")
    assert "pip install -e '.[plot]'" in cells[0].source
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.*)$", prose, re.MULTILINE)
    assert headings[-3:] == ["Exercises", "What the course page says, and what we measured", "Answers"]
    exercises, answers = prose.split("## Exercises")[1], prose.split("## Answers")[1]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2"]
    assert re.findall(r"^\*\*(\d)\.\*\* ", answers, re.MULTILINE) == ["1", "2"]
    assert max(map(len, prose.splitlines())) <= 120


def test_links_between_lessons_lead_somewhere():
    for lesson in LESSONS:
        prose = "\n".join(cell.source for cell in nbformat.read(lesson, as_version=4).cells)
        for target in re.findall(r"\]\(([^)#:]+\.\w+)(?:#[^)]*)?\)", prose):
            assert (FOLDER / target).exists(), f"{lesson.name}: {target}"
