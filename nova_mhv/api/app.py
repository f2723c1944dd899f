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

"""The WSGI application: routes, errors and headers, with authentication in front of what is about a server.

request id -> proxy headers -> /healthcheck -> negotiation, errors -> versions
                                                                   -> auth_token -> routes of resources
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import webob
import webob.dec
from keystonemiddleware import auth_token
from oslo_config import cfg
from oslo_log import log as logging
from oslo_middleware import healthcheck, http_proxy_to_wsgi, request_id

from nova_mhv import conf as mhv_conf
from nova_mhv import policies, rpc
from nova_mhv.api import versions
from nova_mhv.api.checkpoints import Checkpoints
from nova_mhv.api.errors import ApiError
from nova_mhv.api.servers import Servers
from nova_mhv.api.services import Services
from nova_mhv.conf import api as api_conf

LOG = logging.getLogger(__name__)

CONFIG_DIR_VARIABLES = ("MHV_API_CONFIG_DIR", "OS_MHV_CONFIG_DIR")
CONFIG_DIR = "/etc/nova-mhv"
CONFIG_FILE = "mhv-api.conf"

_SERVER = "/v1/servers/(?P<server_id>[^/]+)"

Handler = Callable[..., webob.Response]
Route = tuple[str, re.Pattern[str], Handler, tuple[int, int]]  # with the version that it came with


def load_config(environ: Any = os.environ, conf: cfg.ConfigOpts = cfg.CONF) -> cfg.ConfigOpts:
    """Reads mhv-api.conf; the arguments of the process belong to the WSGI server and are left alone.

    ``conf`` is the process's: parts of oslo.messaging know only the global configuration.
    """
    folder = next((environ[name] for name in CONFIG_DIR_VARIABLES if environ.get(name)), CONFIG_DIR)
    logging.register_options(conf)
    api_conf.register_opts(conf)
    conf([], project=mhv_conf.PROJECT, prog="mhv-api", default_config_files=[os.path.join(folder, CONFIG_FILE)])
    logging.setup(conf, "nova_mhv")
    return conf


def make_application(conf: cfg.ConfigOpts) -> Any:
    servers = Servers(mhv_conf.keystone_adapter(conf, "nova"))
    agents = rpc.AgentClient(conf, rpc.get_transport(conf))
    enforcer = policies.make_enforcer(conf)
    checkpoints = Checkpoints(servers, agents, enforcer, conf.api.max_limit)
    return make_pipeline(conf, checkpoints, Services(servers, agents, enforcer, conf))


def make_pipeline(conf: cfg.ConfigOpts, checkpoints: Checkpoints, services: Services) -> Any:
    routes = _routes(versions.MIN, _checkpoint_routes(checkpoints)) + _service_routes(services)
    resources = auth_token.AuthProtocol(Router(routes), {"oslo_config_config": conf})
    documents = Router(_version_routes())
    public = {"": documents, "/v1": documents, "/healthcheck": healthcheck.Healthcheck(None, conf)}
    return request_id.RequestId(http_proxy_to_wsgi.HTTPProxyToWSGI(Front(public, resources), conf))


def _version_routes() -> list[Route]:
    def root(request: webob.Request) -> webob.Response:
        return webob.Response(json_body={"versions": [versions.document(request)]})

    def v1(request: webob.Request) -> webob.Response:
        return webob.Response(json_body={"version": versions.document(request)})

    return _routes(versions.MIN, [("GET", "/?", root), ("GET", "/v1/?", v1)])


def _routes(since: tuple[int, int], table: list[tuple[str, str, Handler]]) -> list[Route]:
    return [(method, re.compile(pattern), handler, since) for method, pattern, handler in table]


def _checkpoint_routes(checkpoints: Checkpoints) -> list[tuple[str, str, Handler]]:
    many = _SERVER + "/checkpoints"
    one = many + "/(?P<checkpoint_id>[^/]+)"
    return [
        ("GET", many, checkpoints.index),
        ("POST", many, checkpoints.create),
        ("POST", many + "/verify", checkpoints.verify),
        ("GET", one, checkpoints.show),
        ("DELETE", one, checkpoints.delete),
        ("POST", one + "/restore", checkpoints.restore),
        ("POST", one + "/export", checkpoints.export),
        ("GET", _SERVER + "/operations/(?P<operation_id>[^/]+)", checkpoints.operation),
    ]


def _service_routes(services: Services) -> list[Route]:
    many = _SERVER + "/services"
    one = many + "/(?P<name>[^/]+)"
    table: list[tuple[str, str, Handler]] = [
        ("POST", many, services.add),
        ("GET", one, services.show),
        ("DELETE", one, services.remove),
        ("GET", _SERVER + "/introspection/(?P<kind>[^/]+)", services.introspect),
        ("GET", _SERVER + "/alerts", services.alerts),
        ("GET", "/v1/services", services.cloud),
    ]
    later: list[tuple[str, str, Handler]] = [("POST", one + "/call", services.call), ("POST", "/v1/services", services.install)]
    return (
        _routes(versions.MIN, [("GET", many, services.index)])
        + _routes(versions.LAYERS, table)
        + _routes(versions.PACKAGES, later)
    )


class Front:
    """Negotiates the version and sends the request where it belongs; whatever it answers has the version header."""

    def __init__(self, public: dict[str, Any], private: Any) -> None:
        self._public = public
        self._private = private

    @webob.dec.wsgify
    def __call__(self, request: webob.Request) -> webob.Response:
        version = versions.MIN
        try:
            version = versions.negotiate(request)
            response = request.get_response(self._public.get(request.path_info.rstrip("/"), self._private))
        except ApiError as error:
            response = error.response()
        except UnicodeDecodeError:
            response = ApiError(400, "The URL is not valid UTF-8.").response()
        response.headers[versions.HEADER] = f"{versions.SERVICE_TYPE} {versions.text(version)}"
        response.vary = (*(response.vary or ()), versions.HEADER)
        return response


class Router:
    """Answers the first route that matches; 404, and 405 where another method would match."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = list(routes)

    @webob.dec.wsgify
    def __call__(self, request: webob.Request) -> webob.Response:
        try:
            return self._dispatch(request)
        except ApiError as error:
            return error.response()
        except UnicodeDecodeError:
            return ApiError(400, "The URL is not valid UTF-8.").response()
        except Exception:
            LOG.exception("%s %s failed", request.method, request.path)
            message = "An unexpected error happened; the log of mhv-api tells more."
            return ApiError(500, message, "Give the operator the request's id.").response()

    def _dispatch(self, request: webob.Request) -> webob.Response:
        allowed = []
        for method, pattern, handler, since in self._routes:
            match = pattern.fullmatch(request.path_info) if versions.of(request) >= since else None
            if match and method == request.method:
                return handler(request, **match.groupdict())
            if match:
                allowed.append(method)
        if allowed:
            methods = ", ".join(sorted(set(allowed)))
            raise ApiError(405, f"This resource does not know {request.method[:16]}.", headers={"Allow": methods})
        raise ApiError(404, "There is no such resource.", "GET / tells the versions of this API: a later one may have it.")
