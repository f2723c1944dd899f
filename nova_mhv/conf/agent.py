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

"""Options of mhv-agent."""

import socket

from oslo_config import cfg

from nova_mhv import conf as mhv_conf

DEFAULT_OPTS: list[cfg.Opt] = [
    cfg.HostAddressOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<this host's name>",
        help="Name of this compute host. It has to be the `host` of nova-compute: mhv-api finds the agent by it.",
    ),
]

AGENT_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("socket", default="/run/nova-mhv/mhvd.sock", help="Socket of mhvd."),
    cfg.StrOpt(
        "export_dir",
        default="/var/lib/nova-mhv/export",
        help="Folder of the unnamed temporary files of exports and of packages that are installed; needs room for the RAM of the "
        "largest server.",
    ),
    cfg.IntOpt(
        "max_operations",
        default=4,
        min=1,
        max=256,
        help="How many checkpoints, restores, exports and verifications run at the same time; the others wait.",
    ),
    cfg.IntOpt(
        "operations_kept",
        default=1000,
        min=1,
        max=100000,
        help="How many finished operations can still be asked for.",
    ),
    cfg.IntOpt(
        "shutdown_timeout_s",
        default=30,
        min=0,
        help="How long a SIGTERM waits for running operations. What it leaves running goes on in mhvd.",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(DEFAULT_OPTS)
    conf.register_opts(AGENT_OPTS, group="agent")
    mhv_conf.register_keystone(conf, "glance", "image", timeout_s=600)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [("DEFAULT", DEFAULT_OPTS), ("agent", AGENT_OPTS), ("glance", mhv_conf.keystone_opts())]
