"""One drawing: its legend has room, whatever the names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import matplotlib as mpl
import pytest

from peftbench.report.drawing import STYLE, Drawing


def drawn(names: Iterable[str], *, lines: bool) -> Drawing:
    drawing = Drawing("title", [*names])
    for name in names:
        drawing.point(name, 1.0, 0.5, name)
        if lines:
            drawing.line(name, [1.0, 2.0], [0.5, 0.6])
    drawing.finish("identity")
    return drawing


@pytest.mark.parametrize("lines", [False, True], ids=["points", "lines"])
@pytest.mark.parametrize("letters", [4, 11, 16, 20, 24, 30, 40])
def test_a_legend_is_as_wide_as_the_drawing_at_most_and_takes_no_room_from_the_axes(letters: int, lines: bool) -> None:
    with mpl.rc_context(STYLE):
        drawing = drawn([f"{'method_' * 6}"[: letters - 1] + end for end in "abcdef"], lines=lines)
        usual = drawn("abcdef", lines=lines)
        (legend,) = drawing.canvas.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= drawing.canvas.bbox.width
        assert legend.get_texts()[0].get_window_extent().y1 <= drawing.axes.get_tightbbox().y0
        heights = [one.axes.get_window_extent().height for one in (drawing, usual)]
    assert heights[0] == pytest.approx(heights[1], rel=0.05)


def test_letters_that_the_font_has_not_are_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = drawn(["手法🤗", "lora"], lines=False)
    assert [text.get_text() for text in drawing.canvas.legends[0].get_texts()] == ["手法🤗", "lora"]
