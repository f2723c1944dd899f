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

"""The engine's dictionaries as the API shows them. Nothing about the host goes out: no path, no process."""

import datetime
import json
from collections.abc import Collection
from typing import Any


def checkpoint(found: dict[str, Any], server_url: str) -> dict[str, Any]:
    href = f"{server_url}/checkpoints/{found['id']}"
    return {
        "id": found["id"],
        "parent_id": found["parent"] or None,
        "name": found["name"],
        "server_id": found["guest"],
        "created_at": _time(found["created_ns"]),
        "automatic": found["automatic"],
        "state": found["state"],
        "current": found["current"],
        "epoch": found["epoch"],
        "ram_bytes": found["ram_bytes"],
        "ram_stored_bytes": found["ram_stored_bytes"],
        "pages": found["pages"],
        "pages_stored": found["pages_stored"],
        "pause_us": found["pause_us"],
        "device_state_bytes": found["device_state_bytes"],
        "disks": [_disk(disk) for disk in found["disks"]],
        "links": [{"rel": "self", "href": href}],
    }


def operation(found: dict[str, Any], server_url: str) -> dict[str, Any]:
    fields = ("id", "server_id", "action", "checkpoint_id", "status", "stage", "done", "total")
    view = {name: found[name] for name in (*fields, "started_at", "finished_at", "error")}
    result = found["result"]
    if result and "checkpoint" in result:
        result = {**result, "checkpoint": checkpoint(result["checkpoint"], server_url)}
    view["result"] = result
    view["links"] = [{"rel": "self", "href": f"{server_url}/operations/{found['id']}"}]
    return view


def guest(found: dict[str, Any]) -> dict[str, Any]:
    options = found["options"]
    return {
        "services": options["services"],
        "state": found["state"],
        "message": found["message"],
        "accelerator": found["accelerator"],
        "checkpoint_interval_s": options["checkpoint_interval_s"],
        "checkpoint_keep": options["checkpoint_keep_policy"] or options["checkpoint_keep"],
        "checkpoint_disks": options["checkpoint_disks"],
        "checkpoint_overhead_max": options["checkpoint_overhead_max"],
        "checkpoints": found["checkpoints"],
        "current_checkpoint_id": found["current"] or None,
        "ram_bytes": found["ram_bytes"],
        "store_bytes": found["store_bytes"],
        "epoch": found["epoch"],
    }


def services(found: dict[str, Any], flavor_services: Collection[str]) -> list[dict[str, Any]]:
    """Each service of a guest, in the order of its stack."""
    options = found["options"]
    layers = {layer["name"]: layer for layer in found.get("layers", [])}
    shown = []
    for name in options["services"]:
        layer = layers.get(name, {})
        configuration = options.get("configurations", {}).get(name)
        shown.append(
            {
                "name": name,
                "source": "flavor" if name in flavor_services else "added",
                "state": layer.get("state", found["state"]),
                "message": _message(layer),
                "version": layer.get("version", ""),
                "configuration": json.loads(configuration) if configuration else {},
                **{count: layer.get(count, 0) for count in ("restarts", "epochs", "alerts", "late")},
            }
        )
    return shown


def _message(layer: dict[str, Any]) -> str:
    hold = layer.get("network_hold")
    held = f"holds the network: {hold}" if hold else ""
    return "; ".join(part for part in (held, layer.get("message", "")) if part)


def _disk(found: dict[str, Any]) -> dict[str, Any]:
    included = bool(found["snapshot"])
    return {"target": found["target"], "format": found["format"], "included": included, "note": found["note"]}


def _time(ns: int) -> str:
    moment = datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
