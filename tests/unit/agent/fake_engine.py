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

"""An engine in memory: what mhvd answers, as nova_mhv.engine.Client gives it."""

import json
import os
import sys
import tempfile
import threading
import types
import uuid
from typing import IO, Any

try:
    from nova_mhv import _engine  # noqa: F401
except ImportError:
    # The compiled module is not needed to test what calls it.
    stub: Any = types.ModuleType("nova_mhv._engine")
    stub.DEFAULT_SOCKET = "/run/nova-mhv/mhvd.sock"
    stub.Client = type("Client", (), {})
    stub.EngineError = type("EngineError", (Exception,), {})
    sys.modules["nova_mhv._engine"] = stub

from nova_mhv.engine import EngineError
from nova_mhv.rpc import AgentError

SAVE_IMAGE = b"LibvirtQemudSave" + bytes(3000)


def error(code: str, message: str, hint: str = "") -> EngineError:
    made = EngineError(message)
    made.code, made.message, made.hint = code, message, hint
    return made


class FakeEngine:
    """One host's engine. ``gate`` holds long requests while it is cleared; ``fail`` is raised by the next of them."""

    def __init__(self, *guests: str) -> None:
        self.guests: dict[str, list[dict[str, Any]]] = {guest: [] for guest in guests}
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fail: Exception | None = None
        self.services: dict[str, dict[str, str]] = {guest: {"checkpoint": ""} for guest in guests}  # with configurations
        self.found: dict[str, list[dict[str, Any]]] = {guest: [] for guest in guests}  # alerts
        self.asked: list[tuple[str, str, str]] = []  # layer, method, arguments
        self.answer = '[{"pid": 1, "name": "init"}]'
        self.installed: list[bytes] = []
        self.host = {"checkpoint": True, "introspection": True, "integrity": True}

    def alert(self, guest: str, title: str, number: int = 0, **fields: Any) -> dict[str, Any]:
        chain = self.found[guest]
        alert = {
            "number": number or len(chain) + 1,
            "time_ns": 1_700_000_000_000_000_000 + len(chain) * 10**9,
            "layer": "integrity",
            "severity": "critical",
            "title": title,
            "detail": '{"syscall": 59}',
            **fields,
        }
        chain.append(alert)
        return alert

    def add(self, guest: str, name: str = "", identity: str = "") -> dict[str, Any]:
        chain = self.guests[guest]
        for entry in chain:
            entry["current"] = False
        checkpoint = {
            "id": identity or str(uuid.uuid4()),
            "parent": chain[-1]["id"] if chain else "",
            "name": name,
            "guest": guest,
            "created_ns": 1_700_000_000_123_000_000 + len(chain) * 10**9,
            "automatic": False,
            "state": "available",
            "epoch": len(chain) + 1,
            "ram_bytes": 128 << 20,
            "ram_stored_bytes": 3 << 19,
            "pages": 1000,
            "pages_stored": 384,
            "pause_us": 3600,
            "device_state_bytes": 81920,
            "disks": [
                {"target": "vda", "path": "/secret/disk", "format": "qcow2", "snapshot": "mhv-1", "note": ""},
                {"target": "vdb", "path": "/dev/sdx", "format": "raw", "snapshot": "", "note": "raw has no snapshots"},
            ],
            "current": True,
        }
        chain.append(checkpoint)
        return checkpoint

    # ------------------------------------------------------------ nova_mhv.engine.Client

    def status(self, guest: str = "") -> list[dict[str, Any]]:
        if not guest:
            return [status for known in self.guests for status in self.status(known)]
        self._chain(guest)
        services = self.services[guest]
        options = {
            "services": list(services),
            "configurations": {name: text for name, text in services.items() if text},
            "checkpoint_interval_s": 0.0,
            "checkpoint_keep": 10,
            "checkpoint_overhead_max": 10.0,
            "checkpoint_keep_policy": "",
            "checkpoint_disks": "required",
        }
        return [
            {
                "uuid": guest,
                "name": "instance-00000001",
                "state": "attached",
                "message": "",
                "accelerator": "tcg",
                "options": options,
                "ram_bytes": 128 << 20,
                "epoch": 1,
                "checkpoints": len(self.guests[guest]),
                "current": "",
                "qemu_pid": 1234,
                "worker_pid": 1235,
                "worker_restarts": 0,
                "own_monitor": True,
                "store_bytes": 0,
                "layers": [{"name": name, **LAYER} for name in services if name != "checkpoint"],
            }
        ]

    def self_test(self) -> dict[str, Any]:
        found = [{"service": name, "available": there, "reason": ""} for name, there in self.host.items()]
        return {"capabilities": found, "kernel": "6.18"}

    def layer_list(self) -> list[dict[str, Any]]:
        names = [name for name in self.host if name != "checkpoint"]
        return [{"name": name, "version": "1.0", "vendor": "nova-mhv", "manifest": "{}"} for name in names]

    def layer_install(self, fd: int) -> dict[str, Any]:
        self._work(None, "installing")
        self.installed.append(os.pread(fd, 1 << 20, 0))
        self.host["heat"] = True
        return {"name": "heat", "version": "1.0", "vendor": "acme", "manifest": "{}"}

    def service_add(self, guest: str, service: str, configuration: str = "") -> None:
        self._chain(guest)
        if not self.host.get(service):
            raise error("unsupported", f"this host has no service {service}", "its operator installs it")
        self.services[guest][service] = configuration

    def service_remove(self, guest: str, service: str) -> None:
        self._chain(guest)
        del self.services[guest][service]

    def layer_call(self, guest: str, layer: str, method: str, arguments: str = "{}") -> str:
        self._chain(guest)
        json.loads(arguments)
        self.asked.append((layer, method, arguments))
        return self.answer

    def alerts(self, guest: str, after: int = 0) -> list[dict[str, Any]]:
        self._chain(guest)
        return [dict(alert) for alert in self.found[guest] if alert["number"] > after]

    def checkpoint_create(self, guest: str, name: str = "", progress: Any = None) -> dict[str, Any]:
        self._chain(guest)
        self._work(progress, "copying memory")
        return self.add(guest, name)

    def checkpoint_list(self, guest: str, marker: str = "", limit: int = 0) -> tuple[list[dict[str, Any]], bool]:
        chain = self._chain(guest)
        start = chain.index(self._find(guest, marker)) + 1 if marker else 0
        return chain[start : start + limit], len(chain) > start + limit

    def checkpoint_show(self, guest: str, id: str) -> dict[str, Any]:
        return self._find(guest, id)

    def checkpoint_delete(self, guest: str, id: str) -> None:
        self._chain(guest).remove(self._find(guest, id))

    def checkpoint_restore(self, guest: str, id: str, progress: Any = None) -> dict[str, Any]:
        found = self._find(guest, id)
        self._work(progress, "putting memory back")
        return {"checkpoint": found, "pages_written": 17, "pause_us": 12500, "in_place": True}

    def checkpoint_export(self, guest: str, id: str, fd: int, progress: Any = None) -> dict[str, Any]:
        self._find(guest, id)
        self._work(progress, "writing the save image")
        os.write(fd, SAVE_IMAGE)
        return {"bytes": len(SAVE_IMAGE)}

    def checkpoint_verify(self, guest: str, progress: Any = None) -> dict[str, Any]:
        self._work(progress, "reading")
        return {"checkpoints": len(self._chain(guest)), "records": 1, "bytes": 4096, "problems": []}

    # ------------------------------------------------------------ helpers

    def _work(self, progress: Any, stage: str) -> None:
        if progress:
            progress(stage, 1, 2)
        self.entered.release()
        assert self.gate.wait(30)
        if self.fail:
            failure, self.fail = self.fail, None
            raise failure

    def _chain(self, guest: str) -> list[dict[str, Any]]:
        if guest not in self.guests:
            raise error("not-found", f"no guest {guest} is attached", "attach it first")
        return self.guests[guest]

    def _find(self, guest: str, identity: str) -> dict[str, Any]:
        for entry in self._chain(guest):
            if entry["id"] == identity:
                return entry
        raise error("not-found", f"no checkpoint {identity}", "list them")


LAYER = {"version": "1.0", "state": "ready", "message": "", "restarts": 0, "epochs": 7, "alerts": 0, "late": 0}


class FakePackages:
    """Images by id."""

    def __init__(self, **images: bytes) -> None:
        self.images = images

    def fetch(self, image_id: str) -> IO[bytes]:
        if image_id not in self.images:
            raise AgentError("not-found", f"The image {image_id} could not be found.")
        file = tempfile.TemporaryFile()
        file.write(self.images[image_id])
        file.flush()
        return file


class FakeNotifier:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def start(self, context: Any, action: str, payload: dict[str, Any]) -> None:
        self.sent.append((f"{action}.start", dict(payload)))

    def end(self, context: Any, action: str, payload: dict[str, Any]) -> None:
        self.sent.append((f"{action}.end", dict(payload)))

    def error(self, context: Any, action: str, payload: dict[str, Any]) -> None:
        self.sent.append((f"{action}.error", dict(payload)))


def wait_finished(operations: Any, operation: dict[str, Any]) -> dict[str, Any]:
    """The finished operation: a second one on the same pool of one thread runs only after it."""
    done = threading.Event()
    operations.start(f"barrier-{uuid.uuid4()}", "barrier", lambda *_: (done.set(), {})[1])
    assert done.wait(30)
    return operations.show(operation["server_id"], operation["id"])
