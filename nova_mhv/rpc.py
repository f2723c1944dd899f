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

"""RPC between mhv-api and the agents: topic ``mhv-agent``, one server per compute host.

Version 1.2. Every method takes ``server_id``, but for those of the host itself
(``host_services``, ``layer_install``); errors cross as ``AgentError`` alone, whose code is one of the engine's, or
``no-service``: this host's engine knows no such guest, or the guest has not
got what is asked for.
"""

from typing import Any

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_context import context as oslo_context

TOPIC = "mhv-agent"
VERSION = "1.2"

_SEND_RETRIES = 3

# What came after 1.0: an older agent is asked for everything else as before.
_SINCE = dict.fromkeys(("service_add", "service_remove", "introspect", "alert_list", "host_services"), "1.1")
_SINCE |= dict.fromkeys(("service_call", "layer_install"), "1.2")
# A deletion gives disk space back, a service has to start, a package has to come, which takes its time: it may last as long as the
# agent's heartbeats come.
_SLOW = frozenset({"checkpoint_delete", "service_add", "service_remove", "layer_install"})


class AgentError(Exception):
    """What failed, and what to do next. ``args`` are all it is made of, so that it can be sent."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ContextSerializer(messaging.NoOpSerializer):
    """Sends who asks, never the token with which he asks."""

    def serialize_context(self, context: oslo_context.RequestContext) -> dict[str, Any]:
        values = context.to_dict()
        values.pop("auth_token", None)
        return values

    def deserialize_context(self, context: dict[str, Any]) -> oslo_context.RequestContext:
        return oslo_context.RequestContext.from_dict(context)


def get_transport(conf: cfg.ConfigOpts) -> Any:
    return messaging.get_rpc_transport(conf, allowed_remote_exmods=[__name__])


def get_server(transport: Any, host: str, endpoints: list[Any]) -> Any:
    target = messaging.Target(topic=TOPIC, server=host)
    return messaging.get_rpc_server(transport, target, endpoints, serializer=ContextSerializer())


class AgentClient:
    """Calls the agent of one host. Thread-safe."""

    def __init__(self, conf: cfg.ConfigOpts, transport: Any) -> None:
        self._timeout_s = conf.api.rpc_timeout_s
        self._slow_timeout_s = conf.api.delete_timeout_s
        target = messaging.Target(topic=TOPIC, version="1.0")
        # A bus that is down is an answer too, not a wait for ever.
        self._client = messaging.get_rpc_client(transport, target, serializer=ContextSerializer(), retry=_SEND_RETRIES)

    def call(self, context: oslo_context.RequestContext, host: str, method: str, **arguments: Any) -> Any:
        """Raises AgentError, or messaging.MessagingTimeout and MessageDeliveryFailure when there is no agent."""
        version = _SINCE.get(method, "1.0")
        if method in _SLOW:
            client = self._client.prepare(
                server=host,
                version=version,
                timeout=self._slow_timeout_s,
                call_monitor_timeout=self._timeout_s,
            )
        else:
            client = self._client.prepare(server=host, version=version, timeout=self._timeout_s)
        try:
            return client.call(context, method, **arguments)
        except (messaging.UnsupportedVersion, messaging.RemoteError) as error:
            if isinstance(error, messaging.RemoteError) and error.exc_type != "UnsupportedVersion":
                raise
            message = "The agent on the host is of an older release."
            raise AgentError("unavailable", message, "The operator has to update it.") from error
