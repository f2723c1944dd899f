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

"""MHVDriver: Nova's libvirt driver, with hypervisor services for the flavors that ask for them.

Everything a server without services needs is LibvirtDriver's, untouched: each
override returns to it at once. For the others, top-down:

* the domain XML gets the engine's monitor and shared memory (domain_xml). A
  guest is put under services where its XML has them: not a rescue guest;
* ``_create_guest_with_network`` is where every start ends (spawn, power on,
  hard reboot, resume, unshelve, resize): the guest is attached there;
* a guest is detached before Nova moves or rescues it, and forgotten when its
  disks leave this host. What was added to it stays as long as it is on this
  host and has its flavor and disks (guests);
* Nova's own actions hold the engine's pauses off (hold), and the engine's
  pauses are hidden from Nova (events).

A new server fails to build when it cannot be attached, so that another host
is tried. Later on the guest comes first: what the engine could not do is
logged, and made good within a minute (reconcile).

The overrides pass on what they do not read, since Nova 33 and 34 differ there.
"""

import atexit
import sys

import nova.conf
from nova import exception
from nova.compute import power_state, task_states
from nova.virt.libvirt import driver as libvirt_driver
from oslo_log import log as logging

from nova_mhv import capabilities, domain_xml, events, flavor, guests, hold, migration, notices, reconcile
from nova_mhv.conf import compute as compute_conf

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
compute_conf.register_opts(CONF)

_SOCKET_PATH_BYTES_MAX = 107
# What ends a chain of checkpoints without the server's being deleted.
_LOSES_ITS_DISKS = {
    task_states.REBUILDING: "the server is rebuilt",
    task_states.SHELVING_OFFLOADING: "the server is shelved",
}


def _wanted(instance) -> flavor.Services | None:
    """What the server's flavor and image ask for; raises InvalidInput, which ends a build with its text."""
    if not flavor.wants(instance.flavor.extra_specs):
        return None
    # Nova's image object drops properties that it does not know; this copy has them all.
    prefix = "image_"
    image = {
        name[len(prefix) :]: value for name, value in instance.system_metadata.items() if name.startswith(prefix + flavor.IMAGE_PREFIX)
    }
    try:
        return flavor.parse(instance.flavor.extra_specs, image)
    except flavor.FlavorError as error:
        raise exception.InvalidInput(reason=str(error)) from None


def _has_services(instance) -> bool:
    return flavor.wants(instance.flavor.extra_specs)


def _ever_had_services(instance) -> bool:
    """Also true while a resize from or to a flavor with services is under way."""
    flavors = (instance.flavor, instance.old_flavor, instance.new_flavor)
    return any(one is not None and flavor.wants(one.extra_specs) for one in flavors)


class MHVDriver(libvirt_driver.LibvirtDriver):
    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        self._guests = guests.Guests()
        self._holds = hold.Holds(self._guests)
        self._mhv_capabilities = capabilities.Capabilities(self._guests)

    # ---- host

    def init_host(self, host):
        longest = domain_xml.qmp_path(CONF.mhv.run_dir, "0" * 36)
        if len(longest.encode()) > _SOCKET_PATH_BYTES_MAX:
            raise exception.InvalidConfiguration(f"[mhv] run_dir is too long: {longest} has to be at most {_SOCKET_PATH_BYTES_MAX} bytes")
        # Nova waits at its end for its own thread that takes libvirt's connection events, which never ends by itself: a nova-compute
        # that fails to start, because libvirt does not answer say, would neither serve nor end, and not be started again.
        atexit.register(self._host._conn_event_handler_queue.put, sys.exit)
        super().init_host(host)
        marked = reconcile.marked_guests(self._host)
        for uuid in marked:
            self._guests.watch(uuid)
        reconcile.release_stale(self._guests, marked)

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        super().update_provider_tree(provider_tree, nodename, allocations=allocations)
        self._mhv_capabilities.update_provider_tree(provider_tree, nodename)
        # The one hook of Nova's periodic task of every minute; what goes wrong here must not cost Nova its inventory.
        try:
            reconcile.reconcile(self._guests, self._host, self._attach_quietly, self._part_with)
        except Exception:
            LOG.exception("Servers were not compared with the engine's guests; trying again in a minute")

    def emit_event(self, event):
        if not events.hides(event, self._guests, self._holds):
            super().emit_event(event)

    def get_info(self, instance, use_cache=True):
        info = super().get_info(instance, use_cache=use_cache)
        if info.state == power_state.PAUSED and self._guests.watches(instance.uuid):
            return events.seen(info, instance, self._host.get_guest(instance))
        return info

    # ---- a guest starts

    def spawn(self, context, instance, *args, **kwargs):
        wanted = _wanted(instance)
        if wanted is None:
            return super().spawn(context, instance, *args, **kwargs)
        self._mhv_capabilities.require(wanted.names)
        super().spawn(context, instance, *args, **kwargs)
        # Else it was attached where it was started, or is not to run yet.
        if not self._guests.watches(instance.uuid) and self._host.get_guest(instance).is_active():
            self._guests.attach(instance.uuid, wanted, patient=True)

    def _get_guest_xml(self, context, instance, network_info, disk_info, image_meta, rescue=None, *args, **kwargs):
        xml = super()._get_guest_xml(context, instance, network_info, disk_info, image_meta, rescue, *args, **kwargs)
        wanted = None if rescue else _wanted(instance)
        if wanted is None:
            return xml
        return domain_xml.enable(xml, self._qmp_path(instance), lean=wanted.frequent)

    def _create_guest_with_network(self, context, xml, instance, *args, **kwargs):
        guest = super()._create_guest_with_network(context, xml, instance, *args, **kwargs)
        self._attach_quietly(instance)
        return guest

    def _attach_quietly(self, instance):
        """Attaches a running guest whose domain is made for it; a failure is logged, and made good later."""
        if not _has_services(instance):
            return
        try:
            wanted = _wanted(instance)
            guest = self._host.get_guest(instance)
            if wanted is not None and guest.is_active() and domain_xml.enabled(guest.get_xml_desc()):
                self._guests.attach(instance.uuid, wanted)
        except (guests.EngineFailure, exception.InvalidInput, exception.InstanceNotFound) as error:
            LOG.warning("The server runs without its hypervisor services for now. %s", error, instance=instance)

    def _qmp_path(self, instance):
        return domain_xml.qmp_path(CONF.mhv.run_dir, instance.uuid)

    # ---- a guest leaves

    def cleanup(self, context, instance, network_info, block_device_info=None, destroy_disks=True, *args, **kwargs):
        if (destroy_disks or instance.host != CONF.host) and _ever_had_services(instance):
            self._part_with(instance)
            if instance.task_state in _LOSES_ITS_DISKS:
                notices.chain_cut(context, instance, _LOSES_ITS_DISKS[instance.task_state], CONF.mhv.keep_checkpoints_on_delete)
        super().cleanup(context, instance, network_info, block_device_info, destroy_disks, *args, **kwargs)

    def _part_with(self, instance):
        """The disks leave this host: its checkpoints are of no more use to the server."""
        if CONF.mhv.keep_checkpoints_on_delete:
            self._guests.detach(instance.uuid)
        else:
            self._guests.forget(instance.uuid)

    # ---- Nova acts on a guest

    def _hold(self, instance, reason):
        return self._holds.hold(instance.uuid, reason)

    def pause(self, instance):
        if not _has_services(instance):
            return super().pause(instance)
        with self._hold(instance, "pause"):
            super().pause(instance)

    def unpause(self, instance):
        if not _has_services(instance):
            return super().unpause(instance)
        with self._hold(instance, "unpause"):
            super().unpause(instance)

    def suspend(self, context, instance):
        if not _has_services(instance):
            return super().suspend(context, instance)
        with self._hold(instance, "suspend"):
            super().suspend(context, instance)

    def _soft_reboot(self, instance):
        if not _has_services(instance):
            return super()._soft_reboot(instance)
        with self._hold(instance, "soft reboot"):
            rebooted = super()._soft_reboot(instance)
        if rebooted:
            self._attach_quietly(instance)
        return rebooted

    def snapshot(self, context, instance, image_id, update_task_state):
        if not _has_services(instance):
            return super().snapshot(context, instance, image_id, update_task_state)
        with self._hold(instance, "snapshot"):
            super().snapshot(context, instance, image_id, update_task_state)
        self._attach_quietly(instance)

    def rescue(self, context, instance, *args, **kwargs):
        if _has_services(instance):
            self._guests.let_go(instance.uuid)
        super().rescue(context, instance, *args, **kwargs)

    def unrescue(self, context, instance):
        super().unrescue(context, instance)
        self._attach_quietly(instance)

    # ---- devices that come and go: the engine learns a guest's disks and memory blocks when it attaches

    def attach_volume(self, context, connection_info, instance, *args, **kwargs):
        wanted = _wanted(instance)
        if wanted is not None and flavor.CHECKPOINT in wanted.names and wanted.disks == "required":
            self._refuse_unless_snapshots(connection_info)
        super().attach_volume(context, connection_info, instance, *args, **kwargs)
        self._attach_again(instance)

    def detach_volume(self, context, connection_info, instance, *args, **kwargs):
        super().detach_volume(context, connection_info, instance, *args, **kwargs)
        self._attach_again(instance)

    def swap_volume(self, context, old_connection_info, new_connection_info, instance, *args, **kwargs):
        super().swap_volume(context, old_connection_info, new_connection_info, instance, *args, **kwargs)
        self._attach_again(instance)

    def attach_interface(self, context, instance, *args, **kwargs):
        super().attach_interface(context, instance, *args, **kwargs)
        self._attach_again(instance)

    def detach_interface(self, context, instance, *args, **kwargs):
        super().detach_interface(context, instance, *args, **kwargs)
        self._attach_again(instance)

    @staticmethod
    def _refuse_unless_snapshots(connection_info):
        disk_format = connection_info.get("data", {}).get("format", "raw")
        if disk_format != "qcow2":
            raise exception.VolumeAttachFailed(
                volume_id=connection_info.get("serial", "?"),
                reason=f"the server's checkpoints have to hold every disk, and a volume of format {disk_format} has no "
                "snapshots; use a flavor with mhv:checkpoint_disks=best-effort or none",
            )

    def _attach_again(self, instance):
        if self._guests.watches(instance.uuid) and self._host.get_guest(instance).is_active():
            self._guests.let_go(instance.uuid)
            self._attach_quietly(instance)

    # ---- evacuation

    def rebuild(self, context, instance, *args, evacuate=False, **kwargs):
        """Nova's own rebuild, by NotImplementedError; an evacuation begins with the news that the checkpoints stayed behind."""
        if evacuate and _has_services(instance):
            # Until the claim is settled, the server is on the host that died.
            why = f"the server was evacuated from {instance.host}"
            notices.chain_cut(context, instance, why, CONF.mhv.keep_checkpoints_on_delete)
        return super().rebuild(context, instance, *args, evacuate=evacuate, **kwargs)

    # ---- cold migration and resize

    def migrate_disk_and_power_off(self, context, instance, *args, **kwargs):
        if not _has_services(instance):
            return super().migrate_disk_and_power_off(context, instance, *args, **kwargs)
        why = self._why_it_stays(instance)
        if why:
            raise exception.InstanceFaultRollback(exception.ResizeError(reason=why))
        self._guests.let_go(instance.uuid)
        try:
            moved = super().migrate_disk_and_power_off(context, instance, *args, **kwargs)
        except Exception:
            self._attach_quietly(instance)
            raise
        self._guests.drop_added(instance.uuid)
        return moved

    def finish_revert_migration(self, context, instance, *args, **kwargs):
        # On the same host the guest still has what the flavor that is given up brought; to its own that would count as added.
        if _has_services(instance):
            self._guests.detach(instance.uuid)
        super().finish_revert_migration(context, instance, *args, **kwargs)

    def confirm_migration(self, context, migration, instance, network_info):
        super().confirm_migration(context, migration, instance, network_info)
        moved = instance.host != CONF.host
        if _ever_had_services(instance) and (moved or not _has_services(instance)):
            self._part_with(instance)
            why = "the server was moved to " + instance.host if moved else "its new flavor has no hypervisor services"
            notices.chain_cut(context, instance, why, CONF.mhv.keep_checkpoints_on_delete)

    # ---- live migration

    def check_can_live_migrate_source(self, context, instance, *args, **kwargs):
        why = self._why_it_stays(instance) if _has_services(instance) else ""
        if why:
            raise exception.MigrationPreCheckError(reason=why)
        return super().check_can_live_migrate_source(context, instance, *args, **kwargs)

    def _why_it_stays(self, instance):
        """A hold is its host's: elsewhere the server would have its network again."""
        held = self._guests.network_hold(instance.uuid)
        return held and f"its network is held by {held}: release it first (openstack server service call)"

    def check_can_live_migrate_destination(self, context, instance, *args, **kwargs):
        wanted = _wanted(instance)
        if wanted is not None:
            try:
                self._mhv_capabilities.require(wanted.names)
            except guests.EngineFailure as failure:
                raise exception.MigrationPreCheckError(reason=failure.kwargs["reason"]) from failure
        return super().check_can_live_migrate_destination(context, instance, *args, **kwargs)

    def live_migration(self, context, instance, dest, post_method, recover_method, block_migration=False, migrate_data=None):
        # Detached, not held: a pause by an engine whose hold ran out would let the guest go on in two places.
        if _has_services(instance) and not self._guests.let_go(instance.uuid):
            LOG.error("Not migrated: the engine did not let go of the server. Is mhvd running?", instance=instance)
            recover_method(context, instance, dest, migrate_data)
            return
        super().live_migration(context, instance, dest, post_method, recover_method, block_migration, migrate_data)

    def _live_migration_operation(self, context, instance, dest, block_migration, migrate_data, guest, *args, **kwargs):
        if _has_services(instance) and domain_xml.enabled(guest.get_xml_desc()):
            guest = migration.MigratingGuest(guest, self._qmp_path(instance))
        super()._live_migration_operation(context, instance, dest, block_migration, migrate_data, guest, *args, **kwargs)

    def rollback_live_migration_at_source(self, context, instance, migrate_data):
        try:
            super().rollback_live_migration_at_source(context, instance, migrate_data)
        finally:
            self._attach_quietly(instance)

    def post_live_migration(self, context, instance, *args, **kwargs):
        super().post_live_migration(context, instance, *args, **kwargs)
        if _has_services(instance):
            self._part_with(instance)
            kept = CONF.mhv.keep_checkpoints_on_delete
            notices.chain_cut(context, instance, "the server was live migrated away", kept)

    def post_live_migration_at_destination(self, context, instance, *args, **kwargs):
        super().post_live_migration_at_destination(context, instance, *args, **kwargs)
        self._attach_quietly(instance)
