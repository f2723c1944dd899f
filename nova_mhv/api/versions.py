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

"""The version document, and the microversion of a request.

A client asks for one with the header ``OpenStack-API-Version:
hypervisor-service 1.0`` or ``... latest``; without the header it gets the
lowest.

===  ========================================================================
1.0  Checkpoints, operations, the services of a server as one object
1.1  Services that are layers: added, removed and configured one by one, with
     their state; introspection, alerts, the services of the cloud
1.2  Services are asked, and installed on hosts
===  ========================================================================
"""

import re

import webob

from nova_mhv.api.errors import ApiError

SERVICE_TYPE = "hypervisor-service"
HEADER = "OpenStack-API-Version"
MIN = (1, 0)
MAX = (1, 2)
LAYERS = (1, 1)
PACKAGES = (1, 2)

_ENVIRON = "mhv.version"
_FORM = re.compile(r"([1-9]\d{0,3})\.(0|[1-9]\d{0,3})", re.ASCII)


def text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def negotiate(request: webob.Request) -> tuple[int, int]:
    """Raises ApiError 400 for what is no version, 406 for one out of range. ``of`` then knows it."""
    version = request.environ[_ENVIRON] = _negotiated(request)
    return version


def of(request: webob.Request) -> tuple[int, int]:
    return request.environ.get(_ENVIRON, MIN)


def _negotiated(request: webob.Request) -> tuple[int, int]:
    asked = _asked(request.headers.get(HEADER, ""))
    if asked is None:
        return MIN
    if asked == "latest":
        return MAX
    match = _FORM.fullmatch(asked)
    if not match:
        raise ApiError(400, f"{asked[:32]!r} is no version of {SERVICE_TYPE}.", "Versions look like 1.0.")
    version = (int(match[1]), int(match[2]))
    if not MIN <= version <= MAX:
        raise ApiError(406, f"Version {asked} of {SERVICE_TYPE} is not supported.", f"Use {text(MIN)} to {text(MAX)}.")
    return version


def _asked(header: str) -> str | None:
    for part in header.split(","):
        words = part.split()
        if words and words[0] == SERVICE_TYPE:
            if len(words) != 2:
                raise ApiError(400, f"The header {HEADER} has to read '{SERVICE_TYPE} VERSION'.")
            return words[1]
    return None


def document(request: webob.Request) -> dict[str, object]:
    return {
        "id": "v1.0",
        "status": "CURRENT",
        "version": text(MAX),
        "max_version": text(MAX),
        "min_version": text(MIN),
        "links": [{"rel": "self", "href": f"{request.application_url.rstrip('/')}/v1/"}],
    }
