"""Dataclasses to JSON and back, checked against their annotations. Pure.

A class may name properties in ``derived``: they are written for readers of the JSON,
and what is read must agree with them.
"""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")
_NAMES = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}


def encode(value: Any) -> Any:
    """Return a dataclass, and whatever it holds, as values of JSON."""
    if is_dataclass(value):
        names = [*(each.name for each in fields(value)), *getattr(value, "derived", ())]
        return {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    if isinstance(value, dict):
        return {name: encode(each) for name, each in value.items()}
    return value


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Return a value of JSON as an instance of a dataclass.

    Understands str, int, float, bool, None, Any, StrEnum, list, tuple, dict with str
    keys, unions of them, and dataclasses of them. Keys that a dataclass does not have
    are ignored: a later version may have added them.

    Raises:
        ValueError: the value is not of that kind; says where, and what is there instead.

    """
    return cast("T", _decode(kind, value, where))


def _decode(kind: Any, value: object, where: str) -> object:
    read = _READERS.get(get_origin(kind))
    if read:
        return read(get_args(kind), value, where)
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    return value if kind is Any else _scalar(kind, value, where)


def _union(kinds: tuple[Any, ...], value: object, where: str) -> object:
    """Return the value as the one kind that it may be besides None."""
    if value is None and type(None) in kinds:
        return None
    (kind,) = (each for each in kinds if each is not type(None))
    return _decode(kind, value, where)


def _list(kinds: tuple[Any, ...], value: object, where: str) -> object:
    (kind,) = kinds
    return [
        _decode(kind, each, f"{where}[{index}]")
        for index, each in enumerate(_expect(list, value, where))
    ]


def _dict(kinds: tuple[Any, ...], value: object, where: str) -> object:
    _, kind = kinds
    pairs = _expect(dict, value, where).items()
    return {name: _decode(kind, each, _join(where, name)) for name, each in pairs}


def _tuple(kinds: tuple[Any, ...], value: object, where: str) -> object:
    items = _expect(list, value, where)
    if len(items) != len(kinds):
        raise _wrong(where, f"a list of {len(kinds)}", value)
    return tuple(
        _decode(kind, each, f"{where}[{index}]")
        for index, (kind, each) in enumerate(zip(kinds, items, strict=True))
    )


def _dataclass(kind: Any, value: object, where: str) -> object:
    given = _expect(dict, value, where)
    hints = _hints(kind)
    found = {}
    for field in fields(kind):
        if field.name not in given:
            raise ValueError(f"{_join(where, field.name)} is missing")
        found[field.name] = _decode(hints[field.name], given[field.name], _join(where, field.name))
    built = kind(**found)
    for name in getattr(kind, "derived", ()):
        if name in given and given[name] != getattr(built, name):
            raise ValueError(
                f"{_join(where, name)} is {given[name]!r:.60}, but the rest of it says"
                f" {getattr(built, name)!r}"
            )
    return built


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)


_READERS: dict[Any, Callable[[tuple[Any, ...], object, str], object]] = {
    Union: _union,
    types.UnionType: _union,
    list: _list,
    tuple: _tuple,
    dict: _dict,
}


def _scalar(kind: Any, value: object, where: str) -> object:
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise _wrong(where, " or ".join(f"'{each}'" for each in kind), value)
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    # By type(), for True is an int to isinstance().
    if type(value) is not kind or (type(value) is float and not math.isfinite(value)):
        raise _wrong(where, _NAMES[kind], value)
    return value


def _expect(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, kind):
        raise _wrong(where, "a list" if kind is list else "an object", value)
    return value


def _wrong(where: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{where or 'it'} is not {expected} but {value!r:.60}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
