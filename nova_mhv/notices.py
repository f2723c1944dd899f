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

"""Tells operators and listeners when a server's chain of checkpoints ends."""

import nova.conf
from nova import rpc
from oslo_log import log as logging

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

CHAIN_CUT = "hypervisor_service.checkpoint.chain_cut"


def chain_cut(context, instance, why: str, kept: bool) -> None:
    """``kept``: the old checkpoints stay in the store of the host that they were made on; a dead host deletes them when it is back."""
    LOG.warning(
        "The chain of checkpoints ends here: %(why)s. The earlier checkpoints are %(fate)s on the host that made them; "
        "the next checkpoint of the server is the first of a new chain.",
        {"why": why, "fate": "kept" if kept else "deleted"},
        instance=instance,
    )
    payload = {"server_id": instance.uuid, "project_id": instance.project_id, "reason": why, "kept": kept}
    try:
        # Not rpc.get_notifier(): it lets only Nova's own event types pass.
        rpc.LEGACY_NOTIFIER.prepare(publisher_id=f"compute.{CONF.host}").warn(context, CHAIN_CUT, payload)
    except Exception:
        LOG.exception("The notification %s was not sent", CHAIN_CUT, instance=instance)
