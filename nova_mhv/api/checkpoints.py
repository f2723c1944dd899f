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

"""The resources below ``/v1/servers/{server_id}``. Each method answers one route.

Every one of them looks the server up in Nova first, then asks the policy with
the server's project as the target: nobody learns that a server of somebody
else exists.
"""

import dataclasses
import urllib.parse
from typing import Any

import oslo_messaging as messaging
import webob
from oslo_context import context as oslo_context
from oslo_log import log as logging
from oslo_policy import policy

from nova_mhv import policies
from nova_mhv.api import errors, requests, views
from nova_mhv.api.errors import ApiError
from nova_mhv.api.servers import Server, Servers, require_active, require_unlocked
from nova_mhv.rpc import AgentClient, AgentError

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A request whose requester may do what he asks for, to this server."""

    context: oslo_context.RequestContext
    server: Server
    url: str  # of the server, below this API


class Checkpoints:
    """Thread-safe."""

    def __init__(self, servers: Servers, agents: AgentClient, enforcer: policy.Enforcer, max_limit: int) -> None:
        self._servers = servers
        self._agents = agents
        self._enforcer = enforcer
        self._max_limit = max_limit

    # ------------------------------------------------------------ routes

    def index(self, request: webob.Request, server_id: str) -> webob.Response:
        marker, limit = requests.page(request, self._max_limit)
        asked = self._allow(request, policies.LIST, server_id)
        try:
            found = self._call(asked, "checkpoint_list", marker=marker, limit=limit)
        except ApiError as error:
            if error.status == 404 and marker:
                raise ApiError(400, f"The marker {marker} is not a checkpoint of server {asked.server.id}.") from error
            raise
        checkpoints = [views.checkpoint(entry, asked.url) for entry in found["checkpoints"]]
        body: dict[str, Any] = {"checkpoints": checkpoints}
        if found["more"] and checkpoints:
            query = urllib.parse.urlencode({"limit": limit, "marker": checkpoints[-1]["id"]})
            body["checkpoints_links"] = [{"rel": "next", "href": f"{asked.url}/checkpoints?{query}"}]
        return webob.Response(json_body=body)

    def create(self, request: webob.Request, server_id: str) -> webob.Response:
        name = requests.checkpoint_name(request)
        asked = self._allow(request, policies.CREATE, server_id)
        require_active(asked.server, "checkpoint")
        return self._operation(asked, "checkpoint_create", name=name)

    def verify(self, request: webob.Request, server_id: str) -> webob.Response:
        requests.json_body(request, requests.EMPTY, optional=True)
        return self._operation(self._allow(request, policies.VERIFY, server_id), "checkpoint_verify")

    def show(self, request: webob.Request, server_id: str, checkpoint_id: str) -> webob.Response:
        asked = self._allow(request, policies.SHOW, server_id)
        found = self._call(asked, "checkpoint_show", checkpoint_id=_checkpoint(checkpoint_id, asked))
        return webob.Response(json_body={"checkpoint": views.checkpoint(found, asked.url)})

    def delete(self, request: webob.Request, server_id: str, checkpoint_id: str) -> webob.Response:
        asked = self._allow(request, policies.DELETE, server_id)
        self._call(asked, "checkpoint_delete", checkpoint_id=_checkpoint(checkpoint_id, asked))
        return webob.Response(status=204, content_type=None)

    def restore(self, request: webob.Request, server_id: str, checkpoint_id: str) -> webob.Response:
        requests.json_body(request, requests.EMPTY, optional=True)
        asked = self._allow(request, policies.RESTORE, server_id)
        checkpoint_id = _checkpoint(checkpoint_id, asked)
        require_unlocked(asked.server, "restore")
        require_active(asked.server, "restore")
        return self._operation(asked, "checkpoint_restore", checkpoint_id=checkpoint_id)

    def export(self, request: webob.Request, server_id: str, checkpoint_id: str) -> webob.Response:
        requests.json_body(request, requests.EMPTY, optional=True)
        asked = self._allow(request, policies.EXPORT, server_id)
        return self._operation(asked, "checkpoint_export", checkpoint_id=_checkpoint(checkpoint_id, asked))

    def operation(self, request: webob.Request, server_id: str, operation_id: str) -> webob.Response:
        asked = self._allow(request, policies.OPERATION, server_id)
        found = self._call(asked, "operation_show", operation_id=operation_id[:64])
        return webob.Response(json_body={"operation": views.operation(found, asked.url)})

    def services(self, request: webob.Request, server_id: str) -> webob.Response:
        asked = self._allow(request, policies.SERVICES, server_id)
        return webob.Response(json_body={"services": views.guest(self._call(asked, "guest_status"))})

    # ------------------------------------------------------------ helpers

    def _allow(self, request: webob.Request, rule: str, server_id: str) -> _Asked:
        canonical = requests.canonical_uuid(server_id)
        if canonical is None:
            raise errors.no_server(server_id)
        context = oslo_context.RequestContext.from_environ(request.environ)
        server = self._servers.get(canonical)
        if not self._enforcer.authorize(rule, {"project_id": server.project_id}, context):
            if context.project_id != server.project_id:
                raise errors.no_server(server_id)
            raise ApiError(403, f"The policy does not allow you {rule}.", "Ask for the role that it wants.")
        return _Asked(context, server, f"{request.application_url.rstrip('/')}/v1/servers/{server.id}")

    def _operation(self, asked: _Asked, method: str, **arguments: Any) -> webob.Response:
        found = views.operation(self._call(asked, method, **arguments), asked.url)
        location = f"{asked.url}/operations/{found['id']}"
        return webob.Response(status=202, json_body={"operation": found}, headers={"Location": location})

    def _call(self, asked: _Asked, method: str, **arguments: Any) -> Any:
        server = asked.server
        if not server.host:
            raise ApiError(409, f"Server {server.id} is on no host: its status is {server.status}.")
        try:
            return self._agents.call(asked.context, server.host, method, server_id=server.id, **arguments)
        except AgentError as error:
            raise errors.from_agent(error) from error
        except (messaging.MessagingTimeout, messaging.MessageDeliveryFailure) as error:
            LOG.error("mhv-agent on host %s does not answer %s: %s", server.host, method, error)
            raise ApiError(
                503,
                "The agent on the host of this server does not answer.",
                "Try again later; the operator finds the host's name in the log of mhv-api.",
            ) from error


def _checkpoint(checkpoint_id: str, asked: _Asked) -> str:
    canonical = requests.canonical_uuid(checkpoint_id)
    if canonical is None:
        raise errors.no_checkpoint(checkpoint_id, asked.server.id)
    return canonical
