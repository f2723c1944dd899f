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
from collections.abc import Mapping
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from oslo_log import log as logging

from nova_mhv.api.errors import ApiError, no_server

LOG = logging.getLogger(__name__)

_HOST = "OS-EXT-SRV-ATTR:host"
_MICROVERSION = "2.47"  # the first that tells the flavor's extra specs


@dataclasses.dataclass(frozen=True)
class Server:
    id: str
    project_id: str
    host: str  # "" while it is on none
    status: str
    task: str  # "" while nothing is going on
    locked: bool
    extra_specs: Mapping[str, str]  # of its flavor

    @property
    def flavor_services(self) -> list[str]:
        return [name.strip() for name in self.extra_specs.get("mhv:services", "").split(",")]


class Servers:
    """Thread-safe. ``nova`` is a keystoneauth adapter whose user is allowed to see every server and its host."""

    def __init__(self, nova: Any) -> None:
        self._nova = nova

    def get(self, server_id: str) -> Server:
        """Raises ApiError: 404, or 503 when Nova cannot be asked."""
        response = self._get(f"/servers/{server_id}")
        if response.status_code == 404:
            raise no_server(server_id)
        _require_200(response, f"server {server_id}")
        found = response.json()["server"]
        if _HOST not in found or "extra_specs" not in found.get("flavor", {}):
            LOG.error("Nova does not tell hosts and extra specs of servers to the user of [nova]: give it the admin role")
            raise _unavailable()
        return Server(
            id=found["id"],
            project_id=found["tenant_id"],
            host=found[_HOST] or "",
            status=found["status"],
            task=found.get("OS-EXT-STS:task_state") or "",
            locked=bool(found.get("locked")),
            extra_specs=found["flavor"]["extra_specs"],
        )

    def hosts(self) -> list[str]:
        """The compute hosts that are up. Raises ApiError 503."""
        response = self._get("/os-services?binary=nova-compute")
        _require_200(response, "the compute hosts")
        return sorted(one["host"] for one in response.json()["services"] if one["state"] == "up")

    def _get(self, path: str) -> Any:
        try:
            return self._nova.get(path, microversion=_MICROVERSION, raise_exc=False)
        except ks_exceptions.ClientException as error:
            LOG.error("Nova could not be asked for %s: %s", path, error)
            raise _unavailable() from error


def _require_200(response: Any, what: str) -> None:
    if response.status_code != 200:
        LOG.error("Nova answered %s for %s: %.500s", response.status_code, what, response.text)
        raise _unavailable()


def _unavailable() -> ApiError:
    return ApiError(503, "The compute service could not be asked.", "Try again later.")


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
