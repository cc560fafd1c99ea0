"""Measure kernels in VMs and write the support matrix; see scripts/vm-matrix."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
DOCUMENT = CHECKOUT / "docs" / "kernels.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
KERNELS = ["6.1", "6.12", "sid"]
PYTHON = ".venv/bin/python"
FACTS = {
    "redirected": "messages are redirected",
    "fionread_redirected": "FIONREAD counts redirected bytes",
    "fionread_tcp": "FIONREAD counts TCP's bytes (with sk_skb)",
    "one_queue": "both kinds of bytes in one queue, in order",
    "copied_seq": "`copied_seq` counts TCP's bytes alone",
    "sock_recv_length": "tp_btf on `sock_recv_length`",
    "tcp_rcv_space_adjust": "tp_btf on `tcp_rcv_space_adjust`",
}


def measure(kernel: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Boot a kernel once and return the JSON objects that its measurements print."""
    policy = ["--policy", options.policy] if options.policy else []
    commands = [
        [PYTHON, "tests/vm/facts.py"],
        [PYTHON, "tests/vm/scenarios.py", "-o", "json", *policy],
    ]
    if options.tests:
        run = [PYTHON, "-m", "pytest", "-q", "-s", "-p", "vm.live", f"--every={options.tests}"]
        commands.append(["env", "PYTHONPATH=tests", *run, "tests/kernel"])
    done = subprocess.run(
        [
            CHECKOUT / "scripts" / "vm",
            f"--timeout={options.timeout}",
            kernel,
            *("sh", "-c", "; ".join(map(shlex.join, commands))),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not all(any(key in item for item in found) for key in ("class", "policy")):
        sys.exit(
            f"Error: cannot measure kernel '{kernel}': no figures (exit status {done.returncode})"
        )
    return found


def cell(value: object) -> str:
    return {True: "yes", False: "**no**"}.get(value, str(value)) if value is not None else "-"


def scenario_cell(item: dict[str, Any]) -> str:
    if item["problem"]:
        return f"**fails**: {item['problem']}"
    share = "redirected" if item["redirected_bytes"] else "on TCP"
    return f"{item['accelerated']:.2f} {item['unit']} (plain {item['plain']:.2f}), {share}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def render(measured: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables as Markdown."""
    facts = {name: next(i for i in items if "class" in i) for name, items in measured.items()}
    runs = {name: next(i for i in items if "policy" in i) for name, items in measured.items()}
    head = ["", *(facts[name]["kernel"] for name in measured)]
    rows = [["class", *(facts[name]["class"] for name in measured)]]
    rows += [
        [title, *(cell(facts[name][key]) for name in measured)] for key, title in FACTS.items()
    ]
    text = table(head, rows)
    by_name = {
        name: {item["name"]: scenario_cell(item) for item in run["scenarios"]}
        for name, run in runs.items()
    }
    titles = next(iter(by_name.values()))
    rows = [[title, *(cells[title] for cells in by_name.values())] for title in titles]
    policy = next(iter(runs.values()))["policy"]
    text += f"\nScenarios, policy {policy}:\n\n" + table(head, rows)
    tests = {name: [item for item in items if "test" in item] for name, items in measured.items()}
    for name, items in tests.items():
        failed = [item for item in items if item["outcome"] == "failed"]
        if items:
            text += f"\ntests/kernel on {facts[name]['kernel']}: {len(items)} run, "
            text += f"{len(failed)} failed\n"
        for item in failed:
            text += f"- `{item['test'].removeprefix('tests/kernel/')}`: {item['cause'][-160:]}\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/vm-matrix", description=__doc__)
    parser.add_argument("--policy", choices=["safe", "all"], help="default: enable's")
    parser.add_argument("--tests", type=int, metavar="N", help="every Nth of tests/kernel too")
    parser.add_argument("--timeout", type=int, default=900, help="seconds per kernel")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/kernels.md")
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    options = parser.parse_args()
    text = render({kernel: measure(kernel, options) for kernel in options.kernels})
    print(text)
    if options.write:
        document = DOCUMENT.read_text()
        before, rest = document.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
