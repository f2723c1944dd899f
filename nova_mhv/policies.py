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

"""Who may do what. The target of every rule is the server's project, as ``project_id``."""

from oslo_config import cfg
from oslo_policy import policy

READER = "rule:project_reader_or_admin"
MEMBER = "rule:project_member_or_admin"
ADMIN = "role:admin"

_PREFIX = "hypervisor_service"
_CHECKPOINTS = "/v1/servers/{server_id}/checkpoints"
_SERVICES = "/v1/servers/{server_id}/services"

LIST = f"{_PREFIX}:checkpoints:index"
SHOW = f"{_PREFIX}:checkpoints:show"
CREATE = f"{_PREFIX}:checkpoints:create"
DELETE = f"{_PREFIX}:checkpoints:delete"
RESTORE = f"{_PREFIX}:checkpoints:restore"
EXPORT = f"{_PREFIX}:checkpoints:export"
VERIFY = f"{_PREFIX}:checkpoints:verify"
OPERATION = f"{_PREFIX}:operations:show"
SERVICES = f"{_PREFIX}:services:show"
ADD_SERVICE = f"{_PREFIX}:services:add"
REMOVE_SERVICE = f"{_PREFIX}:services:remove"
CALL_SERVICE = f"{_PREFIX}:services:call"
ANY_SERVICE = f"{_PREFIX}:services:any"
CLOUD_SERVICES = f"{_PREFIX}:services:index"
CLOUD_HOSTS = f"{_PREFIX}:services:hosts"
INSTALL_SERVICE = f"{_PREFIX}:services:install"
INTROSPECT = f"{_PREFIX}:introspection:show"
ALERTS = f"{_PREFIX}:alerts:index"


def _rule(name: str, check: str, description: str, method: str, path: str) -> policy.DocumentedRuleDefault:
    return policy.DocumentedRuleDefault(
        name, check, description, operations=[{"method": method, "path": path}], scope_types=["project"]
    )


_RULES = [
    policy.RuleDefault(
        "project_reader_or_admin",
        "role:admin or (role:reader and project_id:%(project_id)s)",
        description="Readers of the server's project, and the operator.",
    ),
    policy.RuleDefault(
        "project_member_or_admin",
        "role:admin or (role:member and project_id:%(project_id)s)",
        description="Members of the server's project, and the operator.",
    ),
    _rule(LIST, READER, "List the checkpoints of a server.", "GET", _CHECKPOINTS),
    _rule(SHOW, READER, "Show a checkpoint.", "GET", _CHECKPOINTS + "/{checkpoint_id}"),
    _rule(CREATE, MEMBER, "Create a checkpoint of a server.", "POST", _CHECKPOINTS),
    _rule(DELETE, MEMBER, "Delete a checkpoint.", "DELETE", _CHECKPOINTS + "/{checkpoint_id}"),
    _rule(RESTORE, MEMBER, "Take a server back to a checkpoint.", "POST", _CHECKPOINTS + "/{checkpoint_id}/restore"),
    _rule(EXPORT, MEMBER, "Export a checkpoint as an image.", "POST", _CHECKPOINTS + "/{checkpoint_id}/export"),
    _rule(VERIFY, MEMBER, "Check everything stored for a server.", "POST", _CHECKPOINTS + "/verify"),
    _rule(OPERATION, READER, "Show an operation.", "GET", "/v1/servers/{server_id}/operations/{operation_id}"),
    _rule(SERVICES, READER, "Show the services of a server.", "GET", _SERVICES),
    _rule(ADD_SERVICE, MEMBER, "Add a service of [layers] tenant_addable to a server.", "POST", _SERVICES),
    _rule(REMOVE_SERVICE, MEMBER, "Remove such a service from a server.", "DELETE", _SERVICES + "/{name}"),
    _rule(CALL_SERVICE, MEMBER, "Ask a service of a server something.", "POST", _SERVICES + "/{name}/call"),
    _rule(ANY_SERVICE, ADMIN, "Add and remove other services, too.", "POST", _SERVICES),
    _rule(INTROSPECT, MEMBER, "See what runs in a server.", "GET", "/v1/servers/{server_id}/introspection/{kind}"),
    _rule(ALERTS, READER, "List the alerts of a server.", "GET", "/v1/servers/{server_id}/alerts"),
    _rule(CLOUD_SERVICES, "role:admin or role:reader", "List the services of the cloud.", "GET", "/v1/services"),
    _rule(CLOUD_HOSTS, ADMIN, "See on which hosts they are.", "GET", "/v1/services"),
    _rule(INSTALL_SERVICE, ADMIN, "Install a package of a service on the hosts.", "POST", "/v1/services"),
]


def list_rules() -> list[policy.RuleDefault]:
    return _RULES


def make_enforcer(conf: cfg.ConfigOpts) -> policy.Enforcer:
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(_RULES)
    return enforcer


def get_enforcer() -> policy.Enforcer:
    """For oslopolicy-checker and its like, which read their configuration from the command line."""
    cfg.CONF([], project="nova-mhv")
    return make_enforcer(cfg.CONF)
