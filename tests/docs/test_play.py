"""The page to play with computes what torch.nn computes, however it is moved."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.browser import drag, opened, press, swipe

PLAY = Path(__file__).parents[2] / "docs" / "play.html"
NUMBERS = """(() => {
  const value = (id) => Number(document.getElementById(id).dataset.value);
  const column = (name) => [...document.querySelectorAll(`#numbers td[data-column=${name}]`)].map((e) => Number(e.dataset.value));
  return {
    x: column("x"), training: column("training").map(String), evaluation: column("evaluation"),
    ...Object.fromEntries(["mean", "variance", "unbiased", "running_mean", "running_var", "slope", "running_slope", "steps",
      "gamma-value", "beta-value", "eps-value", "momentum-value"].map((id) => [id, String(value(id))])),
    status: document.getElementById("status").textContent, refused: document.getElementById("refused").textContent,
    shown: [...document.querySelectorAll("#numbers td[data-column=evaluation]")].map((e) => e.textContent),
  };
})()"""


class Twin:
    """The layer of torch.nn that has to show the same numbers as the page."""

    def __init__(self):
        self.layer = nn.BatchNorm1d(1, dtype=torch.float64)

    def follow(self, found, passes=0):
        """Take over the settings and the inputs, and pass them forward ``passes`` times in training; check all numbers."""
        self.layer.eps, self.layer.momentum = float(found["eps-value"]), float(found["momentum-value"])
        nn.init.constant_(self.layer.weight, float(found["gamma-value"]))
        nn.init.constant_(self.layer.bias, float(found["beta-value"]))
        x = torch.tensor(found["x"], dtype=torch.float64)[:, None]
        with torch.no_grad():
            for _ in range(passes):
                self.layer.train()(x)
            kept = {name: buffer.clone() for name, buffer in self.layer.named_buffers()}
            evaluation = self.layer.eval()(x)[:, 0].tolist()
            assert found["evaluation"] == pytest.approx(evaluation, rel=1e-9, abs=1e-12)
            assert float(found["running_mean"]) == pytest.approx(kept["running_mean"].item(), rel=1e-9, abs=1e-12)
            assert float(found["running_var"]) == pytest.approx(kept["running_var"].item(), rel=1e-9)
            if len(x) == 1:
                with pytest.raises(ValueError, match="Expected more than 1 value per channel") as refused:
                    self.layer.train()(x)
                assert str(refused.value) in found["refused"]
                assert found["training"] == [] or set(found["training"]) == {"NaN"}
            else:
                training = self.layer.train()(x)[:, 0].tolist()
                assert list(map(float, found["training"])) == pytest.approx(training, rel=1e-9, abs=1e-12)
                assert float(found["variance"]) == pytest.approx(x.var(correction=0).item(), rel=1e-9, abs=1e-20)
                assert float(found["unbiased"]) == pytest.approx(x.var().item(), rel=1e-9, abs=1e-20)
            for name, buffer in self.layer.named_buffers():  # to look changed nothing
                buffer.copy_(kept[name])
        assert float(found["steps"]) == kept["num_batches_tracked"]
        for text, value in zip(found["shown"], evaluation, strict=True):
            assert float(text.replace("−", "-")) == pytest.approx(value, rel=1e-2, abs=1e-4)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_pointer_and_sliders_move_the_numbers_of_torch(width, dark, chromium):
    twin = Twin()
    with opened(chromium, PLAY, width, dark=dark) as (page, complaints):
        twin.follow(page.evaluate(NUMBERS))

        before = page.evaluate(NUMBERS)["x"]
        drag(page, '[data-index="2"] .target', 60)
        after = page.evaluate(NUMBERS)
        a_pixel = page.evaluate("20 / (document.getElementById('input').getBoundingClientRect().width - 28)")
        assert after["x"][2] == pytest.approx(before[2] + 60 * a_pixel, abs=0.11)
        assert after["x"][:2] == before[:2] and after["x"][3:] == before[3:]
        twin.follow(after)
        swipe(page, '[data-index="3"] .target', -60)
        swiped = page.evaluate(NUMBERS)
        assert swiped["x"][3] == pytest.approx(after["x"][3] - 60 * a_pixel, abs=0.11)
        twin.follow(swiped)
        drag(page, '[data-index="0"] .target', 3000)  # beyond the end of the scale
        assert page.evaluate(NUMBERS)["x"][0] == 10

        page.click("#step")
        twin.follow(page.evaluate(NUMBERS), passes=1)
        drag(page, "#momentum", 40)
        page.click("#ten")
        moved = page.evaluate(NUMBERS)
        assert float(moved["momentum-value"]) != 0.1
        twin.follow(moved, passes=10)
        for slider in ("gamma", "beta", "eps"):
            drag(page, f"#{slider}", 30)
        slid = page.evaluate(NUMBERS)
        assert all(slid[f"{name}-value"] != moved[f"{name}-value"] for name in ("gamma", "beta", "eps"))
        twin.follow(slid)

        page.click("#shift")
        shifted = page.evaluate(NUMBERS)
        assert max(shifted["x"]) < max(slid["x"])
        twin.follow(shifted)
        page.click("#draw")
        twin.follow(page.evaluate(NUMBERS))
        page.click("#flat")
        flat = page.evaluate(NUMBERS)
        assert len(set(flat["x"])) == 1 and set(map(float, flat["training"])) == {float(flat["beta-value"])}
        twin.follow(flat)
        page.click("#one")
        one = page.evaluate(NUMBERS)
        assert len(one["x"]) == 1 and math.isfinite(one["evaluation"][0])
        twin.follow(one)
        assert page.evaluate("document.getElementById('step').disabled")
        page.click("#step", force=True)
        twin.follow(page.evaluate(NUMBERS))
        page.click("#reset")
        twin.layer.reset_parameters()
        twin.follow(page.evaluate(NUMBERS))

        assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
        )
        assert complaints == []


@pytest.mark.slow
@pytest.mark.browser
def test_all_of_it_works_by_keyboard_and_is_announced(chromium):
    twin = Twin()
    focused = "document.activeElement.dataset.index ?? document.activeElement.id"
    with opened(chromium, PLAY) as (page, complaints):
        met = []
        for _ in range(23):
            page.keyboard.press("Tab")
            met.append(page.evaluate(focused))
        assert met == ["home", "lessons", *map(str, range(8)), "size", "gamma", "beta", "eps", "momentum", "step", "ten", "keep", "one", "flat",
                       "shift", "draw", "reset"]  # fmt: skip
        page.evaluate("document.querySelector('[data-index=\"7\"]').focus()")
        before = page.evaluate(NUMBERS)["x"][7]
        press(page, "ArrowLeft", 3)
        press(page, "PageDown", 2)
        numbers = page.evaluate(NUMBERS)
        assert numbers["x"][7] == pytest.approx(before - 2.3)
        assert page.evaluate(focused) == "7"
        assert float(page.evaluate("document.activeElement.getAttribute('aria-valuenow')")) == numbers["x"][7]
        twin.follow(numbers)
        page.wait_for_function(
            "document.getElementById('status').textContent.startsWith('x of example 8 is 6.7000; mean 4.7125, variance')"
        )

        page.evaluate("document.getElementById('size').focus()")
        press(page, "ArrowRight", 2)
        assert len(page.evaluate(NUMBERS)["x"]) == 10
        page.keyboard.press("Home")
        assert page.evaluate(NUMBERS)["refused"].startswith("Refused, as by PyTorch")
        page.keyboard.press("End")
        twin.follow(page.evaluate(NUMBERS))
        page.evaluate("document.getElementById('step').focus()")
        page.keyboard.press("Enter")
        twin.follow(page.evaluate(NUMBERS), passes=1)
        page.evaluate("document.getElementById('keep').focus()")
        page.keyboard.press(" ")
        page.wait_for_function("Number(document.getElementById('steps').dataset.value) >= 3")
        page.keyboard.press(" ")
        kept = page.evaluate(NUMBERS)
        assert float(kept["steps"]) >= 3
        twin.follow(kept, passes=int(kept["steps"]) - 1)

        unlabelled = page.evaluate(
            "[...document.querySelectorAll('input, button, svg, .handle')].filter((e) => !(e.labels?.length || e.textContent.trim()"
            "&& e.tagName === 'BUTTON' || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby'))).map((e) => e.outerHTML)"
        )
        assert unlabelled == []
        assert complaints == []


def test_the_page_is_one_small_file_that_needs_nothing_else():
    text = PLAY.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert re.findall(r'href="([^"]*)"', text) == ["index.html", "lessons/index.html"]  # back to the documentation
    for reference in ("src=", "@import", "url(", "fetch(", "//cdn"):
        assert reference not in text
