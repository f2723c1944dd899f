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

"""Makes good what could not be done in time: the engine was down, or nova-compute was.

* A running server whose domain is made for services, but which the engine
  does not watch over, is attached.
* A guest of the engine whose server was deleted, or lives on another host for
  good, is forgotten. A guest that Nova never had is an operator's own
  (``mhvctl attach``) and is left alone.
"""

from collections.abc import Callable

import libvirt
import nova.conf
from nova import context as nova_context
from nova import exception, objects
from nova.compute import vm_states
from oslo_log import log as logging

from nova_mhv import domain_xml
from nova_mhv.guests import EngineFailure, Guests

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


def marked_guests(host) -> list[str]:
    """UUIDs of the running guests whose domains are made for services; ``host`` is Nova's libvirt host."""
    found = []
    for guest in host.list_guests():
        try:
            if domain_xml.enabled(guest.get_xml_desc()):
                found.append(guest.uuid)
        except (libvirt.libvirtError, exception.InstanceNotFound):
            LOG.debug("Guest %s ended while it was looked at.", guest.uuid)
    return found


def release_stale(guests: Guests, uuids: list[str]) -> None:
    """Ends the holds of a nova-compute that was killed: at the start of this one, none can be its own."""
    if not uuids:
        return
    try:
        held = {guest["uuid"] for guest in guests.known() if guest["state"] == "held"}
    except EngineFailure as failure:
        LOG.warning("Guests that are held are not released: %s", failure)
        return
    for uuid in held.intersection(uuids):
        guests.release(uuid)


def reconcile(guests: Guests, host, attach: Callable, part_with: Callable) -> None:
    """``attach`` and ``part_with`` take an instance, and never raise for want of the engine."""
    try:
        known = {guest["uuid"]: guest["state"] for guest in guests.known()}
    except EngineFailure as failure:
        LOG.debug("Guests were not compared with the engine's: %s", failure)
        return
    for uuid in marked_guests(host):
        if known.get(uuid, "detached") == "detached":
            instance = _instance(uuid)
            if instance is not None and _settled_here(instance):
                LOG.info("The server is not under its hypervisor services; attaching it.", instance=instance)
                attach(instance)

    defined = {guest.uuid for guest in host.list_guests(only_running=False)}
    for uuid in known.keys() - defined:
        if known[uuid] == "detached" and CONF.mhv.keep_checkpoints_on_delete:
            continue
        instance = _instance(uuid)
        if instance is not None and _left_for_good(instance):
            LOG.info("The server is no longer on this host; parting with its checkpoints.", instance=instance)
            part_with(instance)


def _instance(uuid: str):
    context = nova_context.get_admin_context(read_deleted="yes")
    try:
        return objects.Instance.get_by_uuid(context, uuid, expected_attrs=["flavor", "system_metadata"])
    except exception.InstanceNotFound:
        return None


def _settled_here(instance) -> bool:
    return not instance.deleted and instance.host == CONF.host and instance.task_state is None


def _left_for_good(instance) -> bool:
    if instance.deleted:
        return True
    # A resize that is not confirmed may come back; so may what is under way.
    settled = instance.task_state is None and instance.vm_state != vm_states.RESIZED
    return settled and instance.host not in (None, CONF.host)
