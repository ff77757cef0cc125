"""How a table sets itself for a width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bnkit.text_table import Column, Table, wrap

_ROWS = [
    ("resnet20.no_batch_norm", "0.829", "64", "it reached the end of every run without trouble"),
    ("lenet", "–", "256", "all of its runs diverged"),
]
_TABLE = Table(("network", "test accuracy", Column("batch", 2), Column.of_sentences("what happened")), _ROWS)


def _lines(table, width):
    return [line for _, line in table.lines(width)]


def test_without_a_limit_every_cell_is_in_one_line():
    assert str(_TABLE).splitlines() == [
        "network                 test accuracy  batch  what happened",
        "resnet20.no_batch_norm          0.829     64  it reached the end of every run without trouble",
        "lenet                               –    256  all of its runs diverged",
    ]


def test_sentences_are_wrapped_first_and_the_title_of_a_column_too():
    assert _lines(_TABLE, 72) == [
        "                            test",
        "network                 accuracy  batch  what happened",
        "resnet20.no_batch_norm     0.829     64  it reached the end of every run",
        "                                         without trouble",
        "lenet                          –    256  all of its runs diverged",
    ]


def test_then_they_go_below_their_rows_and_columns_drop_out_by_importance():
    assert _lines(_TABLE, 36) == [
        "                            test",
        "network                 accuracy",
        "resnet20.no_batch_norm     0.829",
        "    it reached the end of every run",
        "    without trouble",
        "lenet                          –",
        "    all of its runs diverged",
    ]


def test_at_last_a_name_is_broken_after_a_dot_and_no_word_in_two():
    assert _lines(_TABLE, 24)[:4] == [
        "                    test",
        "network         accuracy",
        "resnet20.          0.829",
        "no_batch_norm",
    ]
    # A word that is wider than all there is stays whole.
    assert _lines(Table(("name",), [("no_batch_norm",)]), 5) == ["name", "no_batch_norm"]


def test_short_columns_that_go_below_share_a_line_as_far_as_they_fit():
    settings = [Column(key, 1, below=True) for key in ("lr", "batch_size", "optimizer")]
    table = Table(("network", *settings, "mean"), [("no_batch_norm", "0.1", "64", "adam", "0.5")])
    head = ["network        mean", "no_batch_norm   0.5"]
    assert _lines(table, 44) == [*head, "    lr: 0.1, batch_size: 64, optimizer: adam"]
    assert _lines(table, 30) == [*head, "    lr: 0.1, batch_size: 64", "    optimizer: adam"]


def test_without_a_limit_sentences_before_the_last_column_are_wrapped_and_no_column_is_left_out():
    sentence = " ".join(["word"] * 40)
    table = Table(
        ("n", Column.of_sentences("why"), Column("verdict", wraps=True), Column("budget", 9)),
        [("1", sentence, sentence, "b")],
    )
    lines = _lines(table, None)
    assert max(map(len, lines)) <= 120 and lines[0].split() == ["n", "why", "verdict", "budget"]
    assert sum(line.count("word") for line in lines) == 80
    # The last column is not padded: its sentences stay in one line, for grep.
    last = Table(("n", Column.of_sentences("why")), [("1", sentence)])
    assert _lines(last, None)[1] == f"1  {sentence}" and str(last) == "\n".join(_lines(last, 100_000))


def test_the_columns_that_are_left_out_are_named_below():
    def printed(table, width):
        console = Console(file=io.StringIO(), width=width)
        console.print(table, crop=False)
        return console.file.getvalue().splitlines()

    assert _TABLE.left_out(36) == ["batch"]
    assert printed(_TABLE, 36)[-2:] == ["without batch: a wider terminal, or", "a pipe, shows it"]
    assert not any("without batch" in line for width in (72, 100_000) for line in printed(_TABLE, width))


@pytest.mark.parametrize("cells", [("1,234", "–"), ("−0.5", "+2"), ("1e-05", "nan"), ("12 %", "3 %")])
def test_numbers_stand_to_the_right(cells):
    assert [line[0] for line in _lines(Table(("a long title",), [(cell,) for cell in cells]), None)][1:] == [" ", " "]
    assert not Table((Column("site", is_text=True),), [("0",)]).is_number(0)


def test_wide_characters_count_twice():
    assert _lines(Table(("名", "n"), [("批量归一化", "1"), ("ab", "2")]), None) == [
        "名          n",
        "批量归一化  1",
        "ab          2",
    ]


def test_the_rows_that_are_left_out_are_counted():
    table = Table(("n",), [(str(number),) for number in range(1005)])
    assert (len(table.first(5, "there").rows), table.first(5, "there").note) == (5, "… 1,000 more: there")
    assert table.first(1005, "there") is table


def test_it_comes_apart_into_a_header_and_rows():
    header, rows = _TABLE
    assert header == ("network", "test accuracy", "batch", "what happened") and rows == _ROWS


def test_nothing_in_a_cell_is_markup_or_a_control_code():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    console.print(Table(("network", "loss"), [("[red]x[/red] :smile: \r", "0.5")], "Title"), crop=False)
    text = console.file.getvalue()
    assert "[red]x[/red] :smile:" in text and "\r" not in text
    assert "\x1b[3mTitle" in text and "\x1b[1mnetwork" in text


def test_html_is_escaped_and_markdown_stays_in_its_cell():
    table = Table(("a", "n"), [("<b> & c\nd", "1"), ("x|y", "2")], "T")
    assert table.to_html().startswith("<table><caption>T</caption><thead><tr><th style='text-align:left")
    assert "&lt;b&gt; &amp; c<br>d</td><td style='text-align:right" in table.to_html()
    assert table.to_markdown().splitlines() == ["| a | n |", "| --- | ---: |", "| <b> & c d | 1 |", "| x/y | 2 |"]
    assert table.to_json() == {
        "title": "T",
        "header": ["a", "n"],
        "rows": [["<b> & c\nd", "1"], ["x|y", "2"]],
        "note": "",
    }


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", None, ["one two three"]),
        ("one two three", 8, ["one two", "  three"]),
        ("  one two\nthree", 8, ["  one", "    two", "three"]),
        ("unbreakable words", 5, ["unbreakable", "  words"]),
        ("results/a/report.html", 13, ["results/a/", "  report.html"]),
        ("the mean, n = 5", 12, ["the mean,", "  n = 5"]),
        ("", 5, [""]),
    ],
)
def test_text_is_broken_between_words(text, width, lines):
    assert wrap(text, width, hanging="  ") == lines


@pytest.mark.parametrize("rows", [(), [()]], ids=["no row", "an empty row"])
def test_a_table_without_columns_has_no_lines(rows):
    table = Table((), rows)
    assert list(table.lines()) == list(table.lines(40)) == [] and table.left_out(40) == []
    assert (str(table), table.to_markdown()) == ("", "")
    console = Console(file=io.StringIO(), width=40)
    console.print(table)
    assert console.file.getvalue() == ""


def test_a_table_without_rows_is_its_header():
    table = Table((Column("network"), Column.of_sentences("what happened")), (), "Title")
    assert str(table) == "Title\nnetwork  what happened"
    assert [line for _, line in table.lines(18)] == ["         what", "network  happened"]
    assert table.to_markdown() == "| network | what happened |\n| --- | --- |"
