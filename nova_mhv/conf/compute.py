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

"""Options of MHVDriver, in the group [mhv] of nova-compute's configuration."""

from oslo_config import cfg

GROUP = cfg.OptGroup("mhv", title="Hypervisor services", help="How MHVDriver works with the engine on its host.")

OPTS = [
    cfg.StrOpt(
        "engine_socket",
        default="/run/nova-mhv/mhvd.sock",
        help="Unix socket on which mhvd answers. The user of nova-compute has to be in the group nova-mhv.",
    ),
    cfg.StrOpt(
        "run_dir",
        default="/run/nova-mhv",
        help="Run-time folder of the engine. QEMU makes a guest's own monitor socket in its folder qmp/, "
        "as <run_dir>/qmp/<server uuid>.sock. It has to be the same on hosts between which servers are live migrated.",
    ),
    cfg.BoolOpt(
        "keep_checkpoints_on_delete",
        default=False,
        help="Keep the checkpoints of a server on this host when its disks leave the host: delete, rebuild, shelve "
        "offload, migration to another host. They then take room until an operator deletes them with mhvctl.",
    ),
    cfg.FloatOpt(
        "attach_timeout",
        default=30.0,
        min=1.0,
        max=600.0,
        help="Seconds that one request to the engine may take, and that a new server waits for an engine that is "
        "starting. After that the server is built on another host.",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP.name, OPTS)]
