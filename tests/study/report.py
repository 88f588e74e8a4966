"""The study told: tables for the terminal and for `docs/policy-study.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.console import Console
from rich.table import Table

from tests.study.scenarios import (
    BLIND,
    FRESH,
    OURS,
    RANDOM,
    STALE,
    TURN_S,
    Figures,
    Results,
    Scale,
    Scenario,
    Spread,
    scenarios,
    spreads,
)
from tests.study.workload import HOUR, LOAD, WARM_UP

WAITS = {
    "mean": "mean wait",
    "median": "median",
    "p95": "95th percentile",
    "worst": "worst",
    "makespan": "makespan",
    "idle": "idle per task",
}
DEATHS = {
    "stranded": "stranded in a dead queue",
    "unfinished": "never finished",
    "again": "run again",
    "mean": "mean wait, h",
    "p95": "95th percentile, h",
}
FLOOD = {
    "mean": "small tenant's mean wait",
    "p95": "95th percentile",
    "worst": "worst",
    "others": "the others' mean wait",
    "makespan": "makespan",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As it stands in a document."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows))

    def show(self, console: Console) -> None:
        """As it is seen on a terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        table.add_column(self.head[0])
        for name in self.head[1:]:
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row, style="bold" if row[0] == OURS else None)
        console.print(table)


def sheet(scenario: Scenario, results: Results) -> Sheet:
    """Every policy's figures in one kind of world."""
    columns = DEATHS if "dying" in scenario.key else FLOOD if scenario.key == "flooded" else WAITS
    rows = []
    for policy, runs in results[scenario.key].items():
        spread = spreads(runs)
        name = f"**{policy}**" if policy == OURS else policy
        rows.append([name, *(_cell(spread[key]) for key in columns)])
    return Sheet(scenario.title, ["policy", *columns.values()], rows)


def show(scale: Scale, results: Results, console: Console) -> None:
    """All tables, on the terminal."""
    for scenario in scenarios(scale):
        made = sheet(scenario, results)
        rows = [[cell.strip("*") for cell in row] for row in made.rows]
        Sheet(made.title, made.head, rows).show(console)


def document(scale: Scale, results: Results, seeds: Sequence[int]) -> str:
    """`docs/policy-study.md`."""
    told = {scenario.key: scenario for scenario in scenarios(scale)}

    def tables(*keys: str) -> str:
        return "\n\n".join(f"### {told[key].title}\n\n{sheet(told[key], results).markdown()}" for key in keys)

    return f"""# Policy study: which task goes where, and when

*Written by `make study`, figures and sentences alike; do not edit it by hand.*

![Waits, tasks left behind, a flood and a pile, by policy](policy-study.svg)

## What it shows

{_findings(scale, results)}

## Waits

Hours; mean ± standard deviation over {len(seeds)} seeds. *Makespan* is the time from the first arrival until the last
task is finished; except for the pile it is mostly the time over which tasks arrive, plus the chance of a giant among
the last. *Idle per task* is the time for which slots were free while tasks waited somewhere, divided by the number of
tasks.

{tables("few-smooth", "few-bursts", "many-smooth", "many-bursts", "many-large-bursts", "pile")}

## Nodes that die

Bursts, in the middle of which one node of ten is gone for good, with all that it runs: of {scale.few} nodes with
bursts of 20, of {scale.many:,} with bursts of {2 * scale.many:,}. *Stranded* tasks were waiting in the queue of a node
that died, and nobody moves them; *never finished* are these and the ones that it was running. ScaleODM runs the latter
again on other nodes, once the leases that `router/lifecycle.py` grants are over. Waits are of the tasks that began at
all.

{tables("few-dying", "many-dying")}

## A tenant that floods

One tenant asks for an eighth of the slots, steadily; after six hours another one submits {scale.flood} tasks. Hours;
waits of the small tenant are of its tasks from then on.

{tables("flooded")}

## How it was done

A simulation driven by events, the same worlds for every policy. {scale.few} nodes with {scale.jobs:,} tasks, and
{scale.many:,} nodes with {scale.calm_jobs:,} (smooth, bursts of 20) or {scale.many_jobs:,}. Nodes have 1, 2, 4 or 8
slots and speeds from 0.6 to 1.5. Images of a task are log-normal with a median of 300, at most 12,000; its run time at
speed 1 is 36 minutes × (images / 300)^1.15 × log-normal chance (σ 0.45), which is 87 minutes on average and more than
13 hours for one task of a hundred. The load is {LOAD:g} of what the nodes can do. The first {WARM_UP:.0%} of the tasks
fill the empty nodes and are not counted. No task is too large for a node.

- **random** and **round robin** choose as often as a node has slots; if they did not, small nodes would never catch up.
- **ClusterODM's rule**: most free slots, else the shortest queue whatever the node's size, else in turn. It asks every
  node before each placement and counts what it has just handed out, as ClusterODM does since August 2025.
- **least loaded** takes the fewest tasks per slot, of equal ones any: as polled every 60 s, or fresh at each placement.
- **ScaleODM** runs the very functions of `router/placement.py`, `router/fairness.py`, `router/estimates.py` and
  `router/lifecycle.py`. It begins without any estimate and learns as tasks finish. *No estimates*: it never learns, so
  its queue is one of arrival.

All but ScaleODM choose when a task is submitted, and the task then waits in its node's own queue. They are treated
kindly: a dead node is never chosen again from the moment of its death. ScaleODM is not told; it offers tasks to the
dead until their heartbeats are late, is refused, and tries elsewhere. With {scale.many:,} nodes the simulated router
decides only every {TURN_S:.0f} s, to keep the study short, so that its waits there hold about {TURN_S / 2:.0f} s
({TURN_S / 7200:.3f} h) that the real one does not have.

What it leaves out: transfers, memory, sizes that do not fit, preemption, estimates that are wrong in other ways than by
chance. The shapes of image counts and run times are assumed, not measured.

## Again

`make study`, or `python -m tests.study --seeds {len(seeds)} --out docs`. Seeds are {seeds[0]} to {seeds[-1]}; the same
seeds give the same figures.
"""


def _findings(scale: Scale, results: Results) -> str:
    """Sentences made from the figures, whatever they turn out to be."""
    means = {
        key: {policy: {name: each.mean for name, each in spreads(runs).items()} for policy, runs in policies.items()}
        for key, policies in results.items()
    }

    def told(key: str, policy: str, figure: str = "mean") -> str:
        return f"{hours(means[key][policy][figure])} h"

    few, many = f"{scale.few} nodes", f"{scale.many:,} nodes"
    large = "many-large-bursts"
    waits = {
        "few-smooth": f"{few}, smooth arrivals",
        "few-bursts": f"{few}, bursts of 20",
        large: f"{many}, bursts of {2 * scale.many:,}",
    }
    lines = []
    for key, where in waits.items():
        rival = best_other(results, key)
        ratio = means[key][OURS]["mean"] / means[key][rival]["mean"]
        lines.append(
            f"**{where}**: the mean wait is {told(key, OURS)} with ScaleODM and {told(key, rival)} with the best other "
            f"policy ({rival}), a ratio of {ratio:.2f}. ScaleODM's is the lowest with {_wins(results[key])} of "
            f"{len(results[key][OURS])} seeds. At worst a task waits {told(key, OURS, 'worst')}, and "
            f"{told(key, rival, 'worst')} with the other."
        )
    at_once = [policy for policy, each in means["many-bursts"].items() if each["mean"] * HOUR < TURN_S]
    lines.append(
        f"**{many}, smooth arrivals or bursts of 20**: there is nearly always room. The mean wait in bursts is under "
        f"half a minute with {', '.join(at_once) or 'no policy'}."
    )
    lines.append(
        f"**Without estimates** the same queue makes tasks wait {told('few-bursts', BLIND)} in bursts on {few}, "
        f"at worst {told('few-bursts', BLIND, 'worst')}: late binding alone is worth that much."
    )
    lines.append(
        f"**A minute of staleness** sends a whole burst to the node that was idle: {told('few-bursts', STALE)} instead "
        f"of {told('few-bursts', FRESH)} on {few}, {told(large, STALE)} instead of {told(large, FRESH)} on {many}, "
        f"where random choice takes {told(large, RANDOM)}."
    )
    left = [each["unfinished"] for policy, each in means["many-dying"].items() if policy != OURS]
    lines.append(
        f"**Dead nodes**: when {scale.many // 10} of {many} die, {means['many-dying'][OURS]['unfinished']:.0f} tasks "
        f"are left behind with ScaleODM, between {min(left):.0f} and {max(left):.0f} with the others."
    )
    lines.append(
        f"**A flood** makes the small tenant wait {told('flooded', OURS)} with ScaleODM, {told('flooded', FRESH)} "
        f"with {FRESH}."
    )
    quickest = min(means["pile"], key=lambda policy: means["pile"][policy]["makespan"])
    lines.append(
        f"**A pile** of {scale.pile} tasks is done after {told('pile', OURS, 'makespan')} with ScaleODM; the quickest "
        f"is {quickest} with {told('pile', quickest, 'makespan')}. Short tasks first is good for waits, "
        "not for the last task."
    )
    return "\n".join(fill(line, 118, initial_indent="- ", subsequent_indent="  ") for line in lines)


def _wins(policies: Mapping[str, Sequence[Figures]]) -> int:
    """With how many seeds ours has the lowest mean wait."""
    others = [runs for policy, runs in policies.items() if policy not in (OURS, BLIND)]
    return sum(ours.mean <= min(runs[place].mean for runs in others) for place, ours in enumerate(policies[OURS]))


def best_other(results: Results, key: str) -> str:
    """The policy of somebody else with the lowest mean wait."""
    others = {policy: spreads(runs)["mean"].mean for policy, runs in results[key].items()}
    return min((policy for policy in others if policy not in (OURS, BLIND)), key=lambda policy: others[policy])


def hours(value: float) -> str:
    """With as many digits as tell something."""
    if value < 0.0005:
        return "0"
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cell(spread: Spread) -> str:
    if not spread.high:
        return "0"
    return f"{hours(spread.mean)} ± {hours(spread.deviation)}"
