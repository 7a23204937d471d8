"""The page: whole in itself, true to the figures, and looked at in a real browser."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.browsers import chromium
from tests.support.insight_data import (
    KITTEN,
    attention_data,
    gate_data,
    influence_data,
    site_data,
    softmaxed,
)

from seqlens.api.insight.heatmap import render_page
from seqlens.api.insight.plain_data import InsightData

HOSTILE = [
    "</script><b id=made>",
    "<img src=x onerror=made()>",
    "&lt;",
    "\u202egnorw",
    "\u2028",
    "",
]
DATA = '<script type="application/json" id="data">'

Shown = Callable[[InsightData], AbstractContextManager[Any]]


def embedded(page: str) -> Any:
    """What the browser will read, by the rule that the first end tag ends a script."""
    return json.loads(page.partition(DATA)[2].partition("</script")[0])


@given(tokens=st.lists(st.text(max_size=8), min_size=1, max_size=4), model=st.text(max_size=30))
def test_no_text_ends_the_script_that_it_is_in(tokens: list[str], model: str) -> None:
    data = attention_data(tokens, heads=1, layers=1)
    data["model"] = model
    page = render_page(data)
    told = embedded(page)
    assert told["sequences"] == data["sequences"]
    assert told["model"] == model
    assert page.count("</script>") == 2
    title = page.partition("<title>")[2].partition("</title>")[0]
    assert "<" not in title


def test_weights_arrive_as_exact_as_a_page_can_show() -> None:
    weights = softmaxed(2, 3, 3)
    weights[1, 1, 1] = np.nan
    packed = embedded(render_page(attention_data(["a", "b", "c"], weights=weights)))
    one = packed["attention"]["layers"][0]["maps"][0]["weights"]
    levels = np.frombuffer(b64decode(one["uint16"]), "<u2").reshape(one["shape"])
    known = np.isfinite(weights)
    assert (levels[~known] == 65_535).all()
    read = levels[known] / 65_534 * one["largest"]
    np.testing.assert_allclose(read, weights[known], atol=0.6 / 65_534)


def test_a_page_has_no_more_than_it_shows() -> None:
    gates = embedded(render_page(gate_data()))["gates"]["layers"][0]["gates"]
    assert all("mean" in gate and "values" not in gate for gate in gates)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Shown:
    """Open a page from a file, and see that it asks for nothing else and meets no error."""

    @contextmanager
    def shown(data: InsightData, **options: Any) -> Iterator[Any]:
        file = tmp_path / "page.html"
        file.write_text(render_page(data), "utf-8")
        page, asked, wrong = browser.new_page(**options), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text))
        page.goto(file.as_uri())
        yield page
        assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}
        assert wrong == []
        page.close()

    return shown


def picture(page: Any) -> str:
    drawn: str = page.locator(".matrix canvas").first.evaluate("canvas => canvas.toDataURL()")
    return drawn


def readout(page: Any) -> str:
    text: str = page.locator(".readout").first.inner_text()
    return text


def test_choosing_a_head_or_a_layer_changes_the_picture(show: Shown) -> None:
    with show(attention_data()) as page:
        assert page.locator(".tile").count() == 9, "eight heads and their mean"
        seen = [picture(page)]
        for head in ("Head 0", "Head 5"):
            page.get_by_role("radio", name=head).check()
            seen.append(picture(page))
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("radio", name="Head 6").is_checked()
        seen.append(picture(page))
        page.get_by_role("combobox", name="Layer").select_option(index=1)
        seen.append(picture(page))
        assert len(set(seen)) == len(seen)


def test_the_weight_of_a_cell_is_told_with_both_tokens(show: Shown) -> None:
    weights = softmaxed(8, 20, 20, 0)
    with show(attention_data()) as page:
        page.get_by_role("radio", name="Head 3").check()
        canvas = page.locator(".matrix canvas").first
        canvas.focus()
        for key in ["Home", *["ArrowRight"] * 4, *["ArrowUp"] * 19, *["ArrowDown"] * 2]:
            page.keyboard.press(key)
        assert "“chased” (2) looks at “ball” (4)" in readout(page)
        told = float(readout(page).partition(" with ")[2].rstrip("."))
        assert told == pytest.approx(weights[3, 2, 4], abs=1.5e-5)
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 250, box["y"] + 250)
        assert "“chased” (2)" not in readout(page), "the pointer shows another cell"
        page.mouse.move(0, 0)
        assert "“chased” (2) looks at “ball” (4)" in readout(page)


def test_a_token_colours_those_that_it_looks_at(show: Shown) -> None:
    row = softmaxed(8, 20, 20, 0)[1, 13]
    with show(attention_data()) as page:
        page.get_by_role("radio", name="Head 1").check()
        words = page.locator(".word")
        words.nth(13).click()
        assert words.nth(13).get_attribute("aria-pressed") == "true"
        titles = [words.nth(place).get_attribute("title") for place in range(20)]
        assert [float(title.split()[-1]) for title in titles] == pytest.approx(row, abs=2e-5)
        shades = words.evaluate_all("all => all.map(one => one.style.background)")
        assert shades[int(row.argmax())] != shades[int(row.argmin())]
        page.get_by_role("radio", name="what looks at it").check()
        assert words.evaluate_all("all => all.map(one => one.style.background)") != shades


def test_texts_are_shown_and_never_become_markup(show: Shown) -> None:
    data = attention_data(HOSTILE, heads=1, layers=1)
    data["sequences"].append({"length": 0, "tokens": [], "error": {"code": HOSTILE[0],
                              "message": HOSTILE[1]}})  # fmt: skip
    data["model"] = HOSTILE[0]
    with show(data) as page:
        shown = page.locator(".word").all_inner_texts()
        assert shown == [*HOSTILE[:3], "⟨U+202E⟩gnorw", "␣", "∅"]
        page.get_by_role("combobox", name="Sequence").select_option(index=1)
        assert HOSTILE[1] in page.locator("#part").inner_text()
        assert page.locator("#made, main img").count() == 0


def test_right_to_left_texts_run_from_right_to_left(show: Shown) -> None:
    with show(attention_data(["הילד", "אכל", "תפוח"], heads=1, layers=1)) as page:
        first, second = (page.locator(".word").nth(place).bounding_box() for place in (0, 1))
        assert first["x"] > second["x"]


def test_how_a_site_is_known_stands_beside_its_maps(show: Shown) -> None:
    data = attention_data(layers=1)
    data["precision"] = "int8"
    with show(data) as page:
        text = page.locator("main").inner_text()
        assert "measured" in text
        assert "proved, errors up to 2.4e-7" in text
        assert "of the quantised model (int8)" in text
    data["attention"]["layers"][0]["site"] = site_data(proved=False, measured=False)
    with show(data) as page:
        text = page.locator("main").inner_text()
        assert "recomputed" in text
        assert "unproved" in text
        assert "rows do not sum to 1" in text


def test_weights_that_were_not_asked_for_are_empty(show: Shown) -> None:
    positions = np.broadcast_to(np.int32([3, 5]), (2, 6, 2))
    data = attention_data(list("abcdef"), 2, 1, weights=np.float32(np.full((2, 6, 2), 0.25)),
                          key_positions=positions, keys=2)  # fmt: skip
    with show(data) as page:
        words = page.locator(".word")
        shades = words.evaluate_all("all => all.map(one => one.style.background)")
        assert [place for place, shade in enumerate(shades) if shade] == [3, 5]
        assert words.nth(0).get_attribute("title") == "0: no weight"


@pytest.mark.parametrize("rows", [0, 6])
def test_below_the_floor_is_hatched_and_has_no_colour(show: Shown, rows: int) -> None:
    data = influence_data(rows=rows)
    known = data["influence"]["maps"][1]["shares"][-1] > 0
    with show(data) as page:
        words = page.locator("section").nth(1).locator(".word")
        hatched = words.evaluate_all("all => all.map(one => one.classList.contains('hatched'))")
        assert hatched == list(~known)
        shades = words.evaluate_all("all => all.map(one => one.style.background !== '')")
        assert shades == list(known)
        words.nth(0).click()
        assert "below the floor" in page.locator(".readout").nth(1).inner_text()
        text = page.locator("main").inner_text()
        assert "does not prove that the answer ignores the token" in text
        assert "rounding alone gives" in text


def test_both_measures_share_one_scale_and_one_place(show: Shown) -> None:
    with show(influence_data(rows=6)) as page:
        tops = page.locator(".legend span:last-child").all_inner_texts()
        assert tops[-1] == tops[-2]
        page.locator("section").nth(0).locator(".word").nth(16).click()
        for place in (0, 1):
            assert "“because” (16)" in page.locator(".readout").nth(place).inner_text()


def test_gates_are_read_out_at_the_same_step(show: Shown) -> None:
    data = gate_data()
    with show(data) as page:
        assert page.locator("svg.chart").count() == 5
        page.locator(".word").nth(3).click()
        texts = page.locator(".readout").all_inner_texts()
        for text, gate in zip(texts, data["gates"]["layers"][0]["gates"], strict=True):
            assert text.startswith(f"Step 3 “{KITTEN[3]}”: mean ")
            told = float(text.partition("mean ")[2].partition(";")[0])
            assert told == pytest.approx(gate["mean"][3], rel=5e-3)
        before = page.locator("svg.chart").last.inner_html()
        page.get_by_role("radio", name="logarithmic").check()
        assert page.locator("svg.chart").last.inner_html() != before


def test_all_parts_are_tabs_of_one_page(show: Shown) -> None:
    data = attention_data()
    data["influence"], data["gates"] = influence_data()["influence"], gate_data()["gates"]
    with show(data) as page:
        page.get_by_role("tab", name="Attention").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("tab", name="Influence").get_attribute("aria-selected") == "true"
        assert "Occlusion" in page.locator("main").inner_text()
        page.get_by_role("tab", name="Gates").click()
        assert "Forget gate" in page.locator("main").inner_text()


def test_a_dark_page_follows_the_machine_while_it_is_open(show: Shown) -> None:
    with show(attention_data(), color_scheme="light") as page:
        light = picture(page)
        page.get_by_role("radio", name="Head 2").check()
        page.emulate_media(color_scheme="dark")
        page.get_by_role("radio", name="Mean").check()
        assert picture(page) != light
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 23)"


def test_hundreds_of_tokens_are_drawn_quickly(show: Shown) -> None:
    data = attention_data([f"t{place}" for place in range(400)], heads=4, layers=1)
    with show(data) as page:
        took = page.evaluate(
            """() => { const start = performance.now();
               document.querySelectorAll('.tile input')[2].click();
               return performance.now() - start; }"""
        )
        assert took < 5_000
        assert page.locator(".word").nth(399).is_visible()
