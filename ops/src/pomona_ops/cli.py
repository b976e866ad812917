"""The arguments of the `pomona` command. The other modules do the work.

Exit codes: 0 done, 1 failed or degraded, 2 wrong usage or no cluster, 78 a setting is invalid or
a port is taken.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pomona.settings import DEFAULT_PORT
from pomona_ops.commands.models.command import app as models_app
from pomona_ops.options import Command, JsonOption, KeyOption, LogLevel, PortOption, command_group
from pomona_ops.service.command import app as service_app

if TYPE_CHECKING:
    from pomona.auth.api_keys import KeyStore

# Each command imports its modules itself, so that --help is fast.

app = command_group(help="Pomona: one inference server from several Macs.", add_completion=True)
command = partial(app.command, cls=Command)
keys_app = command_group(help="API keys of a gateway, and keys of nodes.")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
alerts_app = command_group(help="What the health watcher tells.")
app.add_typer(alerts_app, name="alerts")
app.add_typer(service_app, name="service")
cluster_app = command_group(help="The cluster's own key.")
app.add_typer(cluster_app, name="cluster")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from pomona import __version__

        print(f"pomona {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Pomona: one inference server from several Macs."""


def _complete_topics(incomplete: str) -> list[str]:
    from pomona_ops.commands.topics import TOPICS

    return [name for name in TOPICS if name.startswith(incomplete)]


def _complete_logs(incomplete: str) -> list[str]:
    from pomona_ops.cluster.started import find_target

    folder = find_target(None).state_dir / "logs"
    return sorted(x.stem for x in folder.glob(f"{incomplete}*.log"))


def _complete_clients(incomplete: str) -> list[str]:
    from pomona_ops.commands.launch.clients import CLIENTS

    return [name for name in CLIENTS if name.startswith(incomplete)]


@command()
def up(
    model: Annotated[
        str, typer.Argument(help="Name, folder of safetensors or GGUF file.")
    ] = "SmolLM2-135M-Instruct",
    stages: Annotated[
        int | None,
        typer.Option(
            help="Stage workers, each with one stage; default: 2, and 1 in a cluster of several "
            "machines."
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port", envvar="POMONA_PORT", show_envvar=True, help="First port of the cluster."
        ),
    ] = DEFAULT_PORT,
    pin: Annotated[bool, typer.Option("--pin", help="Give each worker its own cores.")] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Same reply whatever runs beside it; slower with several users.",
        ),
    ] = False,
    group: Annotated[
        int | None,
        typer.Option(
            min=1, max=8, help="Processes of this machine that split each stage; for tests."
        ),
    ] = None,
) -> None:
    """Run a whole cluster on this machine until Ctrl-C, or this machine's part of the one that it
    has joined."""
    from pomona_ops.cluster.processes import cluster_options
    from pomona_ops.up.command import run_up

    raise typer.Exit(
        run_up(lambda: cluster_options(model, stages, port, pin, deterministic, group))
    )


@command()
def status(
    port: PortOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show nodes, stages, memory, users and alerts. Exits 0 serving, 1 degraded, 2 no cluster.

    With --watch, exits 0 after Ctrl-C, and 2 when standard output is not a terminal and the
    cluster is gone.
    """
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.status import show_status, watch_status

    target = find_target(port)
    if watch and as_json:
        raise typer.BadParameter(
            "--watch cannot be combined with --json; run `pomona status --json` repeatedly"
        )
    if watch:
        raise typer.Exit(watch_status(target.endpoint, target.cluster, target.node))
    raise typer.Exit(show_status(target.endpoint, target.cluster, as_json, target.node))


@command()
def invite(
    port: PortOption = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Take back every invitation that is not used yet.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a line that lets one other machine join this cluster, within ten minutes.

    The line is all of standard output; standard error says what to do with it. Exits 78 on a
    machine that is not the head.
    """
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.invite import cancel_invitations, invite

    target = find_target(port)
    raise typer.Exit(cancel_invitations(target, as_json) if cancel else invite(target, as_json))


@command()
def join(
    where: Annotated[
        str,
        typer.Argument(
            help="An invitation, or a head nearby by name or host:port; default: what was begun, "
            "else the only head nearby."
        ),
    ] = "",
    name: Annotated[str, typer.Option(help="Name of this machine; default: its own.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether digits agree.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for an approval.")] = 600.0,
    leave: Annotated[
        bool, typer.Option("--leave", help="Leave the cluster of this machine, if it has others.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Withdraw a join that is not finished.")
    ] = False,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make this machine a member of a cluster. Exits 0 joined, 1 refused, 2 no head answers.

    Without an invitation, six digits are compared with those of `pomona approve` on the head.
    """
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.join import JoinOptions, cancel_join, join

    target = find_target(port)
    if cancel:
        raise typer.Exit(cancel_join(target, as_json))
    raise typer.Exit(join(target, JoinOptions(where, name, yes, wait, leave, as_json)))


@command()
def nodes(port: PortOption = None, as_json: JsonOption = False) -> None:
    """List the members of the cluster, machines that ask to join, and clusters nearby."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.nodes import show_nodes

    raise typer.Exit(show_nodes(find_target(port), as_json))


@command()
def approve(
    name: Annotated[str, typer.Argument(help="Name of the machine that asks to join.")],
    digits: Annotated[
        str, typer.Option(help="The digits that its screen shows; default: ask.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Approve without comparing.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Retire the key that has the name now.")
    ] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Refuse the machine.")] = False,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a machine in that runs `pomona join`. Exits 0, 1 when the digits differ."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.approve import ApproveOptions, approve

    options = ApproveOptions(name, digits, yes, replace, deny, as_json)
    raise typer.Exit(approve(find_target(port), options))


@command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the member.")],
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the membership of a machine, within a second."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.revoke import revoke

    raise typer.Exit(revoke(find_target(port), name, as_json))


@command()
def drain(
    node: Annotated[str, typer.Argument(help="Name of the node, or of one of its stage workers.")],
    until_back: Annotated[
        bool, typer.Option("--until-back", help="Take it back when it has been started again.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask when the others cannot hold the model.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until it holds no layers.")
    ] = 600.0,
    port: PortOption = None,
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Plan without a node, so that it can be stopped. Running answers go on elsewhere.

    Exits 0 drained, 1 not drained, 78 without a gateway. It stays drained until `pomona undrain`,
    also when it or the planner is started again.
    """
    from pomona_ops.cluster.started import find_port
    from pomona_ops.commands.drain import DrainClient, DrainOptions, drain

    options = DrainOptions(node, until_back, yes, wait, as_json)
    raise typer.Exit(drain(DrainClient(find_port(port), key), options))


@command()
def undrain(
    node: Annotated[str, typer.Argument(help="Name that was drained.")],
    port: PortOption = None,
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Plan with a drained node again."""
    from pomona_ops.cluster.started import find_port
    from pomona_ops.commands.drain import DrainClient, undrain

    raise typer.Exit(undrain(DrainClient(find_port(port), key), node, as_json))


@command()
def plan(
    model: Annotated[
        str | None, typer.Argument(help="Known name, folder, file or hub id.", show_default=False)
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Machines, such as 8x:m4-pro-64gb or m3-ultra-512gb,m4-max-128gb.")
    ] = "8x:m4-pro-64gb",
    link: Annotated[
        str, typer.Option(help="tb5-rdma, tb5, tb4, 10gbe, 1gbe or wifi.")
    ] = "tb5-rdma",
    objective: Annotated[str, typer.Option(help="latency (one user) or throughput.")] = "latency",
    users: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 1,
    context: Annotated[
        int, typer.Option(min=0, help="Tokens of context per user; 0: 8192, or the model's limit.")
    ] = 0,
    prompt: Annotated[
        int,
        typer.Option(
            min=0, help="Prompt tokens for the time to first token; 0: 1024, or the context."
        ),
    ] = 0,
    bits: Annotated[
        float,
        typer.Option(min=0, max=32, help="Bits per parameter, for known names; 0: the usual."),
    ] = 0.0,
    stages: Annotated[int, typer.Option(min=0, help="Number of stages; 0: the best.")] = 0,
    wired_percent: Annotated[
        int,
        typer.Option(min=0, max=95, help="Share of memory that MLX may use; 0: macOS's default."),
    ] = 0,
    draft: Annotated[
        str,
        typer.Option(
            help="Small model that guesses tokens: a known name, folder, file, hub id or auto."
        ),
    ] = "",
    acceptance: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of right guesses, as pomona status shows it; 0: 0.6 for a draft model.",
        ),
    ] = 0.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with other clusters.")
    ] = False,
    as_json: JsonOption = False,
    list_names: Annotated[
        bool, typer.Option("--list", help="List the known machines, links and models.")
    ] = False,
) -> None:
    """Predict what would run where and how fast, on any machines."""
    from pomona_ops.commands.plan import PlanOptions, run_plan
    from pomona_ops.commands.plan_catalog import print_catalog

    if list_names:
        print_catalog(as_json)
        return
    if model is None:
        raise typer.BadParameter("name a model; --list shows the known ones", param_hint="MODEL")
    if objective not in ("latency", "throughput"):
        raise typer.BadParameter("choose latency or throughput", param_hint="--objective")
    options = PlanOptions(
        model=model,
        cluster=cluster,
        link=link,
        objective=objective,
        users=users,
        context=context,
        prompt=prompt,
        bits=bits,
        stages=stages,
        wired_percent=wired_percent,
        draft=draft,
        acceptance=acceptance,
        compare=compare,
        as_json=as_json,
    )
    raise typer.Exit(run_plan(options))


@command()
def doctor(
    topic: Annotated[
        str | None,
        typer.Argument(help="rdma: what the Macs lack for a tensor group; default: all else."),
    ] = None,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, or a running cluster. Exits 0 well, 1 warnings, 2 critical."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.doctor.command import run_doctor

    if topic not in (None, "rdma"):
        raise typer.BadParameter(f"{topic!r} is not a topic: choose rdma, or give none")
    target = find_target(port)
    raise typer.Exit(run_doctor(target, as_json, rdma=topic == "rdma"))


@command()
def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="One question; without it, chat until Ctrl-D.")
    ] = None,
    port: PortOption = None,
    model: Annotated[str | None, typer.Option(help="Default: the gateway's first.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
) -> None:
    """Chat with the model, or ask one question."""
    from pomona_ops.cluster.started import find_port
    from pomona_ops.commands.chat import ChatOptions, run_chat

    raise typer.Exit(run_chat(ChatOptions(find_port(port), model, system, temperature), prompt))


@command()
def logs(
    service: Annotated[
        str,
        typer.Argument(
            help="gateway, planner, discovery, health_watcher, stage_worker or stage_worker.N; "
            "default: all.",
            autocompletion=_complete_logs,
        ),
    ] = "",
    port: PortOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="An age (10m, 2h), a time (14:05) or a date and time.")
    ] = None,
    level: Annotated[LogLevel, typer.Option(help="Print these and worse ones.")] = "debug",
) -> None:
    """Print the logs of the services of a cluster on this machine.

    Without --since, prints the last 200 lines. The files keep one JSON object a line.
    """
    import time

    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.logs import LogOptions, parse_since, show_logs

    folder = find_target(port).state_dir / "logs"
    begin = None if since is None else parse_since(since, time.time())
    raise typer.Exit(show_logs(LogOptions(folder, service, follow, begin, level)))


@command("help")
def help_topic(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="A topic or a command.", autocompletion=_complete_topics)
    ] = "",
) -> None:
    """Explain a word, like stage, epoch, lane or beacon; or show a command's help."""
    from pomona_ops.commands.topics import TOPICS, explain, topic_list

    if not topic:
        print(f"pomona help TOPIC explains a word:\n\n{topic_list()}")
        print("\npomona help COMMAND is the same as pomona COMMAND --help.")
        return
    name = topic.lower().rstrip("s") if topic.lower() not in TOPICS else topic.lower()
    if name in TOPICS:
        print(explain(name))
        return
    parent: Any = context.parent
    command = parent.command.get_command(parent, topic)
    if command is None:
        raise typer.BadParameter(
            f"{topic!r} is neither a topic nor a command; topics: {', '.join(TOPICS)}",
            param_hint="TOPIC",
        )
    # Printing the help ends the command; `bench` has no option of its own for it.
    with command.make_context(topic, ["--help"], parent=parent) as child:
        command.invoke(child)


@command()
def launch(
    client: Annotated[
        str,
        typer.Argument(
            help="claude, codex, opencode, qwen, aider or open-webui.",
            autocompletion=_complete_clients,
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments of the client, after --.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first that is ready.")] = None,
    port: PortOption = None,
    url: Annotated[str | None, typer.Option(help="Gateway on another machine.")] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print what would be set and written; start nothing.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Take back what was written for the client.")
    ] = False,
) -> None:
    """Start another program as a client of the gateway.

    Exits like the client, 1 when it is not installed or the model does not do, 2 without a
    gateway.
    """
    from pomona_ops.cluster.started import find_port
    from pomona_ops.commands.launch.clients import CLIENTS
    from pomona_ops.commands.launch.command import (
        LaunchOptions,
        print_launch,
        restore_launch,
        run_launch,
    )

    if client not in CLIENTS:
        raise typer.BadParameter(f"choose one of {', '.join(CLIENTS)}", param_hint="CLIENT")
    if restore:
        raise typer.Exit(restore_launch(client))
    options = LaunchOptions(client, find_port(port), url, model, tuple(arguments or ()))
    raise typer.Exit(print_launch(options) if print_only else run_launch(options))


@command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure a cluster; see `pomona bench --help`."""
    from pomona_ops.bench.command import app as bench_app

    bench_app(args=context.args, prog_name="pomona bench")


@alerts_app.callback()
def alerts() -> None:
    """Alerts of the health watcher."""


@alerts_app.command("preview", cls=Command)
def alerts_preview(as_json: JsonOption = False) -> None:
    """Print the text of every kind of alert, as a phone or a watch shows it."""
    from pomona.settings import ServiceSettings, read_settings
    from pomona_ops.commands.alerts import print_preview

    print_preview(read_settings(ServiceSettings).cluster, as_json)


@keys_app.command("create", cls=Command)
def keys_create(
    name: Annotated[str, typer.Argument(help="A name for the key.")],
    administrator: Annotated[
        bool, typer.Option("--administrator", help="Also allow /metrics.")
    ] = False,
    requests: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Concurrent requests.")] = None,
    queue_share: Annotated[
        int | None, typer.Option(min=1, max=100, help="Per cent of the queue.")
    ] = None,
    port: PortOption = None,
) -> None:
    """Create a key and print it once."""
    from pomona.auth.api_keys import KeyLimits
    from pomona_ops.commands.keys import create_key

    limits = KeyLimits(requests, tokens, concurrent, queue_share)
    create_key(_key_store(port), name, "administrator" if administrator else "user", limits)


@keys_app.command("list", cls=Command)
def keys_list(
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys and their usage, never the keys themselves."""
    from pomona.auth.key_usage import UsageStore
    from pomona_ops.commands.keys import list_keys

    store = _key_store(port)
    list_keys(store, UsageStore(store.path.parent), as_json)


@keys_app.command("revoke", cls=Command)
def keys_revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")], port: PortOption = None
) -> None:
    """Revoke a key at once."""
    from pomona_ops.commands.keys import revoke_key

    revoke_key(_key_store(port), name)


@cluster_app.command("export", cls=Command)
def cluster_export(
    output: Annotated[str, typer.Argument(help="File to write; - for standard output.")],
    port: PortOption = None,
) -> None:
    """Write the cluster's key to a file, with which another member can become the head."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.cluster_key import export_key

    raise typer.Exit(export_key(find_target(port), output))


@cluster_app.command("import", cls=Command)
def cluster_import(
    source: Annotated[str, typer.Argument(help="File of `cluster export`; - for standard input.")],
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make this member a head, which admits nodes and plans."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.cluster_key import import_key

    raise typer.Exit(import_key(find_target(port), source, as_json))


@keys_app.command("rotate", cls=Command)
def keys_rotate(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="The cluster's key instead of this node's.")
    ] = False,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the key of this node, or of the cluster, while it serves."""
    from pomona_ops.cluster.started import find_target
    from pomona_ops.commands.membership.node_key import rotate_cluster_key, rotate_node_key

    target = find_target(port)
    raise typer.Exit((rotate_cluster_key if cluster else rotate_node_key)(target, as_json))


@keys_app.command("new", cls=Command)
def keys_new(port: PortOption = None, as_json: JsonOption = False) -> None:
    """Give this machine a key of its own, when its state folder was copied from another one."""
    from pomona_ops.cluster.started import find_port, find_state_dir
    from pomona_ops.commands.membership.node_key import new_node_key

    # The keys that are there cannot be used, so that no cluster is looked for.
    raise typer.Exit(new_node_key(find_state_dir(find_port(port)), as_json))


def _key_store(port: int | None) -> KeyStore:
    """Opens the keys of the cluster with this port, else of the gateway that the settings describe,
    else of the last cluster that was started."""
    from pomona.auth.api_keys import KeyStore
    from pomona.settings import has_state_dir, read_settings
    from pomona_gateway.settings import GatewaySettings
    from pomona_ops.cluster.started import find_port, find_state_dir, started_clusters

    settings = read_settings(GatewaySettings)
    described = has_state_dir(GatewaySettings) or settings.model_fields_set & {
        "port",
        "control_publish",
    }
    if port is None and (described or not started_clusters()):
        return KeyStore(settings.state_dir)
    return KeyStore(find_state_dir(find_port(port), GatewaySettings))
