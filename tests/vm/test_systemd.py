"""The systemd unit in a VM whose process 1 is systemd; the steps are in service.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import service

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[2]
KERNEL = "6.12"
LIMIT_S = 600  # the machine is emulated, and its host may be busy

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


@pytest.fixture(scope="module")
def steps(require: Callable[[str, list[str]], None]) -> dict[str, Any]:
    """Return what each step came to, by its name."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    if not shutil.which("qemu-system-x86_64"):
        lacking.append("qemu-system-x86_64 (scripts/setup --vm)")
    if not Path("/lib/systemd/systemd").exists():
        lacking.append("systemd (scripts/setup --vm)")
    require("vm", lacking)
    vm = [CHECKOUT / "scripts" / "vm", "--systemd", f"--timeout={LIMIT_S}", KERNEL]
    argv = [*vm, ".venv/bin/python", "tests/vm/service.py"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {told["step"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("step", [step.__name__ for step in service.STEPS])
def test_the_unit_under_systemd(steps: dict[str, Any], step: str) -> None:
    assert steps[step]["problem"] is None
