"""What people read is plain English: no phrase that has to be read twice. Docs, help texts, docstrings, comments and messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PHRASES = {
    r"anew": "again, from scratch",
    r"at hand": "available, installed",
    r"beside": "next to, in addition to",
    r"for want of": "without",
    r"(?:gone|goes|going) through (?:once|twice|again|before|a second time)": "read once, exhausted",
    r"(?:go|goes|went) on(?! a\b| for)": "continues, resumes",
    r"however many": "any number of",
    r"in turns": "interleaved",
    r"in vain": "timed out",
    r"(?:is|are) told": "receives; the message says",
    r"(?:is|are) no(?! longer\b| more\b)(?<!there is no)(?<!there are no)": "is not a",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"anybody|nobody|somebody|someone|whoever": "name the thing: the caller, the user, another process",
    r"so many": "this many, `n`",
    r"stands? (?:before|behind|beside|there)": "precedes, follows",
    r"whatever": "any, for every",
}
PATTERN = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)
LESSONS = {*ROOT.glob("docs/lessons/*.ipynb")}  # pages are made from them
DOCS = [
    path
    for path in sorted(
        [
            *ROOT.glob("*.md"),
            *ROOT.glob("docs/**/*.md"),
            *ROOT.glob("docs/lessons/*.ipynb"),
            *ROOT.glob("src/**/*.md"),
            *ROOT.glob("src/**/*.j2"),
        ]
    )
    if path.name != "CHANGELOG.md" and not (path.suffix == ".md" and path.with_suffix(".ipynb") in LESSONS)
]
SOURCES = sorted(ROOT.glob("src/**/*.py"))
TESTS = sorted(path for folder in ("tests", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py"))
# In a test's name, words are joined by underscores.
SOMEBODY = re.compile(r"(?:any|no|some)body|someone|whoever", re.IGNORECASE)


def _found(path, pattern=PATTERN):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for number, line in enumerate(lines, 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("paths", [DOCS, SOURCES], ids=["docs", "sources"])
def test_no_phrase_that_has_to_be_read_twice(paths):
    found = [line for path in paths for line in _found(path)]
    assert not found, "\n".join(found)


def test_tests_and_benchmarks_name_who_acts():
    found = [line for path in TESTS if path.name != "test_prose.py" for line in _found(path, SOMEBODY)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("the loops are compiled anew", True),
        ("there is no network", False),
        ("the model is no module", True),
        ("it is no longer used", False),
        ("whatever the size", True),
        ("a recommended way", False),
        ("runs in turns", True),
        ("in turn", False),
    ],
)
def test_the_pattern_matches_the_phrases_and_no_others(text, is_found):
    assert bool(PATTERN.search(text)) == is_found
