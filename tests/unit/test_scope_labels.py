from __future__ import annotations

import pytest

from sockaccel.errors import InputError
from sockaccel.scope import labels
from sockaccel.scope.docker import Container


def container(label: str, value: str | None) -> Container:
    return Container("f" * 64, "web", 7, "bridge", {} if value is None else {label: value})


@pytest.mark.parametrize(
    ("value", "answer"),
    [(None, None), ("true", True), ("false", False), (" False\n", False), ("TRUE", True)],
)
def test_a_container_says_yes_or_no_or_nothing(value: str | None, answer: bool | None) -> None:
    assert labels.wanted(container(labels.ENABLE, value)) is answer


@pytest.mark.parametrize("value", ["", "yes", "0", "no"])
def test_what_is_neither_true_nor_false_names_container_and_label(value: str) -> None:
    with pytest.raises(InputError) as caught:
        labels.wanted(container(labels.ENABLE, value))
    assert str(caught.value) == (
        f"cannot use label sockaccel.enable of container 'web': '{value}' is neither true nor false"
    )


@pytest.mark.parametrize(
    ("value", "answer"), [(None, False), ("safe", False), (" ALL\n", True), ("all", True)]
)
def test_the_policy_is_safe_unless_it_says_all(value: str | None, answer: bool) -> None:
    assert labels.policy_all(container(labels.POLICY, value)) is answer


@pytest.mark.parametrize("value", ["", "fast", "true", "all,safe"])
def test_a_policy_that_is_none_names_container_and_label(value: str) -> None:
    with pytest.raises(InputError) as caught:
        labels.policy_all(container(labels.POLICY, value))
    assert str(caught.value) == (
        f"cannot use label sockaccel.policy of container 'web': '{value}' is neither safe nor all"
    )


def test_ports_are_a_list_or_no_limit() -> None:
    assert labels.ports(container(labels.PORTS, None)) is None
    assert str(labels.ports(container(labels.PORTS, "8000-8999, 80"))) == "80,8000-8999"


@pytest.mark.parametrize("value", ["", "http", "0", "80-"])
def test_ports_that_are_none_name_container_and_label(value: str) -> None:
    with pytest.raises(InputError) as caught:
        labels.ports(container(labels.PORTS, value))
    start = f"cannot use label sockaccel.ports of container 'web': '{value}': "
    assert str(caught.value).startswith(start)


def test_the_project_is_that_of_compose() -> None:
    assert labels.project(container("com.docker.compose.project", "shop")) == "shop"
    assert labels.project(container("project", "shop")) is None


def test_ports_that_take_the_room_of_other_containers_are_refused() -> None:
    odd = ",".join(map(str, range(1, 2049, 2)))
    limit = labels.ports(container(labels.PORTS, odd))
    assert limit
    assert len(limit) == 1024
    with pytest.raises(InputError, match="it takes 1025 entries") as caught:
        labels.ports(container(labels.PORTS, f"{odd},2049"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (labels.ENABLE, "no\n12:00 all is well\x1b[2J\ud800"),
        (labels.POLICY, "x" * 100_000),
        (labels.PORTS, "\n"),
        (labels.PORTS, "80,\x1b[2J" + "9" * 100_000),
    ],
)
def test_a_label_cannot_write_more_than_a_part_of_a_line(label: str, value: str) -> None:
    read = {
        labels.ENABLE: labels.wanted,
        labels.POLICY: labels.policy_all,
        labels.PORTS: labels.ports,
    }[label]
    with pytest.raises(InputError) as caught:
        read(container(label, value))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
