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

"""What arrives, checked: bodies, queries and ids. Everything wrong is an ApiError that says what."""

import uuid
from typing import Any

import jsonschema
import webob

from nova_mhv import layers
from nova_mhv.api.errors import ApiError

BODY_BYTES_MAX = 64 << 10
NAME_BYTES_MAX = 255

# No control characters, no half of a surrogate pair.
_TEXT = {
    "type": "string",
    "maxLength": NAME_BYTES_MAX,
    "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029\\ud800-\\udfff]*\\Z",
    "description": "it has control characters.",
}

CREATE = {
    "type": "object",
    "properties": {
        "checkpoint": {
            "type": "object",
            "properties": {
                "name": _TEXT,
            },
            "additionalProperties": False,
        },
    },
    "required": ["checkpoint"],
    "additionalProperties": False,
}

ADD_SERVICE = {
    "type": "object",
    "properties": {
        "service": {
            "type": "object",
            "properties": {
                "name": {
                    "type": "string",
                    "pattern": f"^{layers.NAME.pattern}\\Z",
                    "description": "it is no name of a service.",
                },
                "configuration": {"type": "object"},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["service"],
    "additionalProperties": False,
}

CALL = {
    "type": "object",
    "properties": {
        "call": {
            "type": "object",
            "properties": {"method": {**_TEXT, "minLength": 1}, "arguments": {"type": "object"}},
            "required": ["method"],
            "additionalProperties": False,
        },
    },
    "required": ["call"],
    "additionalProperties": False,
}

INSTALL = {
    "type": "object",
    "properties": {
        "service": {
            "type": "object",
            "properties": {
                "image_id": {
                    "type": "string",
                    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\\Z",
                    "description": "it is no id of an image.",
                },
                "hosts": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
            },
            "required": ["image_id"],
            "additionalProperties": False,
        },
    },
    "required": ["service"],
    "additionalProperties": False,
}

EMPTY = {"type": "object", "maxProperties": 0}


def json_body(request: webob.Request, schema: dict[str, Any], optional: bool = False) -> dict[str, Any]:
    """``optional``: no body at all is ``{}``."""
    raw = _read(request)
    if not raw and optional:
        return {}
    if request.content_type != "application/json":
        raise ApiError(415, "The body has to be JSON.", "Send Content-Type: application/json.")
    try:
        body = layers.parse_json(raw.decode())
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}"[:300]) from error
    problem = next(jsonschema.Draft202012Validator(schema).iter_errors(body), None)
    if problem is not None:
        raise ApiError(400, f"The body is wrong at {_path(problem)}: {_why(problem)}")
    return body


def _read(request: webob.Request) -> bytes:
    if (request.content_length or 0) <= BODY_BYTES_MAX:
        raw = request.body_file.read(BODY_BYTES_MAX + 1) if request.is_body_readable else b""
        if len(raw) <= BODY_BYTES_MAX:
            return raw
    # The rest is not read: the connection is of no further use.
    raise ApiError(
        413, f"The body is too large: at most {BODY_BYTES_MAX} bytes are read.", headers={"Connection": "close"}
    )


def _path(problem: jsonschema.ValidationError) -> str:
    return "/" + "/".join(str(step)[:64] for step in problem.absolute_path)


def _why(problem: jsonschema.ValidationError) -> str:
    # The library's own texts repeat the value, whatever its size.
    match problem.validator:
        case "type":
            return f"it has to be of type {problem.validator_value}."
        case "maxLength":
            return f"it has more than {problem.validator_value} characters."
        case "pattern":
            return problem.schema["description"]
        case "required":
            missing = [name for name in problem.validator_value if name not in problem.instance]
            return f"the field {missing[0]!r} is missing."
        case "additionalProperties" | "maxProperties":
            known = problem.schema.get("properties", {})
            unknown = sorted(set(problem.instance) - set(known))
            return f"the field {unknown[0][:64]!r} is not known; known are: {', '.join(known) or 'none'}."
    return problem.message[:300]


def checkpoint_name(request: webob.Request) -> str:
    """The name in the body of a create; "" when it has none."""
    name = json_body(request, CREATE)["checkpoint"].get("name", "")
    # The schema counts characters, the engine bytes.
    if len(name.encode()) > NAME_BYTES_MAX:
        raise ApiError(400, f"The body is wrong at /checkpoint/name: it has more than {NAME_BYTES_MAX} bytes in UTF-8.")
    return name


def page(request: webob.Request, max_limit: int) -> tuple[str, int]:
    """(marker, limit) of a list; the marker is "" for the beginning."""
    query = _query(request, ("limit", "marker"))
    marker = query.get("marker", "")
    if marker:
        marker = canonical_uuid(marker) or ""
        if not marker:
            raise ApiError(400, f"The marker {query['marker'][:64]!r} is not the id of a checkpoint.")
    limit = query.get("limit")
    if limit is None:
        return marker, max_limit
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and int(limit) > 0):
        raise ApiError(400, f"The limit {limit[:64]!r} is not a positive number.")
    return marker, min(int(limit), max_limit)


def number(request: webob.Request, name: str, largest: int) -> int | None:
    """Of the one query parameter that there may be; None without it."""
    value = _query(request, (name,)).get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 20 and int(value) <= largest):
        raise ApiError(400, f"The {name} {value[:64]!r} is not a number from 0 to {largest}.")
    return int(value)


def no_query(request: webob.Request) -> None:
    _query(request, ())


def _query(request: webob.Request, known: tuple[str, ...]) -> Any:
    unknown = sorted(set(request.GET) - set(known))
    if unknown:
        names = ", ".join(known) or "none"
        raise ApiError(400, f"The query parameter {unknown[0][:64]!r} is not known; known are: {names}.")
    for name in known:
        if len(request.GET.getall(name)) > 1:
            raise ApiError(400, f"The query parameter {name!r} is given more than once.")
    return request.GET


def canonical_uuid(value: str) -> str | None:
    """The id in lower case, or None: then nothing can have it."""
    try:
        return str(uuid.UUID(value)) if len(value) == 36 else None
    except ValueError:
        return None
