"""Commands, variables and configuration files that point each client to a gateway.

Variables and flags come first, because they leave nothing behind. Only qwen and aider need a
file, for the context length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST_REPLY = 32_000
"""Most tokens of a reply that a client may ask for; also at most a quarter of the context."""
SHORTEST_REPLY = 2_048
"""Tokens that must be left for a reply beside a client's own prompt."""
WAIT_MS = 3_600_000
"""Longest wait of a client for a token. A long prompt is read for many minutes on small Macs."""
KEY_VARIABLE = "POMONA_API_KEY"
NO_KEY = "none"
"""Key for a gateway that requires none; the clients refuse to start without one."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model behind a gateway.

    Attributes:
        url: address of the gateway without a path.
        context: tokens of prompt and reply together.
    """

    url: str
    model: str
    context: int

    @property
    def longest_reply(self) -> int:
        return min(LONGEST_REPLY, self.context // 4)


@dataclass(frozen=True, slots=True)
class ClientFile:
    """A configuration file with the content that the client needs."""

    path: Path
    content: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that starts a client.

    Attributes:
        command: program and arguments, before those of the user.
        variables: environment variables to set.
        key_variables: environment variables that must hold the API key.
        unset: environment variables that must not be set.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    key_variables: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    file: ClientFile | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """Attributes:
    program: name of its executable.
    prompt_tokens: size of its own prompt with its tools, measured with SmolLM2's tokenizer.
        aider's is without the map of the repository, whose size follows the context.
    install: command that installs it.
    """

    program: str
    prompt_tokens: int
    install: str
    launch: Callable[[Target, Path], Launch]

    @property
    def needed_context(self) -> int:
        return self.prompt_tokens + SHORTEST_REPLY


def claude(target: Target, home: Path) -> Launch:
    """Claude Code (https://code.claude.com/docs/en/llm-gateway)."""
    models = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL")
    sizes = ("FABLE", "OPUS", "SONNET", "HAIKU")
    return Launch(
        ("claude",),
        {
            "ANTHROPIC_BASE_URL": target.url,
            **dict.fromkeys(models, target.model),
            **{f"ANTHROPIC_DEFAULT_{size}_MODEL": target.model for size in sizes},
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(target.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(target.longest_reply),
            # The header differs in each request, which would make every prefix new.
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "API_TIMEOUT_MS": str(WAIT_MS),
        },
        ("ANTHROPIC_AUTH_TOKEN",),
        ("ANTHROPIC_API_KEY",),
    )


def codex(target: Target, home: Path) -> Launch:
    """Codex (https://developers.openai.com/codex/config-reference)."""
    provider = "model_providers.pomona"
    settings: dict[str, str | int] = {
        "model": target.model,
        "model_provider": "pomona",
        "model_context_window": target.context,
        # The gateway has no search engine.
        "web_search": "disabled",
        f"{provider}.name": "Pomona",
        f"{provider}.base_url": f"{target.url}/v1",
        f"{provider}.wire_api": "responses",
        f"{provider}.env_key": KEY_VARIABLE,
        f"{provider}.stream_idle_timeout_ms": WAIT_MS,
    }
    # Values are TOML; a JSON string is one too.
    flags = [part for key, value in settings.items() for part in ("-c", f"{key}={_json(value)}")]
    return Launch(("codex", *flags), {}, (KEY_VARIABLE,))


def opencode(target: Target, home: Path) -> Launch:
    """opencode (https://opencode.ai/docs/providers). Merges this with the user's own files."""
    config = {
        "model": f"pomona/{target.model}",
        "small_model": f"pomona/{target.model}",
        "provider": {
            "pomona": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Pomona",
                "options": {
                    "baseURL": f"{target.url}/v1",
                    "apiKey": f"{{env:{KEY_VARIABLE}}}",
                    "timeout": WAIT_MS,
                },
                "models": {
                    target.model: {
                        "name": target.model,
                        "limit": {"context": target.context, "output": target.longest_reply},
                    }
                },
            }
        },
    }
    return Launch(("opencode",), {"OPENCODE_CONFIG_CONTENT": _json(config)}, (KEY_VARIABLE,))


def qwen(target: Target, home: Path) -> Launch:
    """Qwen Code (https://qwenlm.github.io/qwen-code-docs).

    The context length is read from settings only. Among them the file has the lowest precedence,
    so nothing of the user's is replaced. Qwen Code itself adds a version to it.
    """
    settings = {"model": {"generationConfig": {"contextWindowSize": target.context}}}
    folder = Path(os.environ.get("QWEN_HOME") or home / ".qwen")
    file = ClientFile(folder / "pomona.json", json.dumps(settings, indent=2) + "\n")
    return Launch(
        ("qwen", "--auth-type", "openai", "--model", target.model),
        {
            "OPENAI_BASE_URL": f"{target.url}/v1",
            "OPENAI_MODEL": target.model,
            "QWEN_CODE_MAX_OUTPUT_TOKENS": str(target.longest_reply),
            "QWEN_CODE_SYSTEM_DEFAULTS_PATH": str(file.path),
        },
        ("OPENAI_API_KEY",),
        file=file,
    )


def aider(target: Target, home: Path) -> Launch:
    """aider (https://aider.chat/docs/config/adv-model-settings.html)."""
    name = f"openai/{target.model}"
    metadata = {
        name: {
            "max_input_tokens": target.context,
            "max_output_tokens": target.longest_reply,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
    }
    path = home / ".aider.pomona.metadata.json"
    command = ("aider", "--model", name, "--weak-model", name, "--model-metadata-file", str(path))
    return Launch(
        command,
        {"OPENAI_API_BASE": f"{target.url}/v1"},
        ("OPENAI_API_KEY",),
        file=ClientFile(path, json.dumps(metadata, indent=2) + "\n"),
    )


def open_webui(target: Target, home: Path) -> Launch:
    """Open WebUI (https://docs.openwebui.com/reference/env-configuration).

    It reads these at its first start and keeps them in its database.
    """
    return Launch(
        ("open-webui", "serve"),
        {
            "OPENAI_API_BASE_URL": f"{target.url}/v1",
            "ENABLE_OLLAMA_API": "false",
            "DEFAULT_MODELS": target.model,
            "DEFAULT_MODEL_METADATA": _json({"capabilities": {"builtin_tools": False}}),
            "TASK_MODEL_PARAMS": _json({"max_tokens": 256}),
            "ENABLE_FOLLOW_UP_GENERATION": "false",
            "ENABLE_TAGS_GENERATION": "false",
        },
        ("OPENAI_API_KEY",),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


CLIENTS: dict[str, Client] = {
    "claude": Client("claude", 12_400, "npm install -g @anthropic-ai/claude-code", claude),
    "codex": Client("codex", 9_500, "npm install -g @openai/codex", codex),
    "opencode": Client("opencode", 7_700, "npm install -g opencode-ai", opencode),
    "qwen": Client("qwen", 14_400, "npm install -g @qwen-code/qwen-code", qwen),
    "aider": Client("aider", 800, "uv tool install aider-chat", aider),
    "open-webui": Client("open-webui", 0, "uv tool install open-webui", open_webui),
}
