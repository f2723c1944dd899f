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


"""Services of a server and of the cloud, introspection, alerts. Each method answers one route."""

import json
from concurrent import futures
from typing import Any

import oslo_messaging as messaging
import webob
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import log as logging
from oslo_policy import policy

from nova_mhv import flavor, layers, policies
from nova_mhv.api import requests, versions, views
from nova_mhv.api.errors import ApiError
from nova_mhv.api.resource import Asked, ServerResource
from nova_mhv.api.servers import Servers, require_active, require_unlocked
from nova_mhv.rpc import AgentClient, AgentError

LOG = logging.getLogger(__name__)

PID_MAX = 1 << 22  # of Linux, PID_MAX_LIMIT
NUMBER_MAX = (1 << 63) - 1

_HOSTS_AT_ONCE = 16
_CHANGE = "change the services of"


class Services(ServerResource):
    """Thread-safe."""

    def __init__(self, servers: Servers, agents: AgentClient, enforcer: policy.Enforcer, conf: cfg.ConfigOpts) -> None:
        super().__init__(servers, agents, enforcer)
        self._conf = conf

    # ------------------------------------------------------------ of a server

    def index(self, request: webob.Request, server_id: str) -> webob.Response:
        asked = self._allow(request, policies.SERVICES, server_id)
        found = self._call(asked, "guest_status")
        body = views.guest(found)
        if versions.of(request) >= versions.LAYERS:
            body["layers"] = views.services(found, asked.server.flavor_services)
        return webob.Response(json_body={"services": body})

    def show(self, request: webob.Request, server_id: str, name: str) -> webob.Response:
        asked = self._allow(request, policies.SERVICES, server_id)
        return webob.Response(json_body={"service": self._service(asked, name)})

    def add(self, request: webob.Request, server_id: str) -> webob.Response:
        wanted = requests.json_body(request, requests.ADD_SERVICE)["service"]
        name, configuration = wanted["name"], wanted.get("configuration", {})
        asked = self._allow(request, policies.ADD_SERVICE, server_id)
        self._require_addable(asked, name)
        if flavor.CONFIGURE + name in asked.server.extra_specs:
            raise ApiError(409, f"The flavor of server {asked.server.id} says how its service {name} is configured.")
        try:
            layers.catalog((), self._conf.layers.manifest_dirs).check_configuration(name, configuration)
        except layers.LayerError as error:
            raise ApiError(400, f"The body is wrong at /service/configuration: {error}.") from error
        _require_changeable(asked)
        self._call(asked, "service_add", service=name, configuration=json.dumps(configuration) if configuration else "")
        return webob.Response(status=201, json_body={"service": self._service(asked, name)})

    def remove(self, request: webob.Request, server_id: str, name: str) -> webob.Response:
        asked = self._allow(request, policies.REMOVE_SERVICE, server_id)
        self._service(asked, name)
        self._require_addable(asked, name)
        if name in asked.server.flavor_services:
            raise ApiError(
                409,
                f"The service {name} of server {asked.server.id} comes with its flavor.",
                "Resize the server to a flavor without it.",
            )
        _require_changeable(asked)
        self._call(asked, "service_remove", service=name)
        return webob.Response(status=204, content_type=None)

    def call(self, request: webob.Request, server_id: str, name: str) -> webob.Response:
        wanted = requests.json_body(request, requests.CALL)["call"]
        # What may not be seen in one way is not seen in another.
        rule = policies.INTROSPECT if name == layers.INTROSPECTION else policies.CALL_SERVICE
        asked = self._allow(request, rule, server_id)
        arguments = json.dumps(wanted.get("arguments", {}))
        answer = self._call(asked, "service_call", service=name[:64], question=wanted["method"], arguments=arguments)
        return webob.Response(json_body={"answer": answer})

    def introspect(self, request: webob.Request, server_id: str, kind: str) -> webob.Response:
        if kind not in layers.INTROSPECTION_KINDS:
            kinds = ", ".join(layers.INTROSPECTION_KINDS)
            raise ApiError(404, f"Introspection does not know {kind[:64]!r}; it knows: {kinds}.")
        pid = requests.number(request, "pid", PID_MAX)
        asked = self._allow(request, policies.INTROSPECT, server_id)
        return webob.Response(json_body={kind: self._call(asked, "introspect", kind=kind, pid=pid)})

    def alerts(self, request: webob.Request, server_id: str) -> webob.Response:
        after = requests.number(request, "after", NUMBER_MAX) or 0
        asked = self._allow(request, policies.ALERTS, server_id)
        return webob.Response(json_body={"alerts": self._call(asked, "alert_list", after=after)})

    # ------------------------------------------------------------ of the cloud

    def cloud(self, request: webob.Request) -> webob.Response:
        requests.no_query(request)
        context = self._allow_in_cloud(request, policies.CLOUD_SERVICES)
        found: dict[tuple[str, str, str], list[str]] = {}
        for host, services in self._of_hosts(context):
            for one in services:
                found.setdefault((one["name"], one["version"], one["vendor"]), []).append(host)
        shows_hosts = self._enforcer.authorize(policies.CLOUD_HOSTS, {"project_id": context.project_id}, context)
        shown: list[dict[str, Any]] = []
        for (name, version, vendor), hosts in sorted(found.items()):
            addable = name in self._conf.layers.tenant_addable
            entry = {"name": name, "version": version, "vendor": vendor, "tenant_addable": addable}
            shown.append(entry | ({"hosts": hosts} if shows_hosts else {}))
        return webob.Response(json_body={"services": shown})

    def _of_hosts(self, context: oslo_context.RequestContext) -> list[tuple[str, list[dict[str, Any]]]]:
        """What each host has whose agent answers; the others are logged."""

        def ask(host: str) -> tuple[str, list[dict[str, Any]]]:
            try:
                return host, self._agents.call(context, host, "host_services")
            except (AgentError, messaging.MessagingException) as error:
                LOG.warning("The services of host %s are not known: %s", host, error)
                return host, []

        hosts = self._servers.hosts()
        with futures.ThreadPoolExecutor(_HOSTS_AT_ONCE) as pool:
            return list(pool.map(ask, hosts))

    def install(self, request: webob.Request) -> webob.Response:
        """Answers for each host by itself: what one refuses, another may have taken."""
        wanted = requests.json_body(request, requests.INSTALL)["service"]
        context = self._allow_in_cloud(request, policies.INSTALL_SERVICE)

        def ask(host: str) -> dict[str, Any]:
            try:
                found = self._agents.call(context, host, "layer_install", image_id=wanted["image_id"].lower())
                return _outcome(host, "installed", **found)
            except AgentError as error:
                return _outcome(host, "exists" if error.code == "exists" else "error", message=error.message, hint=error.hint)
            except messaging.MessagingException as error:
                LOG.error("mhv-agent on host %s does not answer layer_install: %s", host, error)
                return _outcome(host, "error", message="Its agent does not answer.", hint="Try again; look at the log of mhv-agent.")

        up = self._servers.hosts()
        hosts = wanted.get("hosts", up)
        for host in hosts:
            if host not in up:
                raise ApiError(409, f"{host!r} is no compute host that is up.", f"Those that are: {', '.join(up) or 'none'}."[:1000])
        with futures.ThreadPoolExecutor(_HOSTS_AT_ONCE) as pool:
            return webob.Response(json_body={"hosts": list(pool.map(ask, hosts))})

    def _allow_in_cloud(self, request: webob.Request, rule: str) -> oslo_context.RequestContext:
        context = oslo_context.RequestContext.from_environ(request.environ)
        if not self._enforcer.authorize(rule, {"project_id": context.project_id}, context):
            raise ApiError(403, f"The policy does not allow you {rule}.", "Ask for the role that it wants.")
        return context

    # ------------------------------------------------------------ helpers

    def _service(self, asked: Asked, name: str) -> dict[str, Any]:
        for one in views.services(self._call(asked, "guest_status"), asked.server.flavor_services):
            if one["name"] == name:
                return one
        raise ApiError(404, f"Server {asked.server.id} has no service {name[:64]!r}.")

    def _require_addable(self, asked: Asked, name: str) -> None:
        addable = self._conf.layers.tenant_addable
        if name in addable or self._enforcer.authorize(policies.ANY_SERVICE, {"project_id": asked.server.project_id}, asked.context):
            return
        hint = f"Those that do: {', '.join(addable)}." if addable else "The operator allows none."
        raise ApiError(403, f"The service {name} does not come and go at a tenant's wish.", hint)


def _outcome(host: str, status: str, **more: str) -> dict[str, Any]:
    return {"host": host, "status": status, "name": "", "version": "", "vendor": "", "message": "", "hint": "", **more}


def _require_changeable(asked: Asked) -> None:
    require_unlocked(asked.server, _CHANGE)
    require_active(asked.server, _CHANGE)
