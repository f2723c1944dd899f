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

"""The agent's RPC methods: each is one or two requests to the engine of this host.

Every request has a connection of its own, so that a list never waits behind
a checkpoint of another server.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import oslo_messaging as messaging
from oslo_context import context as oslo_context
from oslo_log import log as logging

from nova_mhv import engine, layers
from nova_mhv.agent import alerts
from nova_mhv.agent.operations import Operations, Progress
from nova_mhv.notifications import Notifier
from nova_mhv.rpc import VERSION, AgentError

LOG = logging.getLogger(__name__)

Context = oslo_context.RequestContext

NO_SERVICE = "This server has no hypervisor service."
NO_SERVICE_HINT = "Give it a flavor with the extra spec mhv:services=checkpoint."
NO_LAYER = "This server has no service {}."
NO_LAYER_HINT = "Add it, where the operator allows that, or give the server a flavor with it in mhv:services."
# What names a file or a command of the host is for its operator, not for tenants.
OPERATORS = re.compile(r"(^|[\s\"'(=:])/\w|mhvctl|systemctl")
ENGINE_TROUBLE = "The engine on the host of this server has a problem."
ENGINE_TROUBLE_HINT = "Try again; the operator finds the reason in the log of mhv-agent."


class Exporter(Protocol):
    def export(
        self, client: Any, context: Context, server_id: str, checkpoint_id: str, progress: Progress
    ) -> dict[str, Any]: ...


class Packages(Protocol):
    def fetch(self, image_id: str) -> IO[bytes]: ...


class AgentEndpoint:
    """Thread-safe: holds nothing that changes but the table of operations."""

    target = messaging.Target(version=VERSION)

    def __init__(
        self,
        connect: Callable[[], engine.Client],
        operations: Operations,
        notifier: Notifier,
        exporter: Exporter,
        packages: Packages,
    ) -> None:
        self._connect = connect
        self._operations = operations
        self._notifier = notifier
        self._exporter = exporter
        self._packages = packages

    # ------------------------------------------------------------ short requests

    @messaging.expected_exceptions(AgentError)
    def checkpoint_list(self, context: Context, server_id: str, marker: str, limit: int) -> dict[str, Any]:
        """``limit`` checkpoints after ``marker``, oldest first, and whether there are more."""
        with self._engine(server_id) as client:
            checkpoints, more = client.checkpoint_list(server_id, marker, limit)
        return {"checkpoints": checkpoints, "more": more}

    @messaging.expected_exceptions(AgentError)
    def checkpoint_show(self, context: Context, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        with self._engine(server_id) as client:
            return client.checkpoint_show(server_id, checkpoint_id)

    @messaging.expected_exceptions(AgentError)
    def checkpoint_delete(self, context: Context, server_id: str, checkpoint_id: str) -> None:
        about = {"server_id": server_id, "checkpoint_id": checkpoint_id}
        with self._notified(context, "delete", about), self._engine(server_id) as client:
            client.checkpoint_delete(server_id, checkpoint_id)

    @messaging.expected_exceptions(AgentError)
    def guest_status(self, context: Context, server_id: str) -> dict[str, Any]:
        with self._engine(server_id) as client:
            guests = client.status(server_id)
        if not guests:
            raise AgentError("no-service", NO_SERVICE, NO_SERVICE_HINT)
        shown = [{**layer, "message": _message_for_tenants(layer["message"])} for layer in guests[0]["layers"]]
        return {**guests[0], "layers": shown}

    @messaging.expected_exceptions(AgentError)
    def operation_show(self, context: Context, server_id: str, operation_id: str) -> dict[str, Any]:
        return self._operations.show(server_id, operation_id)

    # ------------------------------------------------------------ services that are layers

    @messaging.expected_exceptions(AgentError)
    def service_add(self, context: Context, server_id: str, service: str, configuration: str) -> None:
        """``configuration`` is JSON, or "". One that the server has gets this configuration instead of its own."""
        with self._engine(server_id) as client:
            _services_of(client, server_id)
            client.service_add(server_id, service, configuration)
        LOG.info("Service %s added to server %s", service, server_id)

    @messaging.expected_exceptions(AgentError)
    def service_remove(self, context: Context, server_id: str, service: str) -> None:
        with self._engine(server_id) as client:
            _services_of(client, server_id)
            client.service_remove(server_id, service)
        LOG.info("Service %s removed from server %s", service, server_id)

    @messaging.expected_exceptions(AgentError)
    def introspect(self, context: Context, server_id: str, kind: str, pid: int | None) -> Any:
        """What the layer answers: a list of objects, or an object."""
        return self._ask(server_id, layers.INTROSPECTION, kind, "{}" if pid is None else json.dumps({"pid": pid}))

    @messaging.expected_exceptions(AgentError)
    def service_call(self, context: Context, server_id: str, service: str, question: str, arguments: str) -> Any:
        """``question`` is the layer's method, ``arguments`` JSON, as is what the layer answers."""
        return self._ask(server_id, service, question, arguments)

    @messaging.expected_exceptions(AgentError)
    def alert_list(self, context: Context, server_id: str, after: int) -> list[dict[str, Any]]:
        """Oldest first."""
        with self._engine(server_id) as client:
            return [alerts.public(alert) for alert in client.alerts(server_id, after)]

    @messaging.expected_exceptions(AgentError)
    def host_services(self, context: Context) -> list[dict[str, Any]]:
        """What servers of this host can have: name, version and vendor."""
        client = self._connect()
        try:
            able = {one["service"]: one["available"] for one in client.self_test()["capabilities"]}
            found = {one["name"]: one for one in client.layer_list()}
        except engine.EngineError as error:
            raise _for_tenants(error) from error
        names = [name for name in {**able, **found} if able.get(name, True)]
        none = {"version": "", "vendor": ""}
        return [{"name": name} | {field: found.get(name, none)[field] for field in none} for name in names]

    @messaging.expected_exceptions(AgentError)
    def layer_install(self, context: Context, image_id: str) -> dict[str, Any]:
        """Name, version and vendor of what is there now. Its errors are for operators, and name the host's files."""
        with self._packages.fetch(image_id) as file:
            try:
                found = self._connect().layer_install(file.fileno())
            except engine.EngineError as error:
                LOG.error("The image %s was not installed: %s (%s)", image_id, error.message, error.hint)
                raise AgentError(error.code, error.message, error.hint) from error
        LOG.info("Service %s %s of %s installed", found["name"], found["version"], found["vendor"])
        return {field: found[field] for field in ("name", "version", "vendor")}

    # ------------------------------------------------------------ operations

    @messaging.expected_exceptions(AgentError)
    def checkpoint_create(self, context: Context, server_id: str, name: str) -> dict[str, Any]:
        self._require_service(server_id)

        def work(client: engine.Client, about: dict[str, Any], progress: Progress) -> dict[str, Any]:
            checkpoint = client.checkpoint_create(server_id, name, progress)
            about["checkpoint_id"] = checkpoint["id"]
            return {"checkpoint": checkpoint}

        return self._start(context, "create", server_id, work, name=name)

    @messaging.expected_exceptions(AgentError)
    def checkpoint_restore(self, context: Context, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        self._require_checkpoint(server_id, checkpoint_id)

        def work(client: engine.Client, about: dict[str, Any], progress: Progress) -> dict[str, Any]:
            return client.checkpoint_restore(server_id, checkpoint_id, progress)

        return self._start(context, "restore", server_id, work, checkpoint_id=checkpoint_id)

    @messaging.expected_exceptions(AgentError)
    def checkpoint_export(self, context: Context, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        self._require_checkpoint(server_id, checkpoint_id)

        def work(client: engine.Client, about: dict[str, Any], progress: Progress) -> dict[str, Any]:
            return self._exporter.export(client, context, server_id, checkpoint_id, progress)

        return self._start(context, "export", server_id, work, checkpoint_id=checkpoint_id)

    @messaging.expected_exceptions(AgentError)
    def checkpoint_verify(self, context: Context, server_id: str) -> dict[str, Any]:
        self._require_service(server_id)

        def work(client: engine.Client, about: dict[str, Any], progress: Progress) -> dict[str, Any]:
            return client.checkpoint_verify(server_id, progress)

        return self._start(context, "verify", server_id, work)

    # ------------------------------------------------------------ helpers

    def _ask(self, server_id: str, service: str, method: str, arguments: str) -> Any:
        with self._engine(server_id) as client:
            if service not in _services_of(client, server_id):
                raise AgentError("no-service", NO_LAYER.format(service), NO_LAYER_HINT)
            answer = client.layer_call(server_id, service, method, arguments)
        try:
            return layers.parse_json(answer)
        except ValueError as error:
            LOG.error("The layer %s of server %s answered no JSON: %.200r", service, server_id, answer)
            raise AgentError("corrupt", "The service answered something that is no JSON.", ENGINE_TROUBLE_HINT) from error

    def _start(
        self,
        context: Context,
        action: str,
        server_id: str,
        work: Callable[[engine.Client, dict[str, Any], Progress], dict[str, Any]],
        **what: Any,
    ) -> dict[str, Any]:
        def run(operation_id: str, progress: Progress) -> dict[str, Any]:
            about = {"server_id": server_id, "operation_id": operation_id, **what}
            with self._notified(context, action, about), self._engine(server_id) as client:
                return work(client, about, progress)

        checkpoint_id = what.get("checkpoint_id")
        return self._operations.start(server_id, action, run, checkpoint_id=checkpoint_id)

    def _require_service(self, server_id: str) -> None:
        with self._engine(server_id) as client:
            if not client.status(server_id):
                raise AgentError("no-service", NO_SERVICE, NO_SERVICE_HINT)

    def _require_checkpoint(self, server_id: str, checkpoint_id: str) -> None:
        """So that a wrong id is an answer and not a failed operation."""
        with self._engine(server_id) as client:
            client.checkpoint_show(server_id, checkpoint_id)

    @contextlib.contextmanager
    def _engine(self, server_id: str) -> Iterator[engine.Client]:
        client = self._connect()
        try:
            yield client
        except engine.EngineError as error:
            if error.code == "not-found" and not _knows(client, server_id):
                raise AgentError("no-service", NO_SERVICE, NO_SERVICE_HINT) from error
            raise _for_tenants(error) from error

    @contextlib.contextmanager
    def _notified(self, context: Context, action: str, about: dict[str, Any]) -> Iterator[None]:
        """``about`` is the payload; what is added to it inside goes out with the end."""
        self._notifier.start(context, action, about)
        try:
            yield
        except AgentError as error:
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            self._notifier.error(context, action, {**about, "error": failure})
            raise
        except Exception as error:
            failure = {"code": "internal", "message": str(error), "hint": ""}
            self._notifier.error(context, action, {**about, "error": failure})
            raise
        self._notifier.end(context, action, about)


def _services_of(client: engine.Client, server_id: str) -> list[str]:
    found = client.status(server_id)
    services = found[0]["options"]["services"] if found else []
    if not services:
        raise AgentError("no-service", NO_SERVICE, NO_SERVICE_HINT)
    return services


def _for_tenants(error: engine.EngineError) -> AgentError:
    message = ENGINE_TROUBLE if OPERATORS.search(error.message) else error.message
    hint = ENGINE_TROUBLE_HINT if message == ENGINE_TROUBLE or OPERATORS.search(error.hint) else error.hint
    if (message, hint) != (error.message, error.hint):
        LOG.error("%s (%s)", error.message, error.hint)
    return AgentError(error.code, message, hint)


def _message_for_tenants(message: str) -> str:
    """Why a layer does not run, which mhvd's log has as a whole."""
    parts = [part for part in message.split("; ") if not OPERATORS.search(part)]
    return "; ".join(parts) if parts else ENGINE_TROUBLE


def _knows(client: engine.Client, server_id: str) -> bool:
    try:
        return bool(client.status(server_id))
    except engine.EngineError as error:
        return error.code != "not-found"
