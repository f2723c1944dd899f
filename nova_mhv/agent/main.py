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

"""mhv-agent: serves the requests of mhv-api on one compute host."""

import sys

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service.backend import BackendType, init_backend

from nova_mhv import conf as mhv_conf
from nova_mhv.conf import agent as agent_conf


def load_config(arguments: list[str], conf: cfg.ConfigOpts = cfg.CONF) -> cfg.ConfigOpts:
    """Of the process, unless ``conf`` is given: parts of oslo.messaging know only the global configuration."""
    logging.register_options(conf)
    agent_conf.register_opts(conf)
    conf(
        arguments,
        project=mhv_conf.PROJECT,
        prog="mhv-agent",
        description="Serves mhv-api's requests for the checkpoints of this compute host's servers.",
    )
    logging.setup(conf, "nova_mhv")
    return conf


def main() -> None:
    conf = load_config(sys.argv[1:])
    # Before anything imports oslo_service.service, whose classes are those of the backend.
    init_backend(BackendType.THREADING)
    from oslo_service import service

    from nova_mhv.agent.service import AgentService

    # no_fork: one process, so that a kill ends all of the agent.
    service.launch(conf, AgentService(conf), workers=1, no_fork=True).wait()


if __name__ == "__main__":
    main()
