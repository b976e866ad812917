"""Lists what users and other machines see: settings, metrics, commands, HTTP and wire fields.

``python -m support.surface`` in the folder ``tests`` prints it, a line each. It imports every
module and looks at objects rather than at module names, so that two versions of the project
compare even when modules have moved.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import typer
from prometheus_client import REGISTRY, CollectorRegistry
from pydantic import AliasChoices, TypeAdapter

PACKAGES = (
    "pomona",
    "pomona_discovery",
    "pomona_planner",
    "pomona_stage_worker",
    "pomona_gateway",
    "pomona_health_watcher",
    "pomona_ops",
)
ENTRY_POINTS = {
    "pomona_stage_worker.slicing": ("slice_model", "legal_cuts"),
}
LIBRARY_METRICS = ("python_", "process_")
COMPARED = (
    "type", "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems", "pattern", "format",
)  # fmt: skip


def surface() -> list[str]:
    """Returns a sorted line for each setting, metric, command option, HTTP and wire field."""
    modules = list(_modules())
    lines = {
        *_settings(modules),
        *_metrics(modules),
        *_commands(),
        *_http(modules),
        *_wire(modules),
        *_entry_points(),
    }
    return sorted(lines)


def _modules() -> Iterator[ModuleType]:
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            leaf = found.name.rpartition(".")[2]
            if leaf not in ("__main__", "prompt_process") and ".testing" not in found.name:
                yield importlib.import_module(found.name)


def _settings(modules: list[ModuleType]) -> Iterator[str]:
    for module in modules:
        for kind in vars(module).values():
            if not isinstance(kind, type) or not hasattr(kind, "settings_customise_sources"):
                continue
            prefix = kind.model_config.get("env_prefix", "")
            for name, field in kind.model_fields.items():
                alias = field.validation_alias
                shared = isinstance(alias, AliasChoices)
                variable = str(alias.choices[0]) if shared else prefix + name.upper()
                if variable.startswith("POMONA_"):
                    yield f"setting {variable}"


def _metrics(modules: list[ModuleType]) -> Iterator[str]:
    registries: list[CollectorRegistry] = [REGISTRY]
    registries += [
        module.Metrics().registry
        for module in modules
        if module.__name__ == "pomona_gateway.metrics"
    ]
    for registry in registries:
        # The library lists a registry's collectors nowhere else.
        collectors = list(registry._collector_to_names)  # pyright: ignore[reportPrivateUsage]
        for collector in collectors:
            name = getattr(collector, "_name", "")
            if name and not name.startswith(LIBRARY_METRICS):
                labels = ",".join(getattr(collector, "_labelnames", ()))
                yield f"metric {name}{{{labels}}}"


def _commands() -> Iterator[str]:
    app = importlib.import_module("pomona_ops.cli").app

    def walk(command: Any, path: str) -> Iterator[str]:
        yield f"command {path}"
        for parameter in command.params:
            yield from (f"command {path} {name}" for name in parameter.opts)
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, f"{path} {name}")

    yield from walk(typer.main.get_command(app), "pomona")
    # `pomona bench` imports its own commands when it runs.
    bench = importlib.import_module("pomona_ops.bench.command").app
    yield from walk(typer.main.get_command(bench), "pomona bench")


def _http(modules: list[ModuleType]) -> Iterator[str]:
    documents = (
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, dict) and "openapi" in value and "paths" in value
    )
    document = next(documents)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            place = f"http {method.upper()} {path}"
            yield place
            yield from (f"{place} -> {status}" for status in operation["responses"])
            for parameter in operation.get("parameters", ()):
                yield f"{place} ?{parameter['name']}"
            content = operation.get("requestBody", {}).get("content", {})
            for body in content.values():
                yield from _fields(body["schema"], document, place)


def _wire(modules: list[ModuleType]) -> Iterator[str]:
    for module in modules:
        for name in ("Beacon", "Envelope"):
            kind = vars(module).get(name)
            if kind is not None and kind.__module__ == module.__name__:
                schema = TypeAdapter(kind).json_schema()
                yield from _fields(schema, schema, f"wire {name}")


def _fields(schema: Any, document: Any, path: str, outer: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields a line for each field of a JSON Schema, with type and limits."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        reference = schema["$ref"]
        if reference in outer:
            return
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        yield from _fields(target, document, path, (*outer, reference))
        return
    limits = {key: value for key, value in schema.items() if key in COMPARED}
    if limits:
        yield f"{path}: {json.dumps(limits, sort_keys=True)}"
    for name, field in schema.get("properties", {}).items():
        yield from _fields(field, document, f"{path}.{name}", outer)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for choice in schema.get(key, ()):
            yield from _fields(choice, document, path, outer)
    yield from _fields(schema.get("items"), document, f"{path}[]", outer)
    yield from _fields(schema.get("additionalProperties"), document, f"{path}{{}}", outer)


def _entry_points() -> Iterator[str]:
    for module, names in ENTRY_POINTS.items():
        for name in names:
            if callable(getattr(importlib.import_module(module), name, None)):
                yield f"entry point {module}.{name}"


if __name__ == "__main__":
    print("\n".join(surface()))
