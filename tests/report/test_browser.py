"""The page in a real browser: sorting, filtering, hovering, keys, width, dark mode, and a silent console."""

from __future__ import annotations

import itertools

import pytest

from peftbench.report import write

from .browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
ROWS = "[...document.querySelectorAll('#s0 table.sortable tbody tr')]"
VISIBLE = f"{ROWS}.filter((row) => row.offsetParent !== null)"


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from .conftest import Folder

    folder = Folder(tmp_path_factory.mktemp("outputs"))
    history = [{"step": step, "validation/accuracy": 0.5 + step / 100} for step in (10, 20, 30)]
    evil = "<img src=x onerror=console.error(1)>"
    for seed, rank in itertools.product(range(3), (4, 8, 16)):
        sizes = {"size/adapter_bytes": 1000 * rank, "memory/train_peak_bytes": 10**9 + 10**7 * rank}
        for name, (method, accuracy) in enumerate((("lora", 0.80), ("hira", 0.90), (evil, 0.85))):
            about = {"history": history, "metrics": sizes, "run_id": f"run{name}-{rank}-{seed}"}
            folder.classified(method, seed, rank=rank, accuracy=accuracy, **about)
    folder.run("qlora", status="skipped", reason=evil, run_id="run3")
    return write(folder.path)


@pytest.fixture
def page(browser, path):
    browser.complaints.clear()
    browser.open(path)
    yield browser
    assert browser.complaints == []


def column(browser, title):
    heads = browser.run("[...document.querySelectorAll('#s0 table.sortable th')].map((head) => head.textContent)")
    return next(index for index, text in enumerate(heads) if text.startswith(title)) + 1


def cells(browser, number):
    return browser.run(f"{VISIBLE}.map((row) => row.cells[{number - 1}].textContent)")


def test_nothing_from_a_record_is_markup(page):
    assert page.run("document.querySelectorAll('img').length") == 0
    assert "<img src=x onerror=console.error(1)>" in page.run("document.getElementById('failures').textContent")


def test_a_click_sorts_by_number_and_another_one_turns_it_round(page):
    rank = column(page, "rank")
    button = f"#s0 table.sortable th:nth-child({rank}) button"
    page.click(button)
    assert cells(page, rank) == ["4"] * 3 + ["8"] * 3 + ["16"] * 3
    assert page.run("document.querySelectorAll('#s0 [aria-sort]').length") == 1
    page.click(button)
    assert cells(page, rank) == ["16"] * 3 + ["8"] * 3 + ["4"] * 3


def test_all_of_a_heading_is_there_to_click_on(page):
    rank = f"#s0 table.sortable th:nth-child({column(page, 'rank')})"
    high = page.run(f"document.querySelector('{rank}').getBoundingClientRect().height")
    assert high > page.run(f"document.querySelector('{rank} button').getBoundingClientRect().height") + 4, "it is lower"
    page.click(rank, above=high / 2 - 3)
    assert cells(page, column(page, "rank"))[0] == "4"


def test_nothing_is_cut_on_paper(page):
    page.paper(720)
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    wide = "Math.max(...[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right))"
    assert page.run(wide) <= 720
    page.click("#all")
    assert page.run(wide) <= 720


def test_the_table_begins_in_the_order_it_says(page):
    quality = column(page, "accuracy")
    assert page.run(f"document.querySelector('#s0 th:nth-child({quality})').ariaSort") == "descending"
    shown = [float(text.split(" ")[0]) for text in cells(page, quality)]
    assert shown == sorted(shown, reverse=True)


def test_sorting_by_keyboard(page):
    rank = column(page, "rank")
    page.run(f"document.querySelector('#s0 table.sortable th:nth-child({rank}) button').focus()")
    page.key("Enter")
    assert cells(page, rank)[0] == "4"


def test_a_filter_leaves_the_rows_with_all_its_words(page):
    page.click("#filter")
    page.write("hira ±")
    assert set(cells(page, column(page, "method"))) == {"hira"}
    assert page.run("document.getElementById('matches').textContent").startswith("3 of ")
    page.write(" nothing")
    assert page.run(f"{VISIBLE}.length") == 0


def test_details_are_columns_on_demand(page):
    hidden = "getComputedStyle(document.querySelector('#s0 td.more')).display"
    assert page.run(hidden) == "none"
    page.click("#all")
    assert page.run(hidden) == "table-cell"


def test_resting_on_a_point_names_the_setting(page):
    page.hover("#s0 figure:nth-of-type(1) .mark use")
    assert page.run("document.getElementById('tip').hidden") is False
    hint = page.run("document.getElementById('tip').textContent")
    assert "r=" in hint
    assert "accuracy" in hint
    page.hover("h1")
    assert page.run("document.getElementById('tip').hidden") is True


def test_arrow_keys_walk_through_the_points(page):
    page.run("document.querySelector('#s0 figure svg').focus()")
    seen = []
    for _ in range(3):
        page.key("ArrowRight")
        seen.append(page.run("document.getElementById('tip').textContent"))
    assert len(set(seen)) == 3
    page.key("Escape")
    assert page.run("document.getElementById('tip').hidden") is True


def test_a_row_leads_to_its_command(page):
    page.click("#s0 table.sortable tbody td a")
    assert page.run("document.querySelector('tr:target').offsetParent !== null") is True


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_tables_and_not_the_page(browser, path, dark, tmp_path):
    browser.complaints.clear()
    browser.open(path, 390, 844, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    ink, paper = browser.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert (lightness(paper) < lightness(ink)) is dark
    assert abs(lightness(paper) - lightness(ink)) > 150
    browser.picture(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 10_000
    assert browser.complaints == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_long_name_leaves_a_phone_room_for_figures(browser, tmp_path, width):
    from .conftest import Folder

    folder = Folder(tmp_path)
    for name in ("lora", "lora_rank_stabilised_init_pissa_all_linear", "a name of several words that goes on"):
        for seed in range(2):
            folder.classified(name, seed)
    browser.open(write(folder.path), width, 844)
    first, box = browser.run(
        "['#s0 table.sortable td', '#s0 .box'].map((one) => document.querySelector(one).getBoundingClientRect().width)"
    )
    assert first <= 0.45 * width + 1
    assert box - first > 0.4 * width
    inside = f"{ROWS}.map((row) => row.cells[0].scrollWidth - row.cells[0].clientWidth)"
    assert max(browser.run(inside)) <= 1, "nothing of the name runs into the next column"
    assert browser.run("document.documentElement.scrollWidth") <= width


def lightness(colour):
    values = [float(value) for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(values) / 3
