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

"""mhv-agent as a service: its RPC server and what that needs, and the watch over alerts."""

import threading

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import service

from nova_mhv import conf as mhv_conf
from nova_mhv import engine, notifications, rpc
from nova_mhv.agent.alerts import AlertWatch
from nova_mhv.agent.endpoint import AgentEndpoint
from nova_mhv.agent.export import GlanceExporter
from nova_mhv.agent.operations import Operations
from nova_mhv.agent.packages import GlancePackages

LOG = logging.getLogger(__name__)


class AgentService(service.ServiceBase):
    """``wait`` returns after ``stop``, which waits for the running operations a while."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._stopped = threading.Event()
        self._operations = Operations(conf.agent.max_operations, conf.agent.operations_kept)
        notifier = notifications.Notifier(conf)

        def connect() -> engine.Client:
            return engine.Client(conf.agent.socket)

        self._alerts = AlertWatch(connect, notifier.alert)
        glance = mhv_conf.keystone_adapter(conf, "glance")
        endpoint = AgentEndpoint(
            connect=connect,
            operations=self._operations,
            notifier=notifier,
            exporter=GlanceExporter(glance, conf.agent.export_dir),
            packages=GlancePackages(glance, conf.agent.export_dir),
        )
        self._server = rpc.get_server(rpc.get_transport(conf), conf.host, [endpoint])

    def start(self) -> None:
        self._server.start()
        self._alerts.start()
        LOG.info("mhv-agent serves host %s with the engine at %s", self._conf.host, self._conf.agent.socket)

    def stop(self, graceful: bool = True) -> None:
        self._server.stop()
        self._server.wait()
        self._alerts.stop()
        if not self._operations.stop(self._conf.agent.shutdown_timeout_s):
            LOG.warning("Operations are still running: the engine ends them without the agent")
        self._stopped.set()

    def wait(self) -> None:
        self._stopped.wait()

    def reset(self) -> None:
        pass
