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

"""Options of mhv-api."""

from oslo_config import cfg

from nova_mhv import conf as mhv_conf
from nova_mhv.conf import layers

API_OPTS: list[cfg.Opt] = [
    cfg.IntOpt(
        "max_limit",
        default=1000,
        min=1,
        help="Most checkpoints in one answer; also the number when the request has no `limit`.",
    ),
    cfg.IntOpt(
        "rpc_timeout_s",
        default=30,
        min=1,
        help="How long the agent of a server's host may take to answer, in seconds.",
    ),
    cfg.IntOpt(
        "delete_timeout_s",
        default=600,
        min=1,
        help="How long the deletion of a checkpoint, or a change of services, may take, in seconds, while its agent "
        "shows signs of life.",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(API_OPTS, group="api")
    conf.register_group(layers.GROUP)
    conf.register_opts(layers.TENANT_OPTS, group=layers.GROUP)
    mhv_conf.register_keystone(conf, "nova", "compute", timeout_s=60)
    # Nova may close a connection just when it is used again; what it is asked changes nothing.
    conf.set_default("connect_retries", 2, group="nova")


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [("api", API_OPTS), (layers.GROUP.name, layers.TENANT_OPTS), ("nova", mhv_conf.keystone_opts())]
