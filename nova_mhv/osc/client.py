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

"""The hypervisor service's API, through a keystoneauth session."""

import builtins
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from osc_lib import exceptions

from nova_mhv.osc.escape import escaped

SERVICE_TYPE = "hypervisor-service"

_POLL_S_FIRST = 0.1
_POLL_S_MAX = 2.0


class Client:
    """Every method raises osc_lib's CommandError with what failed and what to do next."""

    def __init__(self, session: Any, endpoint_filter: dict[str, Any], version: str) -> None:
        self._session = session
        self._filter = endpoint_filter
        self._version = "1.0" if version == "1" else version
        self._base = ""

    def create(self, server_id: str, name: str) -> dict[str, Any]:
        body = {"checkpoint": {"name": name} if name else {}}
        return self._request("POST", f"/servers/{server_id}/checkpoints", json=body)["operation"]

    def list(self, server_id: str) -> Iterator[dict[str, Any]]:
        url = f"/servers/{server_id}/checkpoints"
        while url:
            answer = self._request("GET", url)
            yield from answer["checkpoints"]
            links = answer.get("checkpoints_links") or []
            query = [urllib.parse.urlsplit(link["href"]).query for link in links if link["rel"] == "next"]
            url = f"/servers/{server_id}/checkpoints?{query[0]}" if query else ""

    def show(self, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        return self._request("GET", _checkpoint(server_id, checkpoint_id))["checkpoint"]

    def delete(self, server_id: str, checkpoint_id: str) -> None:
        self._request("DELETE", _checkpoint(server_id, checkpoint_id))

    def restore(self, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        return self._request("POST", _checkpoint(server_id, checkpoint_id) + "/restore")["operation"]

    def export(self, server_id: str, checkpoint_id: str) -> dict[str, Any]:
        return self._request("POST", _checkpoint(server_id, checkpoint_id) + "/export")["operation"]

    def verify(self, server_id: str) -> dict[str, Any]:
        return self._request("POST", f"/servers/{server_id}/checkpoints/verify")["operation"]

    def operation(self, server_id: str, operation_id: str) -> dict[str, Any]:
        path = f"/servers/{server_id}/operations/{urllib.parse.quote(operation_id, safe='')}"
        return self._request("GET", path)["operation"]

    def introspect(self, server_id: str, kind: str, pid: int | None) -> Any:
        query = "" if pid is None else f"?pid={pid}"
        return self._request("GET", f"/servers/{server_id}/introspection/{kind}{query}")[kind]

    def services(self, server_id: str) -> dict[str, Any]:
        return self._request("GET", f"/servers/{server_id}/services")["services"]

    def service(self, server_id: str, name: str) -> dict[str, Any]:
        return self._request("GET", _service(server_id, name))["service"]

    def add_service(self, server_id: str, name: str, configuration: dict[str, Any] | None) -> dict[str, Any]:
        body: dict[str, Any] = {"name": name}
        if configuration is not None:
            body["configuration"] = configuration
        return self._request("POST", f"/servers/{server_id}/services", json={"service": body})["service"]

    def remove_service(self, server_id: str, name: str) -> None:
        self._request("DELETE", _service(server_id, name))

    def call_service(self, server_id: str, name: str, method: str, arguments: dict[str, Any]) -> Any:
        body = {"call": {"method": method, "arguments": arguments}}
        return self._request("POST", _service(server_id, name) + "/call", json=body)["answer"]

    def alerts(self, server_id: str, after: int) -> builtins.list[dict[str, Any]]:
        return self._request("GET", f"/servers/{server_id}/alerts?after={after}")["alerts"]

    def cloud_services(self) -> builtins.list[dict[str, Any]]:
        return self._request("GET", "/services")["services"]

    def install_service(self, image_id: str, hosts: builtins.list[str]) -> builtins.list[dict[str, Any]]:
        """What became of it on each host; on all without ``hosts``."""
        body = {"image_id": image_id, **({"hosts": hosts} if hosts else {})}
        return self._request("POST", "/services", json={"service": body})["hosts"]

    def wait(
        self,
        operation: dict[str, Any],
        show: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Asks until the operation is over, calling ``show`` each time; returns its result."""
        pause_s = _POLL_S_FIRST
        while operation["status"] == "running":
            show(operation)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_S_MAX)
            operation = self.operation(operation["server_id"], operation["id"])
        if operation["status"] != "done":
            raise exceptions.CommandError(_text(operation.get("error") or {"message": "The operation failed."}))
        return operation["result"]

    def _request(self, method: str, path: str, **arguments: Any) -> Any:
        headers = {"OpenStack-API-Version": f"{SERVICE_TYPE} {self._version}", "Accept": "application/json"}
        try:
            url = self._endpoint() + path
            response = self._session.request(url, method, headers=headers, raise_exc=False, **arguments)
        except ks_exceptions.ClientException as error:
            raise exceptions.CommandError(f"The hypervisor service cannot be reached: {error}") from error
        if response.status_code >= 400:
            raise _error(response)
        return response.json() if response.content else None

    def _endpoint(self) -> str:
        """The catalog's endpoint with exactly one /v1, whether it was registered with it or without."""
        if not self._base:
            try:
                found = self._session.get_endpoint(**self._filter)
            except ks_exceptions.EndpointNotFound:
                found = None
            if not found:
                raise exceptions.CommandError(
                    f"The catalog has no endpoint of type {SERVICE_TYPE} (interface {self._filter['interface']}, "
                    f"region {self._filter['region_name'] or 'any'}). The operator has to register mhv-api there."
                )
            self._base = found.rstrip("/").removesuffix("/v1") + "/v1"
        return self._base


def _checkpoint(server_id: str, checkpoint_id: str) -> str:
    return f"/servers/{server_id}/checkpoints/{urllib.parse.quote(checkpoint_id, safe='')}"


def _service(server_id: str, name: str) -> str:
    return f"/servers/{server_id}/services/{urllib.parse.quote(name, safe='')}"


def _error(response: Any) -> Exception:
    try:
        # {"itemNotFound": {"code": 404, "message": ..., "hint": ...}}
        ((_, fault),) = response.json().items()
        text = _text(fault)
    except (ValueError, AttributeError, KeyError, TypeError):
        text = f"The hypervisor service answered HTTP {response.status_code}: {response.text[:500]}"
    request_id = response.headers.get("x-openstack-request-id")
    if response.status_code >= 500 and request_id:
        text += f" (Request-ID: {request_id})"
    return exceptions.CommandError(text)


def _text(fault: dict[str, Any]) -> str:
    """A service's own words may be in it."""
    parts = [fault["message"], *([fault["hint"]] if fault.get("hint") else [])]
    return "\n".join(escaped(part) for part in parts)
