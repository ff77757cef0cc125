"""The page as text, and as a browser shows it without a network."""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace

import pytest

from bnkit.report.page import page
from bnkit.report.results_of_plan import Results
from tests.browser import drawn
from tests.child_processes import run
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record

pytestmark = pytest.mark.charts


def _page(**changes):
    planned = fake_plan(**changes)
    return page(fake_results(planned, lambda run: finished_record(0.5, 0.6 + run.seed / 100)))


@pytest.mark.slow
def test_what_came_from_outside_is_escaped():
    text = _page(about="<script>alert(1)</script>")
    assert "<script>alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &lt;b&gt;" in text


@pytest.mark.slow
def test_a_network_name_cannot_end_the_script_that_holds_the_figures():
    planned = fake_plan(("</script><b>x", "batch_norm"))
    text = page(fake_results(planned, lambda run: finished_record(0.5, 0.6)))
    assert "</script><b>x" not in text


@pytest.mark.slow
def test_the_page_holds_the_answer_the_tables_and_the_experiment():
    text = _page(show=["epochs", "first_layer"])
    for expected in ("batch_norm against no_batch_norm", "All runs, best first", "best in training first",
                     "gamma and beta of the first batch norm", "name = &#34;made&#34;"):  # fmt: skip
        assert expected in text


@pytest.mark.slow
def test_the_page_names_no_address_to_load_from():
    """Nothing is loaded: no source, style sheet or font from elsewhere; and it stays under 3 MB."""
    text = _page()
    assert not re.search(r"<(script|img|link|iframe)\b[^>]+\b(src|href)\s*=(?!['\"]?data:)", text)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert len(text.encode()) < 3_000_000


@pytest.mark.slow
def test_a_long_table_says_what_it_leaves_out():
    planned = fake_plan(seeds=300)
    text = page(fake_results(planned, lambda run: finished_record(0.5)))
    assert "100 more rows in results.csv." in text


def _layers(step):
    fan = {"mean": 0.0, "deviation": 1.0, "quantiles": [-2.0, -1.0, 0.0, 1.0, 2.0]}
    norm = {"input": fan, "output": fan, "gamma": fan, "beta": fan, "running_shift": 0.1, "running_ratio": 1.5}
    weighted = {"input": fan, "gradient_norm": 0.1 + step, "update_ratio": 1e-3, "input_shift": 0.2}
    return {"step": step, "layers": {"fc<1>": weighted, "norm": norm, "act": {"dead": 0.25}}}


def _watched():
    """Two learning rates; with batch norm looked into, without diverged at the higher one."""
    planned = fake_plan(("no_batch_norm", "batch_norm"), grid={"lr": [0.1, 1.0]})

    def outcome(run):
        if run.network.key == "no_batch_norm":
            return (
                diverged_record(0.3)
                if run.settings.lr == 1.0
                else finished_record(0.5, 0.6 + run.seed / 100, steps=None)
            )
        record = finished_record(
            0.6,
            0.7 + run.seed / 100,
            test_accuracy_population=0.8,
            backward_bytes=2_000_000,
            peak_memory_bytes=3_000_000,
        )
        epochs = [
            replace(e, layers=[_layers(10 * e.epoch), _layers(10 * e.epoch + 5)], examples_per_second=1200.0)
            for e in record.epochs
        ]
        return replace(record, epochs=epochs)

    return page(fake_results(planned, outcome))


@pytest.mark.slow
def test_the_first_picture_shows_each_network_at_its_best_and_says_so():
    planned = fake_plan(grid={"lr": [0.1, 1.0], "trainset": ["normal", "not_normal"]})
    best = {"no_batch_norm": 0.1, "batch_norm": 1.0}

    def outcome(run):
        return finished_record(0.5, (0.8 if run.settings.lr == best[run.network.key] else 0.6) + run.seed / 100)

    text = page(fake_results(planned, outcome))
    shown = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    points = ["lr 0.1, trainset normal", "lr 1, trainset normal"]
    assert [shown["points"][place] for place in (*shown["headline"], shown["first"])] == [*points, points[1]]
    assert f"Each at its best: no_batch_norm at {points[0]}; batch_norm at {points[1]}." in text
    assert "At lr 0.1." in _page()


# Works the switches as a user would, and writes what the figures hold then into the page.
_PROBE = """
<pre id="probe"></pre><script>
const seen = {}, source = (name) => Bokeh.documents.map((d) => d.get_model_by_name(name)).find((m) => m).data;
const plain = (name, column) => [...source(name)[column]];
const use = (selector, change) => { const c = document.querySelector(selector); change(c); c.dispatchEvent(new Event("change", {bubbles: true})); };
const go = () => {
  if (document.documentElement.dataset.ready !== "yes") return setTimeout(go, 20);
  seen.first = plain("test:batch_norm", "mean");
  seen.headline = [plain("headline:batch_norm", "mean"), plain("headline:no_batch_norm", "mean")];
  const axis = (name) => { const r = Bokeh.documents.map((d) => d.get_model_by_name(name)).find((m) => m).y_range; return [r.start, r.end]; };
  seen.axes = [axis("headline"), axis("test"), axis("population"), axis("input")];
  use("#point", (c) => { c.value = "0"; });
  seen.plain = plain("test:no_batch_norm", "mean");
  seen.epochs = plain("test:no_batch_norm", "x");
  seen.tooltip = [plain("test:under_mouse", "x"), plain("test:under_mouse", "value_0")[0]];
  use('input[value="seconds"]', (c) => { c.checked = true; });
  seen.seconds = plain("test:no_batch_norm", "x");
  use('input[value="each"]', (c) => { c.checked = true; });
  seen.each = [...source("test:no_batch_norm:seeds").ys].map((y) => [...y]);
  const caption = (kind) => document.querySelector(`#figure-test ${kind}`).hidden;
  seen.caption = [caption(".as-band"), caption(".as-lines")];
  use("input.network", (c) => { c.checked = false; });
  seen.hidden = plain("test:no_batch_norm", "x").length + source("test:no_batch_norm:seeds").xs.length;
  seen.lost = plain("rates:batch_norm:lost", "lr");
  use("input.network", (c) => { c.checked = true; });
  seen.lost_plain = [plain("rates:no_batch_norm:lost", "lr"), plain("rates:no_batch_norm:lost", "lost")];
  seen.lost_is_seen = plain("rates:no_batch_norm:lost", "y").every((y) => y < 0 && y > axis("rates")[0]);
  seen.layer = document.querySelector("#layer").value;
  seen.gamma = plain("gamma:fan", "step");
  use("#layer", (c) => { c.value = "fc<1>"; });
  seen.gamma_of_linear = document.querySelector("#figure-gamma").hidden;
  use("#figure", (c) => { c.value = "output.deviation"; });
  seen.deviation = [plain("layers:heat", "layer"), plain("layers:heat", "value")];
  use("#figure", (c) => { c.value = "dead"; });
  seen.heat = [plain("layers:heat", "layer"), plain("layers:heat", "value")];
  const column = [...document.querySelectorAll("table.sortable th")].findIndex((th) => th.textContent.trim() === "seed");
  const button = document.querySelectorAll("table.sortable th button")[column];
  const seeds = () => [...document.querySelectorAll("table.sortable tbody")[0].rows].map((row) => row.cells[column].textContent);
  button.click(); seen.up = seeds();
  button.click(); seen.down = seeds();
  const colour = () => getComputedStyle(document.body).backgroundColor, before = colour();
  document.querySelector("#theme").click();
  seen.turned = before !== colour();
  let saved = null;
  URL.createObjectURL = (blob) => { saved = blob; return "data:,"; };
  document.querySelector("button.download").click();
  saved.text().then((text) => { seen.csv = text.split("\\n").slice(0, 2); document.querySelector("#probe").textContent = JSON.stringify(seen); });
};
go();
</script></body>"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure_and_the_switches_work(tmp_path, chromium):
    text = _watched()
    shown, complaints = drawn(
        chromium, text.replace("</body>", _PROBE), tmp_path, "document.querySelector('#probe').textContent"
    )
    assert complaints == []
    # The headline, the differences, four curves, the rates, time, two of memory, five about the layers: each drawn once.
    assert shown.count('class="bk-Figure"') == text.count('<figure id="figure-') == 15
    found = re.search(r'<pre id="probe">(.*?)</pre>', shown, re.DOTALL)
    seen = json.loads(html.unescape(found[1]))
    header, row = seen.pop("csv")
    assert header.startswith("run,network,lr,seed")
    # As other programs read it: of the population statistics nothing, of the examples a second 1,200 without a comma.
    assert dict(zip(header.split(","), row.split(","), strict=True))["examples/s"] == "1200"
    assert seen == {
        "headline": [pytest.approx([0.6, 0.71]), pytest.approx([0.5, 0.61])],
        # What is there with 4 % of room: 0.5 to 0.72; both kinds of statistics, 0.5 to 0.8, on one axis; -2 to 2.
        "axes": [pytest.approx([0.4912, 0.7288]), pytest.approx(both := [0.488, 0.812]), pytest.approx(both), pytest.approx([-2.16, 2.16])],
        "deviation": [["norm"] * 4, [1.0] * 4], "lost_is_seen": True,
        "first": pytest.approx([0.6, 0.71]), "plain": pytest.approx([0.5, 0.61]), "epochs": [1, 2], "seconds": [2, 4],
        "each": [[0.5, 0.6], [0.5, 0.61], [0.5, 0.62]], "hidden": 0, "lost": [], "lost_plain": [[1], ["3 of 3"]],
        "layer": "norm", "gamma": [10, 15, 20, 25], "gamma_of_linear": True,
        "heat": [["act"] * 4, [0.25] * 4], "up": sorted(["0", "1", "2"] * 4), "down": sorted(["0", "1", "2"] * 4)[::-1],
        "turned": True, "caption": [True, False], "tooltip": [[1, 2], "0.5000 (0.5000 to 0.5000, n = 3)"],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.browser
def test_a_page_that_has_next_to_nothing_is_drawn_too(tmp_path, chromium):
    planned = fake_plan()
    _, complaints = drawn(
        chromium, page(Results(planned, {})), tmp_path, "document.documentElement.dataset.ready === 'yes'"
    )
    assert complaints == []


@pytest.mark.slow
def test_nothing_is_switched_that_is_not_there():
    planned = fake_plan()
    text = page(fake_results(planned, lambda run: finished_record(0.5, 0.6, steps=None)))
    for missing in (
        'id="point"',
        'value="step"',
        'id="group"',
        'id="figure-rates"',
        'id="figure-population"',
        'id="figure-memory"',
        'id="figure-peak_memory"',
        'id="run"',
    ):
        assert missing not in text
    assert 'id="figure-forest"' in text


@pytest.mark.slow
def test_two_hundred_runs_stay_small_and_need_no_torch(tmp_path):
    """Four networks' worth of points: the page is made from records alone."""
    code = """
import sys
from tests.report.fake_runs import fake_plan, fake_results, finished_record
from bnkit.report.page import page
planned = fake_plan(grid={"lr": [0.01, 0.03, 0.1, 0.3, 1.0]}, seeds=20)
assert len(planned) == 200
text = page(fake_results(planned, lambda run: finished_record(*[0.5 + i / 100 for i in range(30)])))
assert len(text.encode()) < 3_000_000, len(text)
assert "torch" not in sys.modules
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
