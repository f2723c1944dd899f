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

"""MHVDriver against LibvirtDriver, through a server's life."""

from unittest import mock

from nova import exception, objects
from nova.compute import power_state, task_states, vm_states
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import guest as libvirt_guest

from nova_mhv import domain_xml, guests

from . import base


class SpawnTest(base.DriverTestCase):
    def test_attaches_once_with_what_the_flavor_asks_for(self):
        instance = self.mhv_instance()
        self.spawn(instance)
        attached = [call for call in self.engine.calls if call[0] == "attach"]
        self.assertEqual([("attach", instance.uuid, ["checkpoint"], 30.0, 20, "best-effort", 5.0, {})], attached)
        self.assertTrue(domain_xml.enabled(self.domain(instance).XMLDesc(0)))

    def test_an_ordinary_flavor_never_reaches_the_engine(self):
        self.spawn(self.instance({"hw:cpu_policy": "shared"}))
        self.assertEqual([], self.engine.calls)

    def test_an_ordinary_flavor_has_the_xml_of_the_libvirt_driver(self):
        plain = self.make(libvirt_driver.LibvirtDriver)
        written = []
        for drvr in (self.driver, plain):
            instance = self.instance()
            with mock.patch.object(drvr, "_create_guest_with_network") as create:
                with mock.patch.object(drvr, "get_info", return_value=mock.Mock(state=power_state.RUNNING)):
                    self.spawn(instance, drvr)
            written.append(create.call_args.args[1])
        self.assertEqual(written[1], written[0])

    def test_a_service_that_is_not_here_stops_the_build_before_anything_is_made(self):
        self.engine.capabilities = [{"service": "checkpoint", "available": False, "reason": "no /dev/userfaultfd"}]
        failure = self.assertRaises(guests.EngineFailure, self.spawn, self.mhv_instance())
        self.assertIn("no /dev/userfaultfd", str(failure))
        self.assertEqual([], self.driver.list_instances())

    def test_no_engine_stops_the_build(self):
        self.engine.fails["self_test"] = base.engine_error("unavailable", "mhvd does not answer", "start it")
        failure = self.assertRaises(guests.EngineFailure, self.spawn, self.mhv_instance())
        self.assertIn("mhvd does not answer (start it)", str(failure))

    def test_a_guest_that_cannot_be_attached_fails_the_build(self):
        self.engine.fails["attach"] = base.engine_error("unsupported", "a vhost-user device")
        failure = self.assertRaises(guests.EngineFailure, self.spawn, self.mhv_instance())
        self.assertIn("a vhost-user device", str(failure))

    def test_waits_for_an_engine_that_is_starting(self):
        self.engine.fails["attach"] = base.engine_error("unavailable")
        with mock.patch("time.sleep", side_effect=lambda s: self.engine.fails.pop("attach", None)):
            self.spawn(self.mhv_instance())
        self.assertEqual("attach", self.engine.names()[-1])

    def test_a_wrong_flavor_ends_the_build_with_what_is_valid(self):
        error = self.assertRaises(exception.InvalidInput, self.spawn, self.instance({"mhv:services": "HA"}))
        self.assertIn("valid: such as checkpoint", str(error))

    def test_hands_the_services_configurations_on(self):
        self.engine.capabilities += [{"service": "integrity", "available": True, "reason": ""}]
        specs = {"mhv:services": "checkpoint,integrity", "mhv:configure_integrity": '{"on_finding": "hold"}'}
        instance = self.instance(specs)
        self.spawn(instance)
        self.assertEqual(["checkpoint", "integrity"], self.engine.guests[instance.uuid]["options"]["services"])
        self.assertEqual({"integrity": '{"on_finding": "hold"}'}, self.engine.guests[instance.uuid]["options"]["configurations"])

    def test_a_service_that_no_host_has_stops_the_build(self):
        failure = self.assertRaises(guests.EngineFailure, self.spawn, self.instance({"mhv:services": "heat-map"}))
        self.assertIn("heat-map is not available on this host", str(failure))

    def test_an_image_may_lower(self):
        instance = self.mhv_instance(system_metadata={"image_mhv_checkpoint_interval_s": "60"})
        self.spawn(instance)
        self.assertIn(("attach", instance.uuid, ["checkpoint"], 60.0, 20, "best-effort", 5.0, {}), self.engine.calls)

    def test_an_image_may_not_raise(self):
        instance = self.mhv_instance(system_metadata={"image_mhv_checkpoint_interval_s": "1"})
        error = self.assertRaises(exception.InvalidInput, self.spawn, instance)
        self.assertIn("0, or 30 and more", str(error))

    def test_options_that_changed_are_changed(self):
        instance = self.mhv_instance()
        self.engine.attach(instance.uuid, ["checkpoint"], 0.0, 10, "required")
        self.spawn(instance)
        self.assertEqual(30.0, self.engine.guests[instance.uuid]["options"]["checkpoint_interval_s"])


class LifecycleTest(base.DriverTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)
        self.engine.calls.clear()

    def destroy(self, **kwargs):
        with mock.patch.object(self.driver, "delete_instance_files", return_value=True):
            with mock.patch.object(self.server, "save"):
                self.driver.destroy(self.context, self.server, [], **kwargs)

    def test_delete_forgets(self):
        self.destroy()
        self.assertEqual({}, self.engine.guests)
        self.assertFalse(self.driver._guests.watches(self.server.uuid))

    def test_delete_keeps_what_the_policy_keeps(self):
        self.flags(keep_checkpoints_on_delete=True, group="mhv")
        self.destroy()
        self.assertEqual(["detach"], self.engine.names())

    def test_delete_goes_on_without_an_engine(self):
        self.engine.fails["forget"] = base.engine_error("unavailable")
        self.destroy()
        self.assertEqual([], self.driver.list_instances())

    def test_a_destroy_that_leaves_the_disks_keeps_the_checkpoints(self):
        self.destroy(destroy_disks=False)
        self.assertEqual([], self.engine.names())

    def test_a_rebuild_and_a_shelving_are_told_and_a_delete_is_not(self):
        for state, told in ((task_states.REBUILDING, 1), (task_states.SHELVING_OFFLOADING, 1), (task_states.DELETING, 0)):
            self.server.task_state = state
            with mock.patch("nova_mhv.notices.chain_cut") as cut:
                self.destroy()
            self.assertEqual(told, cut.call_count, state)

    def test_an_evacuated_server_is_forgotten_on_shared_storage_too(self):
        self.server.host = "elsewhere"
        self.destroy(destroy_disks=False)
        self.assertEqual(["forget"], self.engine.names())

    def test_stop_leaves_the_guest_known(self):
        self.driver.power_off(self.server)
        self.assertEqual([], self.engine.names())
        self.assertEqual(power_state.SHUTDOWN, self.driver.get_info(self.server).state)

    def _start(self):
        with mock.patch.object(self.driver, "_create_images_and_backing"):
            self.driver.power_on(self.context, self.server, [], {"block_device_mapping": []})

    def test_start_attaches(self):
        self.driver.power_off(self.server)
        self.engine.guests.clear()
        self._start()
        self.assertEqual(["attach"], self.engine.names())

    def test_start_goes_on_without_an_engine(self):
        self.driver.power_off(self.server)
        self.engine.fails["attach"] = base.engine_error("unavailable")
        self._start()
        self.assertEqual(power_state.RUNNING, self.driver.get_info(self.server).state)

    def test_pause_and_unpause_hold(self):
        self.driver.pause(self.server)
        self.driver.unpause(self.server)
        self.assertEqual(["hold", "release"] * 2, self.engine.names())

    def test_a_hold_is_released_when_the_action_fails(self):
        with mock.patch.object(libvirt_guest.Guest, "pause", side_effect=ValueError):
            self.assertRaises(ValueError, self.driver.pause, self.server)
        self.assertEqual(["hold", "release"], self.engine.names())
        self.assertFalse(self.driver._holds.held(self.server.uuid))

    def test_pause_goes_on_without_an_engine(self):
        self.engine.fails.update(hold=base.engine_error("unavailable"), release=base.engine_error("unavailable"))
        self.driver.pause(self.server)
        self.assertEqual(power_state.PAUSED, self.domain(self.server)._state)

    def test_suspend_and_resume(self):
        with mock.patch.object(libvirt_guest.Guest, "save_memory_state"):
            self.driver.suspend(self.context, self.server)
        self.assertEqual(["hold", "release"], self.engine.names())
        self.driver.power_off(self.server)
        self.engine.guests.clear()
        self.driver.resume(self.context, self.server, [], {"block_device_mapping": []})
        self.assertIn("attach", self.engine.names())

    def test_soft_reboot_holds(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "_soft_reboot", return_value=True):
            self.driver.reboot(self.context, self.server, [], "SOFT")
        self.assertEqual(["hold", "release"], self.engine.names()[:2])

    def test_snapshot_holds_once_around_its_own_suspend(self):
        def cold(driver, context, instance, *args):
            driver.suspend(context, instance)

        with mock.patch.object(libvirt_driver.LibvirtDriver, "snapshot", cold):
            with mock.patch.object(libvirt_guest.Guest, "save_memory_state"):
                self.driver.snapshot(self.context, self.server, "image", mock.Mock())
        self.assertEqual(["hold", "release"], self.engine.names()[:2])

    def test_a_rescue_guest_is_not_under_services(self):
        no_specs = objects.ImageMeta.from_dict({})
        with mock.patch.object(libvirt_driver.LibvirtDriver, "rescue") as rescue:
            self.driver.rescue(self.context, self.server, [], no_specs, "", {}, [])
        rescue.assert_called_once()
        self.assertEqual(["detach"], self.engine.names())
        with mock.patch.object(libvirt_driver.LibvirtDriver, "_get_guest_xml", return_value="<domain/>"):
            xml = self.driver._get_guest_xml(self.context, self.server, [], {}, no_specs, rescue={"image_id": "x"})
        self.assertEqual("<domain/>", xml)

    def test_unrescue_attaches(self):
        self.engine.guests.clear()
        with mock.patch.object(libvirt_driver.LibvirtDriver, "unrescue"):
            self.driver.unrescue(self.context, self.server)
        self.assertEqual(["attach"], self.engine.names())


class AddedServiceTest(base.DriverTestCase):
    """What was added to a running server (``server service add``), through its life."""

    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)
        self.engine.add(self.server.uuid, "integrity", '{"on_finding": "hold"}')
        self.engine.calls.clear()

    def services(self):
        return self.engine.guests[self.server.uuid]["options"]["services"]

    def assert_kept(self):
        self.assertEqual(["checkpoint", "integrity"], self.services())
        self.assertEqual({"integrity": '{"on_finding": "hold"}'}, self.engine.guests[self.server.uuid]["options"]["configurations"])

    def test_a_start_keeps_it(self):
        self.driver.power_off(self.server)
        self.engine.guests[self.server.uuid]["state"] = "stopped"
        with mock.patch.object(self.driver, "_create_images_and_backing"):
            self.driver.power_on(self.context, self.server, [], {"block_device_mapping": []})
        self.assertEqual(["attach"], self.engine.names())
        self.assert_kept()

    def test_a_guest_that_is_attached_is_left_as_it_is(self):
        self.driver._attach_quietly(self.server)
        self.assertNotIn("detach", self.engine.names())
        self.assert_kept()

    def test_a_volume_that_comes_keeps_it(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "detach_volume"):
            self.driver.detach_volume(self.context, {"data": {}}, self.server, "/dev/vdb")
        self.assertEqual(["detach", "attach"], self.engine.names())
        self.assert_kept()

    def test_a_rescue_keeps_it(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "rescue"):
            self.driver.rescue(self.context, self.server, [], objects.ImageMeta.from_dict({}), "", {}, [])
        self.assertEqual([], self.services())
        with mock.patch.object(libvirt_driver.LibvirtDriver, "unrescue"):
            self.driver.unrescue(self.context, self.server)
        self.assert_kept()

    def test_a_migration_that_failed_keeps_it(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "live_migration"):
            self.driver.live_migration(self.context, self.server, "dest", None, None)
        self.driver.rollback_live_migration_at_source(self.context, self.server, {})
        self.assert_kept()

    def test_a_resize_ends_it(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "migrate_disk_and_power_off"):
            self.driver.migrate_disk_and_power_off(self.context, self.server, "dest", self.server.flavor, [])
        self.driver._attach_quietly(self.server)
        self.assertEqual(["checkpoint"], self.services())

    def test_a_resize_that_failed_keeps_it(self):
        name = "migrate_disk_and_power_off"
        with mock.patch.object(libvirt_driver.LibvirtDriver, name, side_effect=ValueError):
            self.assertRaises(ValueError, self.driver.migrate_disk_and_power_off,
                              self.context, self.server, "dest", self.server.flavor, [])  # fmt: skip
        self.assert_kept()

    def test_what_a_flavor_brought_ends_with_its_resize_reverted(self):
        def start_again(*args, **kwargs):
            self.driver._attach_quietly(self.server)

        with mock.patch.object(libvirt_driver.LibvirtDriver, "finish_revert_migration", side_effect=start_again):
            self.driver.finish_revert_migration(self.context, self.server, [], mock.Mock())
        self.assertEqual(["checkpoint"], self.services())

    def test_a_rebuild_ends_it(self):
        self.driver._part_with(self.server)
        self.driver._attach_quietly(self.server)
        self.assertEqual(["checkpoint"], self.services())


class VolumeTest(base.DriverTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)
        self.engine.calls.clear()

    def test_the_engine_learns_of_an_interface_that_came_or_went(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "attach_interface"):
            self.driver.attach_interface(self.context, self.server, self.server.image_meta, {})
        with mock.patch.object(libvirt_driver.LibvirtDriver, "detach_interface"):
            self.driver.detach_interface(self.context, self.server, {})
        self.assertEqual(["detach", "attach"] * 2, self.engine.names())

    def test_the_engine_learns_of_a_volume_that_came_or_went(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "attach_volume"):
            self.driver.attach_volume(self.context, {"data": {}}, self.server, "/dev/vdb")
        with mock.patch.object(libvirt_driver.LibvirtDriver, "detach_volume"):
            self.driver.detach_volume(self.context, {"data": {}}, self.server, "/dev/vdb")
        self.assertEqual(["detach", "attach"] * 2, self.engine.names())

    def test_a_stopped_server_is_left_alone(self):
        self.driver.power_off(self.server)
        with mock.patch.object(libvirt_driver.LibvirtDriver, "detach_volume"):
            self.driver.detach_volume(self.context, {"data": {}}, self.server, "/dev/vdb")
        self.assertEqual([], self.engine.names())

    def test_a_volume_without_snapshots_is_refused_where_disks_are_required(self):
        self.server.flavor.extra_specs["mhv:checkpoint_disks"] = "required"
        with mock.patch.object(libvirt_driver.LibvirtDriver, "attach_volume") as attach:
            error = self.assertRaises(exception.VolumeAttachFailed, self.driver.attach_volume,
                                      self.context, {"serial": "v", "data": {}}, self.server, "/dev/vdb")  # fmt: skip
            self.assertIn("mhv:checkpoint_disks=best-effort or none", str(error))
            attach.assert_not_called()
            self.driver.attach_volume(self.context, {"data": {"format": "qcow2"}}, self.server, "/dev/vdb")
            attach.assert_called_once()


class RestartTest(base.DriverTestCase):
    def test_a_new_nova_compute_knows_whose_pauses_to_hide(self):
        server = self.mhv_instance()
        self.spawn(server)
        self.driver._guests = guests.Guests()
        self.start(self.driver)
        self.assertTrue(self.driver._guests.watches(server.uuid))

    def test_holds_of_the_one_before_are_released(self):
        server = self.mhv_instance()
        self.spawn(server)
        self.engine.guests[server.uuid]["state"] = "held"
        self.start(self.driver)
        self.assertEqual(("release", server.uuid), self.engine.calls[-1])

    def test_an_engine_that_is_down_does_not_keep_nova_compute_from_starting(self):
        self.spawn(self.mhv_instance())
        self.engine.fails["status"] = base.engine_error("unavailable")
        self.start(self.driver)

    def test_a_failure_to_reconcile_does_not_cost_the_inventory(self):
        tree = mock.Mock()
        tree.data.return_value.traits = set()
        with mock.patch.object(libvirt_driver.LibvirtDriver, "update_provider_tree"):
            with mock.patch("nova_mhv.reconcile.reconcile", side_effect=ValueError):
                self.driver.update_provider_tree(tree, "node")
        tree.add_traits.assert_called_once_with("node", "CUSTOM_MHV_CHECKPOINT")

    def test_a_run_dir_that_no_socket_path_can_hold_is_refused(self):
        self.flags(run_dir="/" + "x" * 100, group="mhv")
        self.assertRaises(exception.InvalidConfiguration, self.make, type(self.driver))


class PowerStateTest(base.DriverTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)

    def state(self, reason, **changes):
        self.server.update(changes)
        self.domain(self.server).suspend()
        with mock.patch.object(base.fakelibvirt.Domain, "state", create=True, return_value=[power_state.PAUSED, reason]):
            return self.driver.get_info(self.server).state

    def test_a_pause_of_the_engine_is_not_seen(self):
        self.assertEqual(power_state.RUNNING, self.state(reason=0))

    def test_a_pause_of_libvirt_is_seen(self):
        for reason in (1, 5):  # user, I/O error
            self.assertEqual(power_state.PAUSED, self.state(reason))

    def test_a_server_that_nova_paused_is_paused(self):
        self.assertEqual(power_state.PAUSED, self.state(0, vm_state=vm_states.PAUSED))

    def test_a_guest_without_services_is_seen_as_it_is(self):
        self.driver._guests.unwatch(self.server.uuid)
        self.assertEqual(power_state.PAUSED, self.state(0))
