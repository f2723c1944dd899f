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

"""Options of nova-mhv: one module a process, registered on a ConfigOpts given by the caller.

``agent`` is read by mhv-agent, ``api`` by mhv-api, ``compute`` by the driver
inside nova-compute, ``layers`` by nova-api and mhv-api. Importing this package registers nothing.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg

PROJECT = "nova-mhv"
_MODULES = ("agent", "api", "compute", "layers")


def register_keystone(conf: cfg.ConfigOpts, group: str, service_type: str, timeout_s: int) -> None:
    """Credentials and endpoint of another service, in ``group``: what Nova's own sections look like.

    ``timeout_s``: how long the service may be silent, unless the operator says otherwise.
    """
    ks_loading.register_auth_conf_options(conf, group)
    ks_loading.register_session_conf_options(conf, group)
    ks_loading.register_adapter_conf_options(conf, group)
    conf.set_default("service_type", service_type, group=group)
    conf.set_default("timeout", timeout_s, group=group)
    conf.set_default("valid_interfaces", ["internal", "public"], group=group)


def keystone_adapter(conf: cfg.ConfigOpts, group: str) -> Any:
    """A keystoneauth adapter made of ``group``; it authenticates at its first request. Thread-safe."""
    auth = ks_loading.load_auth_from_conf_options(conf, group)
    session = ks_loading.load_session_from_conf_options(conf, group, auth=auth)
    return ks_loading.load_adapter_from_conf_options(conf, group, session=session, auth=auth)


def keystone_opts() -> list[cfg.Opt]:
    """What register_keystone registers, for the sample configuration."""
    return (
        ks_loading.get_auth_common_conf_options()
        + ks_loading.get_auth_plugin_conf_options("v3password")
        + ks_loading.get_session_conf_options()
        + ks_loading.get_adapter_conf_options(include_deprecated=False)
    )


def list_opts() -> Iterable[tuple[str, list[cfg.Opt]]]:
    """Every option, for oslo-config-generator (namespace ``nova_mhv``)."""
    found: list[tuple[str, list[cfg.Opt]]] = []
    for name in _MODULES:
        if importlib.util.find_spec(f"{__name__}.{name}"):
            found.extend(importlib.import_module(f"{__name__}.{name}").list_opts())
    return found
