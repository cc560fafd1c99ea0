from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import pytest

from sockaccel.bench.codec import decode, encode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    derived: ClassVar[tuple[str, ...]] = ("double",)

    number: int
    pairs: list[tuple[float, int]]

    @property
    def double(self) -> int:
        return 2 * self.number


@dataclass(frozen=True)
class Tree:
    name: str
    colour: Colour
    weight: float
    alive: bool
    leaf: Leaf | None
    leaves: list[Leaf]
    counts: dict[str, int]
    anything: dict[str, Any]


LEAF = {"number": 3, "pairs": [[1.5, 2]], "double": 6}
TREE: dict[str, Any] = {
    "name": "oak",
    "colour": "red",
    "weight": 2.5,
    "alive": True,
    "leaf": None,
    "leaves": [LEAF],
    "counts": {"a": 1},
    "anything": {"x": [1, None, {"y": "z"}]},
}


def test_what_was_encoded_is_decoded() -> None:
    tree = decode(Tree, TREE)
    assert tree.leaves[0] == Leaf(3, [(1.5, 2)])
    assert tree.colour is Colour.RED
    assert json.loads(json.dumps(encode(tree))) == TREE
    assert decode(Tree, encode(tree)) == tree


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name is not a text but 1"),
        ({"colour": "green"}, "colour is not 'red' or 'blue' but 'green'"),
        ({"colour": []}, "colour is not 'red' or 'blue' but []"),
        ({"weight": "heavy"}, "weight is not a number but 'heavy'"),
        ({"weight": True}, "weight is not a number but True"),
        ({"weight": float("nan")}, "weight is not a number but nan"),
        ({"alive": 1}, "alive is not true or false but 1"),
        ({"leaf": 5}, "leaf is not an object but 5"),
        ({"leaves": {}}, "leaves is not a list but {}"),
        ({"leaves": [LEAF, {"pairs": []}]}, "leaves[1].number is missing"),
        ({"leaves": [{**LEAF, "number": True}]}, "leaves[0].number is not an integer but True"),
        ({"leaves": [{**LEAF, "number": 3.0}]}, "leaves[0].number is not an integer but 3.0"),
        ({"leaves": [{**LEAF, "pairs": [[1]]}]}, "leaves[0].pairs[0] is not a list of 2 but [1]"),
        ({"leaves": [{**LEAF, "double": 7}]}, "leaves[0].double is 7, but the rest of it says 6"),
        ({"counts": {"a": None}}, "counts.a is not an integer but None"),
    ],
)
def test_what_is_of_another_kind_is_refused_and_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is missing|says") as caught:
        decode(Tree, TREE | change)
    assert str(caught.value) == said


def test_what_is_no_object_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^it is not an object but 'oak'$"):
        decode(Tree, "oak")


def test_a_whole_number_is_a_number() -> None:
    weight = decode(Tree, TREE | {"weight": 2}).weight
    assert (weight, type(weight)) == (2.0, float)


def test_what_a_later_version_added_is_ignored() -> None:
    assert decode(Tree, TREE | {"height": 3}) == decode(Tree, TREE)


def test_what_can_be_derived_need_not_be_there() -> None:
    assert decode(Leaf, {"number": 3, "pairs": []}).double == 6
