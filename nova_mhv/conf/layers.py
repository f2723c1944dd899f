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
"""Options of services that are layers, in the group [layers]: of nova-api, which makes flavors, and of mhv-api."""

from oslo_config import cfg

GROUP = cfg.OptGroup("layers", title="Layers", help="Hypervisor services besides those that come with nova-mhv.")

ENABLED = cfg.ListOpt(
    "enabled",
    default=[],
    help="Names of services that flavors may have besides checkpoint, introspection and integrity.",
)

ADDABLE = cfg.ListOpt(
    "tenant_addable",
    default=[],
    help="Names of services that members of a project may add to their running servers. Operators may add any.",
)

MANIFESTS = cfg.ListOpt(
    "manifest_dirs",
    default=["/var/lib/nova-mhv/layers"],
    help="Folders of layers' packages, of which NAME/manifest.json is read, or NAME/VERSION/manifest.json of the newest version: "
    "against them configurations are checked, and which services do not go together. Services without one are checked on the "
    "compute host alone.",
)

FLAVOR_OPTS: list[cfg.Opt] = [ENABLED, MANIFESTS]  # of nova-api
TENANT_OPTS: list[cfg.Opt] = [ADDABLE, MANIFESTS]  # of mhv-api, which lists them


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP.name, [ENABLED])]
