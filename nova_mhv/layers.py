#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.
"""Services by name: which there are, how they may be configured, which go together.

A layer's manifest says the latter two (cpp/stack/manifest.h): JSON with
``name``, ``claims`` and, in ``configuration``, a JSON Schema. Of a layer
without a manifest here, and in any case again, the engine decides on the
compute host.

Knows neither Nova nor the engine, so that the API host can load it too.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jsonschema
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

BUILT_IN = ("checkpoint", "introspection", "integrity")
IN_THE_ENGINE = "checkpoint"
INTROSPECTION = "introspection"
INTROSPECTION_KINDS = ("processes", "threads", "modules", "sockets", "files", "mounts", "syscalls", "log", "kernel")
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

MANIFEST_BYTES_MAX = 64 << 10
_SHOWN_CHARS_MAX = 64
# Of those that come with nova-mhv, where their manifests are not in a folder of the operator's.
_SCHEMAS: dict[str, dict[str, Any]] = {
    "checkpoint": {},
    "integrity": {
        "properties": {
            "on_finding": {"enum": ["alert", "hold", "checkpoint", "rollback", "stop"]},
            "epoch_ms": {"type": "integer"},
        }
    },
}


class LayerError(ValueError):
    """What cannot be had; the text says what can."""


def shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN_CHARS_MAX else value[:_SHOWN_CHARS_MAX] + "...")


def parse_json(text: str) -> Any:
    """JSON of somebody else. Raises ValueError, also for NaN and Infinity and for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_configuration(text: str) -> dict[str, Any]:
    try:
        parsed = parse_json(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise LayerError(f"{shown(text)} is no configuration; valid: a JSON object")
    return parsed


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The services that may be named, and the manifests (JSON texts, by name) that are known."""

    names: tuple[str, ...] = BUILT_IN
    manifests: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check_name(self, name: str) -> None:
        """Raises LayerError for an unknown one."""
        if name not in self.names:
            raise LayerError(f"{shown(name)} is no hypervisor service; valid: {', '.join(self.names)}")

    def check_names(self, names: Sequence[str]) -> None:
        """Raises LayerError for an unknown one, and for two that cannot be had together, with both and the reason."""
        for name in names:
            self.check_name(name)
        arbitrate([self.manifests.get(name, name) for name in names if name in self.manifests or name == IN_THE_ENGINE])

    def check_configuration(self, name: str, configuration: Mapping[str, Any]) -> None:
        """Raises LayerError naming the place, where it is known what the configuration may hold."""
        schema = self._schema(name)
        if schema is None:
            return
        problem = next(jsonschema.Draft202012Validator(schema).iter_errors(configuration), None)
        if problem is not None:
            where = "/" + "/".join(str(step)[:64] for step in problem.absolute_path)
            raise LayerError(f"the configuration of {name} is wrong at {where}: {problem.message[:300]}")

    def _schema(self, name: str) -> Any:
        """As the engine reads it: what it does not name, there is not."""
        if name in self.manifests:
            schema = json.loads(self.manifests[name]).get("configuration", {})
        else:
            schema = _SCHEMAS.get(name)
        return None if schema is None else {"type": "object", "additionalProperties": False, **schema}


def catalog(names: Collection[str], folders: Iterable[str]) -> Catalog:
    """``names``: those that the operator allows besides the built-in ones."""
    return Catalog((*BUILT_IN, *(name for name in names if name not in BUILT_IN)), read_manifests(folders))


def read_manifests(folders: Iterable[str]) -> dict[str, str]:
    """By name, the earlier folder's first; a file that is no manifest is logged and left out: the engine has the last word on its layer."""
    found: dict[str, str] = {}
    for path in [path for folder in folders for path in _files(folder)]:
        try:
            if path.stat().st_size > MANIFEST_BYTES_MAX:
                raise LayerError(f"more than {MANIFEST_BYTES_MAX} bytes")
            text = path.read_text()
            manifest = parse_configuration(text)
            name = manifest.get("name")
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise LayerError("no name of a layer")
            if not isinstance(manifest.get("configuration", {}), dict):
                raise LayerError("no schema of a configuration")
            jsonschema.Draft202012Validator.check_schema(manifest.get("configuration", {}))
        except (OSError, ValueError, jsonschema.SchemaError) as error:
            LOG.error("%s is no manifest of a layer: %.300s", path, error)
            continue
        found.setdefault(name, text)
    return found


def _files(folder: str) -> list[pathlib.Path]:
    """NAME/manifest.json, and then NAME/VERSION/manifest.json of what is installed, the newest version of a name first."""
    top = pathlib.Path(folder)
    try:
        installed = [path for path in top.glob("*/*/manifest.json") if not path.parts[-3].startswith(".")]  # those are being unpacked
        return sorted(top.glob("*/manifest.json")) + sorted(installed, key=_age, reverse=True)
    except OSError as error:
        LOG.warning("Manifests of layers cannot be read: %s", error)
        return []


def _age(path: pathlib.Path) -> list[str | int]:
    """Numbers in a version count as numbers, as they do for the engine: 1.10 is newer than 1.9."""
    parts = re.split("([0-9]+)", path.parent.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def arbitrate(stack: Sequence[str]) -> None:
    """Raises LayerError for layers that do not go together, by the engine's arbiter (cpp/stack/arbiter.h) where this host has it.

    ``stack``: manifests, and the name of what is a part of the engine.
    """
    try:
        from nova_mhv import _engine
    except ImportError:
        return
    decide = getattr(_engine, "arbitrate", None)
    if decide is None:
        return
    try:
        decide(list(stack))
    except _engine.EngineError as error:
        raise LayerError(f"{error.message}; {error.hint}" if error.hint else error.message) from None
