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

"""MHVDriver against LibvirtDriver: a server that is resized, migrated or evacuated."""

from unittest import mock

from nova import exception, objects
from nova.virt.libvirt import driver as libvirt_driver

from nova_mhv import domain_xml

from . import base


class ResizeTest(base.DriverTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)
        self.engine.calls.clear()

    def confirm(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "confirm_migration"):
            with mock.patch("nova_mhv.notices.chain_cut") as cut:
                self.driver.confirm_migration(self.context, mock.Mock(), self.server, [])
        return cut

    def test_leaving_the_host_detaches_and_a_failure_attaches_again(self):
        name = "migrate_disk_and_power_off"
        with mock.patch.object(libvirt_driver.LibvirtDriver, name, side_effect=ValueError):
            self.assertRaises(ValueError, self.driver.migrate_disk_and_power_off,
                              self.context, self.server, "dest", self.server.flavor, [])  # fmt: skip
        self.assertEqual(["detach", "attach"], self.engine.names())

    def test_confirm_on_another_host_forgets_with_a_notice(self):
        self.server.host = "elsewhere"
        self.confirm().assert_called_once()
        self.assertEqual(["forget"], self.engine.names())

    def test_confirm_on_the_same_host_keeps_the_chain(self):
        self.confirm().assert_not_called()
        self.assertEqual([], self.engine.names())

    def test_a_new_flavor_without_services_ends_them(self):
        self.server.old_flavor = self.server.flavor
        self.server.flavor = self.instance().flavor
        self.driver._attach_quietly(self.server)
        self.confirm().assert_called_once()
        self.assertEqual(["forget"], self.engine.names())

    def test_a_new_flavor_with_services_attaches_at_its_start(self):
        plain = self.instance(uuid="11111111-2222-3333-4444-555555555555")
        self.spawn(plain)
        self.assertEqual([], self.engine.names())
        plain.flavor.extra_specs = dict(base.MHV_SPECS)
        xml = domain_xml.enable(self.domain(plain).XMLDesc(0), "/run/nova-mhv/qmp/x.sock")
        self.driver.power_off(plain)
        self.driver._create_guest_with_network(self.context, xml, plain, [], None, power_on=True)
        self.assertEqual(["attach"], self.engine.names())


class EvacuationTest(base.DriverTestCase):
    def rebuild(self, server, evacuate):
        with mock.patch("nova_mhv.notices.chain_cut") as cut:
            # Nova then does it in its own way.
            self.assertRaises(NotImplementedError, self.driver.rebuild, self.context, server, server.image_meta, [], None, {},
                              None, None, None, evacuate=evacuate)  # fmt: skip
        return cut

    def test_an_evacuation_is_told_with_the_host_that_died(self):
        cut = self.rebuild(self.mhv_instance(host="dead-host"), evacuate=True)
        cut.assert_called_once()
        self.assertIn("dead-host", cut.call_args.args[2])

    def test_a_rebuild_and_an_ordinary_server_are_nova_s_own(self):
        self.rebuild(self.mhv_instance(), evacuate=False).assert_not_called()
        self.rebuild(self.instance(), evacuate=True).assert_not_called()


class LiveMigrationTest(base.DriverTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.mhv_instance()
        self.spawn(self.server)
        self.engine.calls.clear()

    def test_one_whose_network_is_held_stays_where_the_hold_is(self):
        layers = [{"name": "other", "network_hold": ""}, {"name": "integrity", "network_hold": "kernel_text x"}]
        self.engine.guests[self.server.uuid]["layers"] = layers
        with mock.patch.object(libvirt_driver.LibvirtDriver, "check_can_live_migrate_source") as check:
            refused = self.assertRaises(exception.MigrationPreCheckError, self.driver.check_can_live_migrate_source,
                                        self.context, self.server, {})  # fmt: skip
            self.assertIn("held by integrity (kernel_text x): release it first", str(refused))
            self.assertRaises(exception.InstanceFaultRollback, self.driver.migrate_disk_and_power_off,
                              self.context, self.server, "dest", self.server.flavor, [])  # fmt: skip
            self.assertNotIn("detach", self.engine.names())
            check.assert_not_called()
            layers.pop()
            self.driver.check_can_live_migrate_source(self.context, self.server, {})
            check.assert_called_once()

    def test_a_destination_without_the_service_is_refused(self):
        self.engine.capabilities = []
        self.driver._mhv_capabilities._asked = None
        self.assertRaises(exception.MigrationPreCheckError, self.driver.check_can_live_migrate_destination,
                          self.context, self.server, {}, {})  # fmt: skip

    def test_the_source_lets_go_first_and_takes_again_on_rollback(self):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "live_migration"):
            self.driver.live_migration(self.context, self.server, "dest", None, None)
        self.assertEqual(["detach"], self.engine.names())
        self.assertFalse(self.driver._guests.watches(self.server.uuid))
        self.driver.rollback_live_migration_at_source(self.context, self.server, {})
        self.assertEqual(["detach", "attach"], self.engine.names())

    def test_a_guest_that_the_engine_may_still_pause_is_not_migrated(self):
        self.engine.fails["detach"] = base.engine_error("unavailable")
        with mock.patch.object(libvirt_driver.LibvirtDriver, "live_migration") as migrate:
            recover = mock.Mock()
            self.driver.live_migration(self.context, self.server, "dest", None, recover, migrate_data="data")
        migrate.assert_not_called()
        recover.assert_called_once_with(self.context, self.server, "dest", "data")

    def test_the_source_forgets_with_a_notice_and_the_destination_attaches(self):
        with mock.patch("nova_mhv.notices.chain_cut") as cut:
            self.driver.post_live_migration(self.context, self.server, {"block_device_mapping": []})
        cut.assert_called_once()
        self.assertEqual(["forget"], self.engine.names())
        self.driver.post_live_migration_at_destination(self.context, self.server, [])
        self.assertEqual(["forget", "attach"], self.engine.names())

    def test_the_destination_has_the_same_memory_and_monitor(self):
        guest = self.driver._host.get_guest(self.server)
        stripped = guest.get_xml_desc().replace('<source type="memfd"/>', "").replace('<access mode="shared"/>', "")
        data = objects.LibvirtLiveMigrateData(block_migration=False, serial_listen_addr="127.0.0.1", target_connect_addr=None)
        with mock.patch("nova.virt.libvirt.migration.get_updated_guest_xml", return_value=stripped):
            with mock.patch.object(guest._domain, "migrateToURI3", create=True) as migrate:
                self.driver._live_migration_operation(self.context, self.server, "dest", False, data, guest, [])
        sent = migrate.call_args.kwargs["params"]["destination_xml"]
        self.assertIn('<source type="memfd"/>', sent)
        self.assertIn('<access mode="shared"/>', sent)
        self.assertTrue(domain_xml.enabled(sent))
        self.assertEqual(1, sent.count("socket,id=mhv,"))

    def test_an_ordinary_guest_migrates_as_with_the_libvirt_driver(self):
        guest = self.driver._host.get_guest(self.server)
        plain = self.instance()
        with mock.patch.object(libvirt_driver.LibvirtDriver, "_live_migration_operation") as operation:
            self.driver._live_migration_operation(self.context, plain, "dest", False, {}, guest, [])
        self.assertIs(guest, operation.call_args.args[5])
