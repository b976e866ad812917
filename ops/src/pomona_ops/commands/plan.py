"""``pomona plan``: what would run where, how fast, at what cost; no cluster is needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from pomona.errors import ConfigurationError, ModelError
from pomona.models import ModelFacts, read_facts
from pomona.models.published import published_facts, published_names
from pomona_ops.units import in_bytes
from pomona_planner.cluster.from_spec import (
    HypotheticalMachines,
    ceiling,
    dollars_per_million,
    hypothetical_problem,
    link_named,
    parse_cluster,
)
from pomona_planner.cluster.machine_catalog import machine_kinds
from pomona_planner.cost_model.problem import Aim, Demand, Objective, Problem
from pomona_planner.cost_model.roofline import memory
from pomona_planner.solver.infeasible import Infeasible
from pomona_planner.solver.optimizer import OptimizedPlan, choose

if TYPE_CHECKING:
    from rich.console import Console

COMPARED = ("8x:m4-pro-64gb", "4x:m4-pro-64gb", "1x:m3-ultra-512gb", "1x:m4-max-128gb")
USUAL_CONTEXT, USUAL_PROMPT = 8192, 1024
MOST_WIRED_PERCENT = 92
"""Of memory; the rest is for the system."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What ``pomona plan`` was asked.

    Attributes:
        link: kind of every link of the imagined cluster.
        bits: a parameter of a model that is known by name, scales included; 0 for those of
            the quantisation that most people run.
        context, users: promised; caches for them must fit. A context of 0 is USUAL_CONTEXT, or
            what the model can.
        prompt: tokens whose first token is timed; 0 for USUAL_PROMPT, or the context.
        wired_percent: of memory that MLX may use, as the operator sets it; 0 for macOS's own.
    """

    model: str
    cluster: str
    link: str = "tb5-rdma"
    objective: Objective = "latency"
    users: int = 1
    context: int = 0
    prompt: int = 0
    bits: float = 0.0
    stages: int = 0
    wired_percent: int = 0
    compare: bool = False
    as_json: bool = False

    @property
    def wired_share(self) -> float:
        return self.wired_percent / 100


def model_facts(name: str, bits: float) -> ModelFacts:
    """Facts of a model by a known name, a folder, a file or a hub id."""
    known = published_facts(name, bits or None)
    if known is not None:
        return known
    if bits:
        raise ConfigurationError(
            f"--bits is for models that are known by name; {name} has the bits that it has"
        )
    try:
        return read_facts(name)
    except ModelError as error:
        names = ", ".join(published_names())
        raise ConfigurationError(f"{error}; known by name: {names}") from error


def run_plan(options: PlanOptions) -> int:
    """Print the plan; 0 when there is one, 1 when the model does not fit."""
    try:
        facts = model_facts(options.model, options.bits)
        specs = [options.cluster] if not options.compare else [options.cluster, *COMPARED]
        plans = [planned(facts, spec, options) for spec in dict.fromkeys(specs)]
    except ConfigurationError as error:
        print(f"pomona plan: {error}", file=sys.stderr)
        return 2
    if options.as_json:
        content = plans if options.compare else plans[0]
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif options.compare:
        _print_comparison(facts, plans)
    else:
        _print(facts, plans[0])
    return 0 if plans[0]["fits"] else 1


def planned(facts: ModelFacts, spec: str, options: PlanOptions) -> dict[str, Any]:
    """A plan in the form that ``--json`` prints."""
    cluster = parse_cluster(spec)
    link = link_named(options.link)
    context, prompt = _tokens(facts, options)
    demand = Demand(context, options.users, prompt_tokens=prompt)
    problem = hypothetical_problem(facts, cluster, link, demand, options.wired_share)
    result: dict[str, Any] = {
        "model": facts.name,
        "weights_bytes": facts.stored_bytes,
        "active_bytes_per_token": sum(layer.active_bytes for layer in facts.layers)
        + facts.head.active_bytes,
        "cluster": spec,
        "machines": len(cluster),
        "link": link.kind,
        "users": options.users,
        "context": context,
        "price_dollars": sum(machine.price for machine in cluster),
        "sources": sorted(
            {
                url
                for machine in cluster
                for url in (machine.kind.specs, *machine.kind.sources.values())
            }
            | {facts.source} - {""}
        ),
        "unsure": sorted({figure for machine in cluster for figure in machine.kind.unsure}),
    }
    answer = choose(problem, Aim(options.objective, stages=options.stages))
    result["notes"] = _of_ports(cluster, options.link)
    if isinstance(answer, Infeasible):
        slowest = min(machine.kind.bandwidth for machine in cluster)
        raised = _with_raised_limit(facts, cluster, options, demand)
        return result | {
            "fits": False,
            "ceiling_tokens_per_second": round(ceiling(facts, slowest), 2),
            "reason": answer.reason,
            "missing_bytes": answer.missing_bytes,
            "would_fit": [*raised, *answer.remedies],
        }
    notes = [*result["notes"], *answer.notes]
    return result | _of_choice(problem, cluster, answer) | {"notes": notes}


def _of_ports(cluster: list[HypotheticalMachines], link: str) -> list[str]:
    """Which machines have no port for the link."""
    if not link.startswith("tb5") or len(cluster) == 1:
        return []
    older = {machine.kind.name: machine.kind.thunderbolt for machine in cluster}
    return [
        f"{name} has Thunderbolt {version}, not 5: plan with --link tb4"
        for name, version in older.items()
        if version < 5
    ]


def _tokens(facts: ModelFacts, options: PlanOptions) -> tuple[int, int]:
    """(context, prompt). Raises ConfigurationError when the model has no room for them."""
    context = options.context or min(USUAL_CONTEXT, facts.context_length)
    if context > facts.context_length:
        raise ConfigurationError(
            f"--context {context}: {facts.name} takes {facts.context_length} tokens at most"
        )
    prompt = options.prompt or min(USUAL_PROMPT, context)
    if prompt > context:
        raise ConfigurationError(
            f"--prompt {prompt} is longer than the {context} tokens that are promised; "
            "raise --context"
        )
    return context, prompt


def _with_raised_limit(
    facts: ModelFacts, cluster: list[HypotheticalMachines], options: PlanOptions, demand: Demand
) -> list[str]:
    """How far the memory that macOS lets the GPU wire must be raised, if that is enough."""
    if options.wired_share:
        return []
    for percent in range(76, MOST_WIRED_PERCENT + 1):
        share = percent / 100
        problem = hypothetical_problem(facts, cluster, link_named(options.link), demand, share)
        answer = choose(problem, Aim(options.objective, floor=0, stages=options.stages))
        if isinstance(answer, OptimizedPlan):
            sizes = sorted({machine.memory_gb for machine in cluster})
            limits = ", ".join(f"{int(size * 1024 * share)} on {size} GB" for size in sizes)
            speed = answer.prediction.tokens_per_second
            return [
                f"raise the wired limit to {percent}% of the memory (sudo sysctl "
                f"iogpu.wired_limit_mb={limits}): {speed:.1f} tok/s for one user; "
                f"plan with --wired-percent {percent}"
            ]
    return []


def _of_choice(
    problem: Problem, cluster: list[HypotheticalMachines], choice: OptimizedPlan
) -> dict[str, Any]:
    plan, said = choice.plan, choice.prediction
    catalogue = machine_kinds()
    positions = problem.positions()
    needed = memory(problem)
    used = [cluster[node] for node in plan.nodes]
    price = sum(machine.price for machine in used)
    slowest = min(machine.kind.bandwidth for machine in used)
    fastest = max(machine.kind.bandwidth for machine in used)
    nominal = (
        _ceiling(problem, cluster, choice)
        if slowest != fastest
        else ceiling(problem.facts, slowest)
    )
    alone = predicted_watts(problem, choice)
    return {
        "fits": True,
        "proven_best": choice.proven,
        "gap": min(choice.gap, 1.0),
        "given_for_balance": choice.given,
        "stages": [
            {
                "machine": choice.machines[node].name,
                "start": plan.bounds[i],
                "stop": plan.bounds[i + 1],
                "memory_bytes": int(
                    needed[
                        node, positions.index(plan.bounds[i]), positions.index(plan.bounds[i + 1])
                    ]
                ),
                "usable_bytes": choice.machines[node].memory_bytes,
                "milliseconds_per_token": round(said.stage_s[i] * 1000, 3),
            }
            for i, node in enumerate(plan.nodes)
        ],
        "tokens_per_second": round(said.tokens_per_second, 2),
        "ceiling_tokens_per_second": round(nominal, 2),
        "users_tokens_per_second": round(said.users_tokens_per_second, 2),
        "prompt_tokens": said.prompt_tokens,
        "first_token_s": round(said.first_token_s, 2),
        "cache_tokens": said.cache_tokens,
        "watts": round(said.watts),
        "joules_per_token": round(said.joules_per_token, 1),
        "dollars_per_million_tokens": round(
            dollars_per_million(catalogue, price, said.watts, said.users_tokens_per_second), 2
        ),
        "dollars_per_million_tokens_one_user": round(
            dollars_per_million(catalogue, price, alone, said.tokens_per_second), 2
        ),
        "price_of_used_dollars": price,
    }


def predicted_watts(problem: Problem, choice: OptimizedPlan) -> float:
    """Of all machines of the plan with one user: one stage is busy at a time."""
    from pomona_planner.cost_model.prediction import predict

    alone = replace(problem, demand=replace(problem.demand, users=1))
    return predict(alone, choice.plan).watts


def _ceiling(problem: Problem, cluster: list[HypotheticalMachines], choice: OptimizedPlan) -> float:
    """Each stage's active weights at the nominal bandwidth of its machine."""
    facts, plan, seconds = problem.facts, choice.plan, 0.0
    for i, node in enumerate(plan.nodes):
        parts = list(facts.layers[plan.bounds[i] : plan.bounds[i + 1]])
        parts += [facts.head] if plan.bounds[i + 1] == facts.layer_count else []
        seconds += sum(part.active_bytes for part in parts) / cluster[node].kind.bandwidth
    return 1 / seconds


def _print(facts: ModelFacts, plan: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    active = in_bytes(plan["active_bytes_per_token"])
    console.print(
        f"[bold]{plan['model']}[/bold] on {plan['cluster']} over {plan['link']}: "
        f"{in_bytes(plan['weights_bytes'])} of weights, {active} read for each token"
    )
    if not plan["fits"]:
        console.print(f"[red]no plan[/red]: {plan['reason']}", soft_wrap=True)
        for remedy in plan["would_fit"]:
            console.print(f"  would fit: {remedy}", soft_wrap=True)
        console.print(f"ceiling {plan['ceiling_tokens_per_second']:.1f} tok/s for one user")
        _print_notes(console, plan)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("machine", "layers", "memory", "of", "ms a token"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    for stage in plan["stages"]:
        table.add_row(
            stage["machine"],
            f"{stage['start']}..{stage['stop']}",
            in_bytes(stage["memory_bytes"]),
            in_bytes(stage["usable_bytes"]),
            f"{stage['milliseconds_per_token']:.1f}",
        )
    console.print(table)
    console.print(
        f"one user      {plan['tokens_per_second']:.1f} tok/s "
        f"(ceiling {plan['ceiling_tokens_per_second']:.1f}: weights read at full bandwidth)"
    )
    if plan["users"] > 1:
        console.print(f"{plan['users']:>2} users      {plan['users_tokens_per_second']:.1f} tok/s")
    console.print(
        f"first token   {plan['first_token_s']:.1f} s after a prompt of "
        f"{plan['prompt_tokens']} tokens"
    )
    console.print(f"caches        {plan['cache_tokens']:,} tokens in all")
    console.print(
        f"power         {plan['watts']} W, {plan['joules_per_token']:.0f} J a token; "
        f"{plan['price_of_used_dollars']:,.0f} dollars of machines; "
        f"{plan['dollars_per_million_tokens']:.2f} dollars a million tokens"
    )
    _print_notes(console, plan)


def _print_notes(console: Console, plan: dict[str, Any]) -> None:
    for note in plan["notes"]:
        console.print(f"[dim]{note}[/dim]")


def _print_comparison(facts: ModelFacts, plans: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)
    console.print(f"[bold]{facts.name}[/bold], {in_bytes(facts.stored_bytes)} of weights")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("cluster", "used", "tok/s", "ceiling", "all users", "first", "W", "$", "$/M")
    for column in columns:
        table.add_column(column, justify="left" if column == "cluster" else "right", no_wrap=True)
    for plan in plans:
        if not plan["fits"]:
            table.add_row(plan["cluster"], "no", "", f"{plan['ceiling_tokens_per_second']:.1f}")
            continue
        table.add_row(
            plan["cluster"],
            str(len(plan["stages"])),
            f"{plan['tokens_per_second']:.1f}",
            f"{plan['ceiling_tokens_per_second']:.1f}",
            f"{plan['users_tokens_per_second']:.1f}",
            f"{plan['first_token_s']:.1f} s",
            str(plan["watts"]),
            f"{plan['price_of_used_dollars']:,.0f}",
            f"{plan['dollars_per_million_tokens']:.2f}",
        )
    console.print(table)
    for plan in plans:
        for note in plan["notes"]:
            console.print(f"[dim]{plan['cluster']}: {note}[/dim]")
        if not plan["fits"]:
            console.print(f"{plan['cluster']}: {plan['reason']}", soft_wrap=True)
            for remedy in plan["would_fit"]:
                console.print(f"  would fit: {remedy}", soft_wrap=True)
