"""``pomona launch``: starts another program as a client of the gateway."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pomona.errors import PomonaError
from pomona_ops.cluster.api_url import api_url
from pomona_ops.commands.chat import EXIT_NO_CLUSTER, NoGatewayError
from pomona_ops.commands.launch.clients import (
    CLIENTS,
    KEY_VARIABLE,
    NO_KEY,
    SHORTEST_REPLY,
    Client,
    Launch,
    Target,
)
from pomona_ops.commands.launch.file_backup import restore, write_with_backup

DEADLINE_S = 10.0
EXIT_NOT_STARTED = 1


class NotLaunchedError(PomonaError):
    """The client cannot be started. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Attributes:
    model: None takes the first model that is ready.
    url: None means the cluster on this machine.
    arguments: passed on to the client.
    """

    client: str
    port: int
    url: str | None = None
    model: str | None = None
    arguments: tuple[str, ...] = ()


def run_launch(options: LaunchOptions) -> int:
    """Replaces this process with the client.

    Returns only when that fails: 1 the client is not installed or the model does not do, 2 no
    gateway.
    """
    try:
        client = CLIENTS[options.client]
        program = _installed(options.client, client)
        target = _find_target(options)
        check_room(options.client, client, target)
    except NotLaunchedError as error:
        return _fail(error, EXIT_NOT_STARTED)
    except NoGatewayError as error:
        return _fail(error, EXIT_NO_CLUSTER)
    launch = client.launch(target, Path.home())
    if launch.file is not None:
        write_with_backup(launch.file.path, launch.file.content)
    key = os.environ.get(KEY_VARIABLE) or NO_KEY
    environment = {k: v for k, v in os.environ.items() if k not in launch.unset}
    environment |= {**launch.variables, **dict.fromkeys(launch.key_variables, key)}
    sys.stdout.flush()
    os.execve(program, [*launch.command, *options.arguments], environment)


def print_launch(options: LaunchOptions) -> int:
    """Prints what ``run_launch`` would do as shell commands. Same exit codes; changes nothing."""
    client = CLIENTS[options.client]
    try:
        target = _find_target(options)
    except NotLaunchedError as error:
        return _fail(error, EXIT_NOT_STARTED)
    except NoGatewayError as error:
        return _fail(error, EXIT_NO_CLUSTER)
    print(shell_commands(client.launch(target, Path.home()), options.arguments))
    try:
        check_room(options.client, client, target)
    except NotLaunchedError as error:
        return _fail(error, EXIT_NOT_STARTED)
    return 0


def restore_launch(name: str) -> int:
    """Takes back the configuration file that was written for a client. Returns 0."""
    file = CLIENTS[name].launch(Target("", "", 0), Path.home()).file
    if file is None:
        print(f"{name} is configured by variables and flags alone: nothing was written")
    elif restore(file.path):
        print(f"took back {file.path}")
    else:
        print(f"{file.path} is not Pomona's: nothing to take back")
    return 0


def shell_commands(launch: Launch, arguments: Sequence[str]) -> str:
    """Returns shell commands that do what the launch does. They name no key."""
    lines: list[str] = []
    if launch.file is not None:
        path = shlex.quote(str(launch.file.path))
        lines += [f"cat > {path} <<'END'", launch.file.content.rstrip("\n"), "END"]
    lines += [f"unset {name}" for name in launch.unset]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in launch.variables.items()]
    key = f'"${{{KEY_VARIABLE}:-{NO_KEY}}}"'
    lines += [f"export {name}={key}" for name in launch.key_variables]
    return "\n".join([*lines, shlex.join([*launch.command, *arguments])])


def check_room(name: str, client: Client, target: Target) -> None:
    """Raises NotLaunchedError when the client's own prompt leaves no room for a reply."""
    if target.context < client.needed_context:
        raise NotLaunchedError(
            f"{name}'s own prompt needs about {client.prompt_tokens:,} tokens and a reply "
            f"{SHORTEST_REPLY:,} more, but the context of {target.model} is {target.context:,} "
            "tokens. Load a model with a longer context: `pomona models load MODEL`"
        )


def choose_model(models: Sequence[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    """Returns the model of ``/v1/models`` to use. Raises NotLaunchedError when none is ready."""
    if wanted is None:
        for model in models:
            if model["ready"]:
                return model
        raise NotLaunchedError("no model is ready yet; see `pomona status` for the reason")
    for model in models:
        if model["id"].lower() == wanted.lower():
            if not model["ready"]:
                reason = f": {model['reason']}" if model.get("reason") else ""
                raise NotLaunchedError(
                    f"{model['id']} is not ready yet{reason}; see `pomona status`"
                )
            return model
    names = ", ".join(str(model["id"]) for model in models) or "none"
    raise NotLaunchedError(
        f"the cluster has no model {wanted!r}. Its models: {names}. Load another with "
        "`pomona models load MODEL`"
    )


def _installed(name: str, client: Client) -> str:
    program = shutil.which(client.program)
    if program is None:
        raise NotLaunchedError(
            f"{name} is not installed: there is no program {client.program!r} in PATH. "
            f"Install it with `{client.install}`"
        )
    return program


def _find_target(options: LaunchOptions) -> Target:
    url = (options.url or api_url(options.port)).rstrip("/").removesuffix("/v1")
    key = os.environ.get(KEY_VARIABLE)
    try:
        answer = httpx.get(
            f"{url}/v1/models",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=DEADLINE_S,
            trust_env=False,
            # The certificate of the gateway on this machine has the name that others use.
            verify=options.url is not None,
        )
        models = answer.json()["data"] if answer.is_success else []
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
        raise NoGatewayError(url) from error
    if answer.status_code in (401, 403):
        raise NotLaunchedError(
            f"the gateway at {url} requires a key: set {KEY_VARIABLE} to one of "
            "`pomona keys create NAME`"
        )
    if not answer.is_success:
        raise NotLaunchedError(
            f"the gateway at {url} answered with status {answer.status_code}; see `pomona status`"
        )
    model = choose_model(models, options.model)
    return Target(url, str(model["id"]), int(model["context_length"]))


def _fail(error: PomonaError, code: int) -> int:
    print(f"pomona: {error}", file=sys.stderr)
    return code
