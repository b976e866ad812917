"""``pomona plan``: stages, speed and cost of a model on machines that need not exist."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from pomona.errors import ConfigurationError, ModelError
from pomona.models import ModelFacts, read_facts
from pomona.models.published import published_facts, published_names
from pomona_ops.commands.plan_draft import PlannedDraft, planned_draft, print_guesses
from pomona_ops.commands.plan_group import group_line, plan_group
from pomona_ops.units import in_bytes
from pomona_planner.cluster.from_spec import (
    HypotheticalMachine,
    hypothetical_problem,
    link_by_name,
    parse_cluster,
)
from pomona_planner.cluster.machine_catalog import load_machine_catalog
from pomona_planner.cost_model.memory import stage_bytes
from pomona_planner.cost_model.prediction import nominal_ceiling, predict
from pomona_planner.cost_model.problem import Aim, Demand, Objective, Problem
from pomona_planner.cost_model.running_costs import average_watts, dollars_per_million_tokens
from pomona_planner.solver.infeasible import Infeasible
from pomona_planner.solver.optimizer import OptimizedPlan, choose

if TYPE_CHECKING:
    from rich.console import Console

COMPARED = ("8x:m4-pro-64gb", "4x:m4-pro-64gb", "1x:m3-ultra-512gb", "1x:m4-max-128gb")
DEFAULT_CONTEXT, DEFAULT_PROMPT = 8192, 1024
MAX_WIRED_PERCENT = 92
"""Maximum share of memory for the GPU, percent; the rest is for the system."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Arguments of ``pomona plan``.

    Attributes:
        link: kind of every link of the hypothetical cluster.
        bits: bits per parameter, scales included, of a model known by name; 0 for the
            quantisation that is most common.
        context: tokens of each user whose cache must fit; 0 for DEFAULT_CONTEXT, or the
            model's limit if that is less.
        users: concurrent users.
        prompt: tokens of the prompt whose first token is predicted; 0 for DEFAULT_PROMPT, or
            the context if that is less.
        wired_percent: share of memory that the operator lets the GPU use; 0 for macOS's
            default.
        draft: small model that guesses tokens on the head; ``auto`` for one of the table.
        acceptance: share of right guesses; 0 for the usual one of a draft model.
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
    draft: str = ""
    acceptance: float = 0.0
    compare: bool = False
    as_json: bool = False

    @property
    def wired_share(self) -> float:
        return self.wired_percent / 100


def model_facts(name: str, bits: float) -> ModelFacts:
    """Reads the facts of a model: a known name, a folder, a file or a hub id.

    Raises:
        ConfigurationError: when the model cannot be read, or ``bits`` does not apply to it.
    """
    known = published_facts(name, bits or None)
    if known is not None:
        return known
    if bits:
        raise ConfigurationError(
            f"--bits applies only to models known by name; the files of {name} have fixed bits"
        )
    try:
        return read_facts(name)
    except ModelError as error:
        names = ", ".join(published_names())
        raise ConfigurationError(f"{error}; known by name: {names}") from error


def run_plan(options: PlanOptions) -> int:
    """Prints the plan.

    Returns: exit status: 0 for a plan, 1 when the model does not fit, 2 for wrong arguments.
    """
    try:
        facts = model_facts(options.model, options.bits)
        specs = [options.cluster] if not options.compare else [options.cluster, *COMPARED]
        draft = planned_draft(options.draft, facts)
        plans = [make_plan(facts, spec, options, draft) for spec in dict.fromkeys(specs)]
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


def make_plan(
    facts: ModelFacts, spec: str, options: PlanOptions, draft: PlannedDraft | None = None
) -> dict[str, Any]:
    """Plans a model on a cluster spec. Returns the object that ``--json`` prints.

    Raises:
        ConfigurationError: when the spec, the link, the context or the prompt is not valid.
    """
    cluster = parse_cluster(spec)
    link = link_by_name(options.link)
    context, prompt = _context_and_prompt(facts, options)
    demand = Demand(context, options.users, prompt_tokens=prompt)
    draft = draft or planned_draft(options.draft, facts)
    problem = replace(
        hypothetical_problem(facts, cluster, link, demand, options.wired_share),
        draft=draft.facts,
        acceptance=options.acceptance or None,
    )
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
        "draft_model": "" if draft.facts is None else draft.facts.name,
        "unused_drafts": draft.unused,
        "unsure": sorted({figure for machine in cluster for figure in machine.kind.unsure}),
    }
    choice = choose(problem, Aim(options.objective, stages=options.stages))
    result["notes"] = _port_notes(cluster, options.link)
    result["group"] = plan_group(problem, cluster)
    if isinstance(choice, Infeasible):
        slowest = min(machine.kind.bandwidth for machine in cluster)
        ceiling = nominal_ceiling(facts, (0, facts.layer_count), [slowest])
        raised = _raised_limit(facts, cluster, options, demand)
        return result | {
            "fits": False,
            "ceiling_tokens_per_second": round(ceiling, 2),
            "reason": choice.reason,
            "missing_bytes": choice.missing_bytes,
            "would_fit": [*raised, *choice.remedies],
        }
    notes = [*result["notes"], *choice.prediction.notes]
    return result | _chosen_plan(problem, cluster, choice) | {"notes": notes}


def _port_notes(cluster: list[HypotheticalMachine], link: str) -> list[str]:
    """Names the machines that have no port for the link."""
    if not link.startswith("tb5") or len(cluster) == 1:
        return []
    older = {machine.kind.name: machine.kind.thunderbolt for machine in cluster}
    return [
        f"{name} has Thunderbolt {version}, not 5: plan with --link tb4"
        for name, version in older.items()
        if version < 5
    ]


def _context_and_prompt(facts: ModelFacts, options: PlanOptions) -> tuple[int, int]:
    """Raises ConfigurationError when they exceed the model's limit, or the prompt the context."""
    context = options.context or min(DEFAULT_CONTEXT, facts.context_length)
    if context > facts.context_length:
        raise ConfigurationError(
            f"--context {context}: {facts.name} takes {facts.context_length} tokens at most"
        )
    prompt = options.prompt or min(DEFAULT_PROMPT, context)
    if prompt > context:
        raise ConfigurationError(
            f"--prompt {prompt} is longer than the context of {context} tokens; raise --context"
        )
    return context, prompt


def _raised_limit(
    facts: ModelFacts, cluster: list[HypotheticalMachine], options: PlanOptions, demand: Demand
) -> list[str]:
    """Finds the lowest wired limit of macOS under which the model fits, as a remedy."""
    if options.wired_share:
        return []
    for percent in range(76, MAX_WIRED_PERCENT + 1):
        share = percent / 100
        problem = hypothetical_problem(facts, cluster, link_by_name(options.link), demand, share)
        choice = choose(problem, Aim(options.objective, floor=0, stages=options.stages))
        if isinstance(choice, OptimizedPlan):
            sizes = sorted({machine.memory_gb for machine in cluster})
            limits = ", ".join(f"{int(size * 1024 * share)} on {size} GB" for size in sizes)
            speed = choice.prediction.tokens_per_second
            return [
                f"raise the wired limit to {percent}% of the memory (sudo sysctl "
                f"iogpu.wired_limit_mb={limits}): {speed:.1f} tok/s for one user; "
                f"plan with --wired-percent {percent}"
            ]
    return []


def _chosen_plan(
    problem: Problem, cluster: list[HypotheticalMachine], choice: OptimizedPlan
) -> dict[str, Any]:
    plan, prediction = choice.plan, choice.prediction
    used = [cluster[node] for node in plan.nodes]
    price = sum(machine.price for machine in used)
    ceiling = nominal_ceiling(
        problem.facts, plan.bounds, [machine.kind.bandwidth for machine in used]
    )
    watts = average_watts(prediction)
    return {
        "fits": True,
        "proven_best": choice.proven,
        "gap": min(choice.gap, 1.0),
        "given_for_balance": choice.balance_cost,
        "stages": _stages(problem, choice),
        "tokens_per_second": round(prediction.tokens_per_second, 2),
        "ceiling_tokens_per_second": round(ceiling, 2),
        "users_tokens_per_second": round(prediction.users_tokens_per_second, 2),
        "acceptance": prediction.acceptance,
        "guess_milliseconds": round(prediction.guess_us / 1000, 3),
        "guessed_tokens_per_second": round(prediction.guessed_tokens_per_second, 2),
        "prompt_tokens": prediction.prompt_tokens,
        "first_token_s": round(prediction.first_token_s, 2),
        "cache_tokens": prediction.cache_tokens,
        "watts": round(watts),
        "joules_per_token": round(prediction.joules_per_token, 1),
        "dollars_per_million_tokens": _dollars_per_million(
            price, watts, prediction.users_tokens_per_second
        ),
        "dollars_per_million_tokens_one_user": _dollars_per_million(
            price, _watts_for_one_user(problem, choice), prediction.tokens_per_second
        ),
        "price_of_used_dollars": price,
    }


def _stages(problem: Problem, choice: OptimizedPlan) -> list[dict[str, Any]]:
    positions, memory = problem.positions(), stage_bytes(problem)
    return [
        {
            "machine": choice.machines[node].name,
            "start": start,
            "stop": stop,
            "memory_bytes": int(memory[node, positions.index(start), positions.index(stop)]),
            "usable_bytes": choice.machines[node].memory_bytes,
            "milliseconds_per_token": round(microseconds / 1000, 3),
        }
        for (node, start, stop), microseconds in zip(
            choice.plan.stages(), choice.prediction.stage_us, strict=True
        )
    ]


def _dollars_per_million(price: float, watts: float, tokens_per_second: float) -> float:
    catalog = load_machine_catalog()
    return round(
        dollars_per_million_tokens(
            price, watts, tokens_per_second, catalog.electricity, catalog.life_years
        ),
        2,
    )


def _watts_for_one_user(problem: Problem, choice: OptimizedPlan) -> float:
    """Returns the power of all machines with one user, who keeps one stage busy at a time."""
    one_user = replace(problem, demand=replace(problem.demand, users=1))
    return average_watts(predict(one_user, choice.plan))


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
        _print_group(console, plan)
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
    print_guesses(console, plan)
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
    _print_group(console, plan)
    _print_notes(console, plan)


def _print_group(console: Console, plan: dict[str, Any]) -> None:
    if line := group_line(plan):
        console.print(line, markup=False)


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
