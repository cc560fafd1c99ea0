from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sockaccel.render.json import print_json

if TYPE_CHECKING:
    import pytest


def test_the_schema_comes_first_and_the_fields_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json("sockaccel.x/1", b=1, a=[{"y": None}])
    out = capsys.readouterr().out
    assert list(json.loads(out).items()) == [
        ("schema", "sockaccel.x/1"),
        ("b", 1),
        ("a", [{"y": None}]),
    ]
    assert out.endswith("}\n")


def test_in_a_stream_an_object_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        print_json("sockaccel.x/1", compact=True, number=number, text="a\nb")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]


def test_bytes_of_a_name_that_are_no_text_do_not_stop_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json("sockaccel.x/1", path="/é\udcff")
    assert json.loads(capsys.readouterr().out)["path"] == "/é\udcff"
