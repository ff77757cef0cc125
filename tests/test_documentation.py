"""What the documentation shows works as it is shown."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bnkit.checks.config import CheckConfig, parse_config
from bnkit.checks.rule_registry import rules
from bnkit.claims import CLAIMS
from bnkit.experiments.experiment import DEMONSTRATION_NAMES, Experiment, parse_experiment, recipes
from bnkit.experiments.run_settings import Settings

ROOT = Path(__file__).parents[1]
RULES = sorted((ROOT / "docs" / "rules").glob("*.md"))  # whose examples are run with the tests of the rules
LESSONS = (ROOT / "docs" / "lessons").glob("[0-9]*.md")  # made from the notebooks, which have tests of their own
MOST_WORDS = 900
LONGER = {
    "reference/commands.md": "made from the command line: every command with every option",
    "results/claims-table.md": "a table that bnkit claims wrote: 27 hypotheses with verdict, effect and budget",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {*RULES, *LESSONS})]


def _blocks(language):
    return [
        pytest.param(code, id=f"{page.stem} {number}")
        for page in PAGES
        for number, code in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        )
    ]


@pytest.mark.slow
# What Lightning and transformers do, and what they tell of a machine without a GPU.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec", "ignore:.*does not have many workers", "ignore:.*pin_memory")
@pytest.mark.filterwarnings("ignore:.*Checkpoint directory", "ignore:.*logging interval", "ignore:.*lr_scheduler")
@pytest.mark.parametrize("code", _blocks("python"))
def test_an_example_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code)  # a factory is told from another by its source
    namespace = {"__name__": "example"}
    exec(compile(code, str(tmp_path / "example.py"), "exec"), namespace)  # noqa: S102
    if "comparison.answer" in code:
        assert "batch_norm against no_batch_norm" in capsys.readouterr().out


@pytest.mark.parametrize("text", _blocks("toml"))
def test_an_experiment_file_is_one_and_shows_every_key(text):
    content = tomllib.loads(text)
    if "tool" in content:
        parse_config(content["tool"]["bnkit"], "documentation")
        assert content["tool"]["bnkit"].keys() == {field.alias for field in CheckConfig.model_fields.values()}
        return
    parse_experiment(content, "documentation")
    assert content.keys() == Experiment.model_fields.keys() - {"settled"}
    assert content["grid"].keys() == Settings.model_fields.keys()


def test_every_recipe_has_its_results_in_the_documentation():
    headings = [
        heading
        for page in ("recipes", "course-networks")
        for heading in re.findall(r"^## `(.+)`$", (ROOT / f"docs/results/{page}.md").read_text(), re.MULTILINE)
    ]
    assert sorted(headings) == sorted((*recipes(), *DEMONSTRATION_NAMES))


def test_every_rule_is_in_the_table():
    header = "| code | name | severity | what it finds | needs |\n| --- | --- | --- | --- | --- |\n"
    rows = [
        f"| [{rule.code}](../rules/{rule.code}.md) | {rule.name} | {rule.severity} | {rule.summary} | "
        f"{', '.join(sorted(need.value for need in rule.needs)) or 'the model alone'} |\n"
        for rule in rules()
    ]
    table = header + "".join(rows)
    page = (ROOT / "docs" / "reference" / "rules.md").read_text()
    assert f"<!-- rules -->\n{table}<!-- end of rules -->" in page, f"docs/reference/rules.md has to hold\n{table}"


def test_the_tables_of_verdicts_have_the_sentences_of_the_claims():
    hypotheses = {claim.number: claim.hypothesis for claim in CLAIMS}
    for page in ("claims", "claims-table"):
        text = (ROOT / f"docs/results/{page}.md").read_text(encoding="utf-8")
        rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| \d.* \[.*\|$", text, re.MULTILINE)]
        assert [cells[0] for cells in rows if hypotheses[cells[0]] not in cells] == []
        assert page == "claims" or [cells[0] for cells in rows] == list(hypotheses)


def _words(page):
    return sum(re.search(r"[^\W_]", word) is not None for word in page.read_text(encoding="utf-8").split())


def test_a_page_is_short_or_has_a_reason():
    pages = {
        page.relative_to(ROOT / "docs").as_posix(): _words(page) for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    assert {name: words for name, words in pages.items() if words > MOST_WORDS}.keys() == LONGER.keys()


def _sections(page):
    """The anchors of a page, as the site makes them of its headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


@pytest.mark.parametrize("page", [*PAGES, *RULES], ids=lambda page: page.name)
def test_a_link_to_a_section_leads_to_one(page):
    for target, section in re.findall(r"\]\(([^)#]*\.md)?#([^)]+)\)", page.read_text()):
        other = page.parent / target if target else page
        if "://" not in target and other.name != "commands.md" and other.exists():
            assert section in _sections(other), f"{target}#{section}"


@pytest.mark.parametrize("page", [*PAGES, *RULES], ids=lambda page: page.name)
def test_no_link_inside_the_repository_is_broken(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        path = page.parent / target
        # The page of a lesson is made from its notebook.
        assert "://" in target or path.exists() or path.with_suffix(".ipynb").exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_test_files_that_a_page_names_exist(page):
    names = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    for name in re.findall(r"`((?:tests/)?[\w/]*\btest_\w+\.py)[:`]", page.read_text()):
        assert any(f"/{existing}".endswith(f"/{name}") for existing in names), name
