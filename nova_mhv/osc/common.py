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

"""What the commands share: finding the server, columns, progress."""

import argparse
import sys
from typing import Any

from cliff import columns as cliff_columns
from openstack import exceptions as sdk_exceptions
from osc_lib import exceptions
from osc_lib.cli import format_columns

MIB = 1 << 20


def add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="<server>", help="Server (name or ID)")


def find_server(client_manager: Any, name_or_id: str) -> str:
    """The server's ID."""
    try:
        return client_manager.sdk_connection.compute.find_server(name_or_id, ignore_missing=False).id
    except sdk_exceptions.NotFoundException as error:
        raise exceptions.CommandError(f"No server with a name or ID of '{name_or_id}' exists.") from error
    except sdk_exceptions.DuplicateResource as error:
        raise exceptions.CommandError(f"More than one server is named '{name_or_id}': use the ID.") from error


class CurrentColumn(cliff_columns.FormattableColumn[bool]):
    """A mark for people, a boolean for programs."""

    def human_readable(self) -> str:
        return "*" if self._value else ""


class DisksColumn(cliff_columns.FormattableColumn[Any]):
    """``vda, not vdb``: which disks went back to the same moment, and which would not."""

    def human_readable(self) -> str:
        found = [disk["target"] if disk["included"] else f"not {disk['target']}" for disk in self._value]
        return ", ".join(found) or "none"


LIST_COLUMNS = (
    "ID",
    "Parent",
    "Name",
    "Created",
    "RAM MiB Stored",
    "Pages",
    "Disk",
    "Pause ms",
    "State",
    "Current",
)


def list_row(checkpoint: dict[str, Any]) -> tuple[Any, ...]:
    return (
        checkpoint["id"],
        checkpoint["parent_id"],
        checkpoint["name"],
        checkpoint["created_at"],
        _mib(checkpoint["ram_stored_bytes"]),
        checkpoint["pages"],
        DisksColumn(checkpoint["disks"]),
        _ms(checkpoint["pause_us"]),
        checkpoint["state"],
        CurrentColumn(checkpoint["current"]),
    )


def show_columns(checkpoint: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    data = {
        "id": checkpoint["id"],
        "parent": checkpoint["parent_id"],
        "name": checkpoint["name"],
        "server_id": checkpoint["server_id"],
        "created": checkpoint["created_at"],
        "automatic": checkpoint["automatic"],
        "state": checkpoint["state"],
        "current": checkpoint["current"],
        "epoch": checkpoint["epoch"],
        "ram_mib": _mib(checkpoint["ram_bytes"]),
        "ram_mib_stored": _mib(checkpoint["ram_stored_bytes"]),
        "pages": checkpoint["pages"],
        "pages_stored": checkpoint["pages_stored"],
        "pause_ms": _ms(checkpoint["pause_us"]),
        "device_state_bytes": checkpoint["device_state_bytes"],
        "disks": format_columns.ListDictColumn(checkpoint["disks"]),
    }
    return tuple(data), tuple(data.values())


def operation_columns(operation: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    error = operation.get("error") or {}
    data = {
        "operation_id": operation["id"],
        "action": operation["action"],
        "server_id": operation["server_id"],
        "checkpoint_id": operation["checkpoint_id"],
        "status": operation["status"],
        "stage": operation["stage"],
        "done": operation["done"],
        "total": operation["total"],
        "started": operation["started_at"],
        "finished": operation["finished_at"],
        "error": error.get("message"),
    }
    return tuple(data), tuple(data.values())


class Progress:
    """How far an operation is, on stderr: one line redrawn on a terminal, a line per stage elsewhere."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure: object) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def show(self, operation: dict[str, Any]) -> None:
        self.update(operation["stage"], operation["done"], operation["total"])

    def update(self, stage: str, done: int, total: int) -> None:
        if self._terminal:
            line = f"{stage} {_bar(done, total)}".rstrip()
            self._stream.write("\r" + line.ljust(self._width))
            self._width = max(self._width, len(line))
        elif stage != self._stage:
            self._stream.write(stage + "\n")
        self._stage = stage
        self._stream.flush()


def _bar(done: int, total: int) -> str:
    if not total:
        return ""
    share = min(1.0, done / total)
    return f"[{'=' * round(share * 30):<30}] {share:.0%}"


def _mib(size: int) -> float:
    return round(size / MIB, 2)


def _ms(us: int) -> float:
    return round(us / 1000, 2)
