from __future__ import annotations

import pytest

from sockaccel.render.table import render_table


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() -> None:
    assert render_table(["ID", "STATE"], [["1", "redirect"], ["22222", "tcp"]]) == (
        "ID     STATE\n1      redirect\n22222  tcp"
    )


def test_right_aligned_columns_align_their_header_too() -> None:
    assert render_table(["NAME", "BYTES"], [["a", "7"], ["b", "1234567"]], align_right={1}) == (
        "NAME    BYTES\na           7\nb     1234567"
    )


def test_without_rows_the_headers_remain() -> None:
    assert render_table(["A", "B"], []) == "A  B"


def test_rows_may_be_a_generator() -> None:
    assert render_table(["A"], ([str(n)] for n in range(2))) == "A\n0\n1"


def test_a_blank_cell_keeps_its_column() -> None:
    assert render_table(["A", "B", "C"], [["1", "", "3"]]) == "A  B  C\n1     3"


@pytest.mark.parametrize("cell", ["a\nb", "a\x1bb", "a\tb", "a\x9bb"])
def test_what_a_terminal_would_act_on_is_not_written(cell: str) -> None:
    assert render_table(["A"], [[cell]]) == "A\na?b"


@pytest.mark.parametrize("row", [["1"], ["1", "2", "3"], []])
def test_a_row_of_another_length_is_refused(row: list[str]) -> None:
    with pytest.raises(ValueError, match="2 columns"):
        render_table(["A", "B"], [row])
