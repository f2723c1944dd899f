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

"""The checkpoints of a server and the operations on them. Each method answers one route."""

import urllib.parse
from typing import Any

import webob
from oslo_policy import policy

from nova_mhv import policies
from nova_mhv.api import errors, requests, views
from nova_mhv.api.errors import ApiError
from nova_mhv.api.resource import Asked, ServerResource
from nova_mhv.api.servers import Servers, require_active, require_unlocked
from nova_mhv.rpc import AgentClient


class Checkpoints(ServerResource):
    """Thread-safe."""

    def __init__(self, servers: Servers, agents: AgentClient, enforcer: policy.Enforcer, max_limit: int) -> None:
        super().__init__(servers, agents, enforcer)
        self._max_limit = max_limit

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

    def _operation(self, asked: Asked, method: str, **arguments: Any) -> webob.Response:
        found = views.operation(self._call(asked, method, **arguments), asked.url)
        location = f"{asked.url}/operations/{found['id']}"
        return webob.Response(status=202, json_body={"operation": found}, headers={"Location": location})


def _checkpoint(checkpoint_id: str, asked: Asked) -> str:
    canonical = requests.canonical_uuid(checkpoint_id)
    if canonical is None:
        raise errors.no_checkpoint(checkpoint_id, asked.server.id)
    return canonical
