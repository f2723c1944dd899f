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


"""What the resources below ``/v1/servers/{server_id}`` have in common.

Every one of them looks the server up in Nova first, then asks the policy with
the server's project as the target: nobody learns that a server of somebody
else exists.
"""

import dataclasses
from typing import Any

import oslo_messaging as messaging
import webob
from oslo_context import context as oslo_context
from oslo_log import log as logging
from oslo_policy import policy

from nova_mhv.api import errors, requests
from nova_mhv.api.errors import ApiError
from nova_mhv.api.servers import Server, Servers
from nova_mhv.rpc import AgentClient, AgentError

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request whose requester may do what he asks for, to this server."""

    context: oslo_context.RequestContext
    server: Server
    url: str  # of the server, below this API


class ServerResource:
    """Thread-safe."""

    def __init__(self, servers: Servers, agents: AgentClient, enforcer: policy.Enforcer) -> None:
        self._servers = servers
        self._agents = agents
        self._enforcer = enforcer

    def _allow(self, request: webob.Request, rule: str, server_id: str) -> Asked:
        canonical = requests.canonical_uuid(server_id)
        if canonical is None:
            raise errors.no_server(server_id)
        context = oslo_context.RequestContext.from_environ(request.environ)
        server = self._servers.get(canonical)
        if not self._enforcer.authorize(rule, {"project_id": server.project_id}, context):
            if context.project_id != server.project_id:
                raise errors.no_server(server_id)
            raise ApiError(403, f"The policy does not allow you {rule}.", "Ask for the role that it wants.")
        return Asked(context, server, f"{request.application_url.rstrip('/')}/v1/servers/{server.id}")

    def _call(self, asked: Asked, method: str, **arguments: Any) -> Any:
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
