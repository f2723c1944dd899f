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

"""Servers, as Nova tells them to the service's own user."""

import dataclasses
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from oslo_log import log as logging

from nova_mhv.api.errors import ApiError, no_server

LOG = logging.getLogger(__name__)

_HOST = "OS-EXT-SRV-ATTR:host"
_MICROVERSION = "2.9"  # the first that tells `locked`


@dataclasses.dataclass(frozen=True)
class Server:
    id: str
    project_id: str
    host: str  # "" while it is on none
    status: str
    task: str  # "" while nothing is going on
    locked: bool


class Servers:
    """Thread-safe. ``nova`` is a keystoneauth adapter whose user is allowed to see every server and its host."""

    def __init__(self, nova: Any) -> None:
        self._nova = nova

    def get(self, server_id: str) -> Server:
        """Raises ApiError: 404, or 503 when Nova cannot be asked."""
        try:
            response = self._nova.get(f"/servers/{server_id}", microversion=_MICROVERSION, raise_exc=False)
        except ks_exceptions.ClientException as error:
            LOG.error("Nova could not be asked for server %s: %s", server_id, error)
            raise _unavailable() from error
        if response.status_code == 404:
            raise no_server(server_id)
        if response.status_code != 200:
            LOG.error("Nova answered %s for server %s: %.500s", response.status_code, server_id, response.text)
            raise _unavailable()
        found = response.json()["server"]
        if _HOST not in found:
            LOG.error("Nova does not tell the hosts of servers to the user of [nova]: give it the admin role")
            raise _unavailable()
        return Server(
            id=found["id"],
            project_id=found["tenant_id"],
            host=found[_HOST] or "",
            status=found["status"],
            task=found.get("OS-EXT-STS:task_state") or "",
            locked=bool(found.get("locked")),
        )


def _unavailable() -> ApiError:
    return ApiError(503, "The compute service could not be asked for the server.", "Try again later.")


def require_active(server: Server, action: str) -> None:
    """Raises ApiError 409: only what runs, and is not being changed by Nova, can be frozen or put back."""
    if server.status != "ACTIVE":
        raise ApiError(
            409,
            f"Cannot {action} server {server.id} while it is in status {server.status}: it has to be ACTIVE.",
            "Start it, or wait until the action on it is over.",
        )
    if server.task:
        raise ApiError(
            409,
            f"Cannot {action} server {server.id} while the compute service works on it (task: {server.task}).",
            "Wait until the action on it is over.",
        )


def require_unlocked(server: Server, action: str) -> None:
    if server.locked:
        raise ApiError(409, f"Cannot {action} server {server.id} while it is locked.", "Unlock the server first.")
