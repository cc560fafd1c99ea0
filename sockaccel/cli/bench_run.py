"""`sockaccel bench run` and `sockaccel bench list`."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from sockaccel.bench import dockerd, gate
from sockaccel.bench.arms import Arm
from sockaccel.bench.command import BLIND, say
from sockaccel.bench.passage import closed_directory
from sockaccel.bench.result import LeftOut
from sockaccel.bench.runner import Plan, arms_of, metrics_of, run_plan
from sockaccel.bench.scenario import TOPOLOGIES, load_all, nearest, overruled
from sockaccel.bench.stage import Setting, check_setting, default_policy
from sockaccel.bench.stats import MIN_PAIRS
from sockaccel.cli.bench_output import exit_code, result_options, show_result
from sockaccel.cli.bench_progress import ProgressLine
from sockaccel.cli.main import Settings, a_number, output_option
from sockaccel.errors import HostError, InputError, SockaccelError, reason
from sockaccel.render.errors import show
from sockaccel.render.json import print_json
from sockaccel.render.table import render_table
from sockaccel.render.units import duration_text
from sockaccel.scope.cgroup import check_cgroup
from sockaccel.signals import Interrupted, raising

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sockaccel.bench.scenario import Scenario
    from sockaccel.cli.bench_output import Outputs

PAIRS = 10
QUICK_SECONDS = 0.5
LIST_SCHEMA = "sockaccel.bench-list/1"
_K0 = (
    "Note: this kernel does not count redirected bytes in FIONREAD, which nginx asks for, so that "
    "--policy safe leaves it on TCP; measured with --policy all. Linux 6.12.75, 6.18.14, 6.19 or "
    "later lifts this."
)


def _parameter(text: str) -> tuple[str, Any]:
    """Return name and value of a setting; what is no value of TOML is a text."""
    name, equals, value = text.partition("=")
    if not (name and equals and value) or "\n" in text:
        raise InputError(f"cannot set '{text}': it is not NAME=VALUE", "--set sendfile=true")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    # ValueError: no TOML, or an integer of more digits than Python reads.
    except (ValueError, RecursionError):
        return name, value


@click.command("run", short_help="Measure before and after.")
@click.argument("scenario", nargs=-1, metavar="[SCENARIO[/CASE]]...")
@click.option(
    "--quick",
    is_flag=True,
    help="Five common cases, one that gets slower; TCP and sockaccel alone; within 2 minutes.",
)
@click.option(
    "--pairs",
    metavar="N",
    type=click.IntRange(min=MIN_PAIRS),
    help=f"Rounds of one run per arm. [default: {PAIRS}; with --quick: {MIN_PAIRS}]",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    callback=a_number,
    help="Length of a run. Default: the scenario's own.",
)
@click.option(
    "--arm",
    type=click.Choice([str(arm) for arm in Arm if arm is not Arm.BASELINE]),
    multiple=True,
    help="Compare this with the baseline; may be given again. Default: all that a scenario has.",
)
@click.option(
    "--topology",
    type=click.Choice(TOPOLOGIES),
    default=TOPOLOGIES[0],
    show_default=True,
    help="Network namespaces, or containers of a Docker daemon that is started for it.",
)
@click.option(
    "--policy",
    type=click.Choice(["safe", "all"]),
    help="As of `enable`. Default: safe, unless it leaves nginx on TCP on this kernel.",
)
@click.option(
    "--cgroup",
    metavar="PATH",
    help="As of `enable`; what is measured runs below it. Default: the root of cgroup v2.",
)
@click.option(
    "--set",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _, __, texts: dict(map(_parameter, texts)),
    help="Another value for a parameter of the scenarios, as 'sendfile=true'. Repeatable.",
)
@result_options
@output_option
@click.pass_obj
def run(
    settings: Settings,
    scenario: tuple[str, ...],
    parameters: dict[str, Any],
    quick: bool,
    pairs: int | None,
    seconds: float | None,
    arm: tuple[str, ...],
    topology: str,
    policy: str | None,
    cgroup: str | None,
    outputs: Outputs,
) -> int:
    """Measure scenarios, by default all that this machine can run.

    Builds a lab for each, runs its load with each arm in random balanced order, proves by
    counters that every run was what it claims to be, and removes everything. `bench list` shows
    what there is. Exit 1: a run failed, did not prove its arm, or a gate does not hold.

    \b
    Examples:
      sockaccel bench run --quick
      sockaccel bench run nginx-lb redis --save result.json --html report.html
      sockaccel bench run echo/64 --pairs 20 --gate 'echo/64.req_s.low>=1.4'
    """  # noqa: D301 - \b is click's
    scenarios = choose(load_all(), scenario, parameters)
    if quick:
        scenarios = only_quick(scenarios, named=bool(scenario))
    arms = [Arm.BASELINE, *map(Arm, arm)] if arm else list(Arm)
    if quick and not arm:
        arms = [Arm.BASELINE, Arm.ACCELERATED]
    possible, left_out = _split(scenarios, topology, arms, named=bool(scenario))
    _check_gates(outputs, scenarios, topology)
    setting = Setting(
        topology, policy or "safe", check_cgroup(cgroup) if cgroup is not None else None
    )
    check_setting(setting, possible)
    try:
        with raising():
            if policy is None and default_policy() == "all":
                say(_K0)
                setting = replace(setting, policy="all")
            plan = Plan(
                scenarios=possible,
                rounds=pairs or (MIN_PAIRS if quick else PAIRS),
                seconds=seconds or (QUICK_SECONDS if quick else None),
                arms=arms,
                quick=quick,
                setting=setting,
            )
            return _measure(settings, plan, left_out, outputs)
    except Interrupted as signal:
        return _interrupted(signal)


def _interrupted(signal: Interrupted) -> int:
    """Say what a signal has ended, and return the exit code."""
    left = signal.__cause__
    if isinstance(left, OSError):
        left = SockaccelError(f"cannot remove what was built: {reason(left)}")
    if isinstance(left, SockaccelError):
        show(left)
        say(f"Interrupted by {signal}; not everything may have been removed.")
    else:
        say(f"Interrupted by {signal}; everything was removed.")
    return signal.exit_code


def _measure(settings: Settings, plan: Plan, left_out: Sequence[LeftOut], outputs: Outputs) -> int:
    for each in left_out:
        say(f"Left out: {each.scenario}: {each.reason}; {each.hint}")
    say(BLIND)
    if plan.setting.topology == "docker":
        say("Starting a Docker daemon for this alone, with images of this machine's own programs.")
    about = duration_text(plan.estimated_s())
    say(f"{plan.runs()} runs, about {about}; Ctrl-C ends it and shows what there is until then.")
    progress = ProgressLine(plan.runs())
    result, ending = run_plan(plan, left_out, report=progress, store=outputs.keep)
    progress.clear()
    # First: a file that cannot be written must not lose it.
    show_result("json" if settings.json else "table", result)
    outputs.write(result)
    if isinstance(ending, Interrupted):
        return _interrupted(ending)
    if ending is not None:
        raise ending
    return exit_code(result, outputs.gates)


@click.command("list", short_help="Show the scenarios.")
@click.argument("scenario", nargs=-1, metavar="[SCENARIO[/CASE]]...")
@output_option
@click.pass_obj
def list_(settings: Settings, scenario: tuple[str, ...]) -> None:
    """Show the scenarios, and what this machine lacks for them; of named ones, the cases."""
    scenarios = choose(load_all(), scenario, verb="list")
    if settings.json:
        print_json(LIST_SCHEMA, scenarios=[_as_json(each) for each in scenarios])
    else:
        click.echo(_cases(scenarios) if scenario else _overview(scenarios))


def _overview(scenarios: Sequence[Scenario]) -> str:
    rows = [
        [
            each.name,
            str(len(each.cases)),
            " ".join(each.topologies),
            " ".join(each.arms),
            each.title,
            _lacks(each)[1] or "",
        ]
        for each in scenarios
    ]
    headers = ["SCENARIO", "CASES", "TOPOLOGIES", "ARMS", "WHAT", "MISSING"]
    return render_table(headers, rows, align_right=[1])


def _cases(scenarios: Sequence[Scenario]) -> str:
    rows = [
        [
            f"{scenario.name}/{case.name}",
            "yes" if case.quick else "",
            " ".join(f"{name}={value}" for name, value in case.parameters.items()),
            " ".join(metric.name for metric in scenario.metrics(case)[:1]),
        ]
        for scenario in scenarios
        for case in scenario.cases
    ]
    return render_table(["CASE", "QUICK", "PARAMETERS", "ABOUT"], rows)


def choose(
    scenarios: Mapping[str, Scenario],
    names: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    verb: str = "run",
) -> list[Scenario]:
    """Return the named scenarios, with the named cases alone where one is named; or all.

    parameters: what is to be other than the scenarios have it; verb: the command that asks.

    Raises:
        InputError: there is no such scenario, case or parameter.

    """
    if not names:
        return [overruled(each, parameters or {}) for each in scenarios.values()]
    cases: dict[str, list[str]] = {}
    for name in names:
        scenario, _, case = name.partition("/")
        known = [each.name for each in scenarios[scenario].cases] if scenario in scenarios else []
        if scenario not in scenarios or (case and case not in known):
            near = nearest(case, known) if known else nearest(scenario, scenarios)
            best = f"{scenario}/{near}" if known else near
            raise InputError(
                f"cannot {verb} scenario '{name}': there is none of that name",
                f"sockaccel bench {verb} {best}" if near else "sockaccel bench list",
            )
        cases.setdefault(scenario, []).extend([case] if case else known)
    return [
        replace(each, cases=tuple(case for case in each.cases if case.name in cases[each.name]))
        for each in (overruled(scenarios[name], parameters or {}) for name in cases)
    ]


def only_quick(scenarios: Sequence[Scenario], *, named: bool) -> list[Scenario]:
    """Return the scenarios that have quick cases, with those alone.

    Raises:
        InputError: a named one has none.

    """
    short = [
        replace(scenario, cases=tuple(case for case in scenario.cases if case.quick))
        for scenario in scenarios
    ]
    for scenario in short:
        if named and not scenario.cases:
            raise InputError(
                f"cannot run scenario '{scenario.name}' with --quick: none of its cases is quick",
                f"sockaccel bench run {scenario.name}",
            )
    return [scenario for scenario in short if scenario.cases]


def _split(
    scenarios: Sequence[Scenario], topology: str, arms: Sequence[Arm], *, named: bool
) -> tuple[list[Scenario], list[LeftOut]]:
    """Return what can be run, and what cannot and why; a named one that cannot is an error."""
    possible: list[Scenario] = []
    left_out: list[LeftOut] = []
    if topology == "docker" and (missing := dockerd.missing()):
        raise HostError(
            f"cannot run scenarios in containers: '{missing[0]}' is not installed",
            "scripts/setup --docker",
        )
    for scenario in scenarios:
        reason, hint = _obstacle(scenario, topology, arms)
        if not reason:
            possible.append(scenario)
        elif named:
            raise HostError(f"cannot run scenario '{scenario.name}': {reason}", hint)
        else:
            left_out.append(LeftOut(scenario.name, reason, hint))
    if not possible:
        raise HostError(f"cannot run any scenario: {left_out[0].reason}", left_out[0].hint)
    return possible, left_out


def _obstacle(scenario: Scenario, topology: str, arms: Sequence[Arm]) -> tuple[str, str]:
    if topology not in scenario.topologies:
        return f"it has no form for topology {topology}", f"--topology {scenario.topologies[0]}"
    if len(arms_of(scenario, arms, topology)) < 2:
        missing = next(arm for arm in arms if arm is not Arm.BASELINE)
        return f"it has no arm {missing} in topology {topology}", "--arm accelerated"
    reason, _, hint = _lacks(scenario)
    # A container has a way of its own to what it shares with this host.
    reaches = topology == "docker" or not scenario.drops_root
    if not reason and not reaches and (closed := closed_directory()):
        return (
            f"its servers are not root, and '{closed}' keeps them from temporary files",
            f"TMPDIR=/tmp sockaccel bench run {scenario.name}",
        )
    return reason, hint


def _lacks(scenario: Scenario) -> tuple[str, str, str]:
    """Return why a scenario cannot be run, the program that is missing, and what installs it."""
    for tool in scenario.tools:
        try:
            tool.find()
        except HostError as error:
            return f"'{tool.name}' is not installed", tool.name, error.hint or ""
    return "", "", ""


def _check_gates(outputs: Outputs, scenarios: Sequence[Scenario], topology: str) -> None:
    cases = [(scenario, case) for scenario in scenarios for case in scenario.cases]
    metrics = {
        f"{scenario.name}/{case.name}": [metric.name for metric in scenario.metrics(case)]
        for scenario, case in cases
    }
    gate.check_names(outputs.gates, metrics)
    measured = {metric.name for each in cases for metric in metrics_of(*each, topology)}
    for each in outputs.gates:
        if each.metric not in measured:
            raise InputError(
                f"cannot use gate '{each}': '{each.metric}' is not measured in topology {topology}",
                "--topology netns",
            )


def _as_json(scenario: Scenario) -> dict[str, object]:
    missing, package = _lacks(scenario)[1:]
    return {
        "name": scenario.name,
        "title": scenario.title,
        "topologies": list(scenario.topologies),
        "arms": [str(arm) for arm in scenario.arms],
        "seconds": scenario.seconds,
        "cases": [
            {
                "name": case.name,
                "quick": case.quick,
                "parameters": case.parameters,
                "metrics": [metric.name for metric in scenario.metrics(case)],
            }
            for case in scenario.cases
        ],
        "missing": missing or None,
        "hint": package or None,
    }
