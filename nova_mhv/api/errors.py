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

"""Errors as OpenStack's compute API writes them: ``{"itemNotFound": {"code": 404, "message": ...}}``.

``hint``, beside the message where there is one, says what to do next.
"""

import webob

from nova_mhv.rpc import AgentError

_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    500: "hypervisorServiceFault",
    503: "serviceUnavailable",
    507: "insufficientStorage",
}

# What the engine's codes are in HTTP. The others are faults of the service, not of the request.
_STATUS_OF_CODE = {
    "invalid": 400,
    "permission": 403,
    "not-found": 404,
    "no-service": 409,
    "exists": 409,
    "unsupported": 409,
    "busy": 409,
    "gone": 409,
    "no-space": 507,
    "unavailable": 503,
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.headers = headers or {}

    def response(self) -> webob.Response:
        body: dict[str, object] = {"code": self.status, "message": self.message}
        if self.hint:
            body["hint"] = self.hint
        response = webob.Response(status=self.status, json_body={_NAMES[self.status]: body})
        response.headers.update(self.headers)
        return response


def from_agent(error: AgentError) -> ApiError:
    return ApiError(_STATUS_OF_CODE.get(error.code, 500), error.message, error.hint)


def no_server(server_id: str) -> ApiError:
    """The same for a server that is not there and for one of somebody else."""
    return ApiError(404, f"Server {server_id[:64]} could not be found.")


def no_checkpoint(checkpoint_id: str, server_id: str) -> ApiError:
    return ApiError(404, f"Server {server_id} has no checkpoint {checkpoint_id[:64]}.")
