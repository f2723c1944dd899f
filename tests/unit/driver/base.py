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

"""MHVDriver on the real LibvirtDriver, Nova's fake libvirt, and a fake engine."""

import dataclasses
from unittest import mock

import os_vif
from nova import context as nova_context
from nova import objects, test
from nova.compute import vm_states
from nova.network import model as network_model
from nova.tests import fixtures as nova_fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt import fake as fake_virt
from nova.virt.libvirt import driver as libvirt_driver
from oslo_utils import fixture as time_fixture
from oslo_utils.fixture import uuidsentinel as uuids

from nova_mhv import driver, engine

MHV_SPECS = {
    "mhv:services": "checkpoint",
    "mhv:checkpoint_interval_s": "30",
    "mhv:checkpoint_keep": "20",
    "mhv:checkpoint_disks": "best-effort",
    "mhv:checkpoint_overhead_max": "5",
}


def engine_error(code: str, message: str = "it did not work", hint: str = "") -> Exception:
    error = engine.EngineError(message)
    error.code, error.message, error.hint = code, message, hint
    return error


@dataclasses.dataclass
class FakeEngine:
    """Stands for engine.Client. ``fails`` maps a method to the error it raises."""

    fails: dict = dataclasses.field(default_factory=dict)
    calls: list = dataclasses.field(default_factory=list)
    guests: dict = dataclasses.field(default_factory=dict)
    capabilities: list = dataclasses.field(default_factory=lambda: [{"service": "checkpoint", "available": True, "reason": ""}])

    def names(self):
        """What was done to guests: looks are left out."""
        return [call[0] for call in self.calls if call[0] != "status"]

    def _called(self, name, *args):
        self.calls.append((name, *args))
        if name in self.fails:
            raise self.fails[name]

    def attach(self, guest, services, interval_s=0.0, keep=0, disks="required", overhead_max=10.0, configurations=None):
        self._called("attach", guest, services, interval_s, keep, disks, overhead_max, configurations)
        if self.guests.get(guest, {}).get("state") == "attached":
            raise engine_error("exists")
        self.guests[guest] = {
            "uuid": guest,
            "state": "attached",
            "layers": [],
            "options": {
                "services": services,
                "checkpoint_interval_s": interval_s,
                "checkpoint_keep": keep if isinstance(keep, int) else 0,
                "checkpoint_keep_policy": keep if isinstance(keep, str) else "",
                "checkpoint_disks": disks,
                "checkpoint_overhead_max": overhead_max,
                "configurations": configurations or {},
            },
        }

    def add(self, guest, service, configuration):
        """As ``server service add`` does."""
        options = self.guests[guest]["options"]
        options["services"] = [*options["services"], service]
        options["configurations"] = {**options["configurations"], service: configuration}

    def detach(self, guest):
        self._called("detach", guest)
        if guest in self.guests:
            self.guests[guest]["state"] = "detached"
            self.guests[guest]["options"] = {"services": []}

    def forget(self, guest):
        self._called("forget", guest)
        if guest not in self.guests:
            raise engine_error("not-found")
        del self.guests[guest]

    def hold(self, guest, reason, timeout_s):
        self._called("hold", guest, reason)

    def release(self, guest):
        self._called("release", guest)

    def status(self, guest=""):
        self._called("status", guest)
        return [one for uuid, one in self.guests.items() if guest in ("", uuid)]

    def self_test(self):
        self._called("self_test")
        return {"capabilities": self.capabilities}


class DriverTestCase(test.NoDBTestCase):
    def setUp(self):
        # Nova's base class empties the object at the end; pytest then wants back the method that it put there.
        self.addCleanup(setattr, self, self._testMethodName, None)
        super().setUp()
        os_vif.initialize()
        self.useFixture(time_fixture.TimeFixture())
        self.context = nova_context.get_admin_context()
        self.flags(instances_path=self.useFixture(nova_fixtures.fixtures.TempDir()).path)
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.stub_out("nova.virt.libvirt.host.Host._init_events", lambda *args: None)
        self.stub_out("nova.virt.libvirt.host.Host._event_lifecycle_callback", lambda *args: None)
        self.useFixture(nova_fixtures.CGroupsFixture())
        self.useFixture(nova_fixtures.LibvirtImageBackendFixture())
        self._keep_xml_whole()
        for name in ("_ensure_console_log_for_instance", "_create_configdrive"):
            self.stub_out(f"nova.virt.libvirt.driver.LibvirtDriver.{name}", lambda *args, **kwargs: None)
        self.stub_out(
            "nova.virt.libvirt.driver.LibvirtDriver._build_device_metadata",
            lambda *args: objects.InstanceDeviceMetadata(devices=[]),
        )
        self.engine = FakeEngine()
        self.stub_out("nova_mhv.engine.Client", lambda path: self.engine)
        self.stub_out("nova.objects.Instance.save", lambda *args, **kwargs: None)
        self.stub_out("nova.objects.InstanceList.get_by_host", lambda *a, **k: objects.InstanceList(objects=[]))
        self.driver = self.make(driver.MHVDriver)
        self.flags(host="fake-host")

    def _keep_xml_whole(self):
        """Nova's fake libvirt forgets what Nova does not read: give back what was defined."""
        real_init = fakelibvirt.Domain.__init__

        def init(domain, connection, xml, *args, **kwargs):
            real_init(domain, connection, xml, *args, **kwargs)
            domain.defined_xml = xml

        self.stub_out("nova.tests.fixtures.libvirt.Domain.__init__", init)
        self.stub_out("nova.tests.fixtures.libvirt.Domain.XMLDesc", lambda domain, flags: domain.defined_xml)

    def make(self, driver_class):
        made = driver_class(fake_virt.FakeVirtAPI(), False)
        self.start(made)
        return made

    def start(self, made):
        with mock.patch.object(libvirt_driver.LibvirtDriver, "_check_my_ip"):
            made.init_host("fake-host")

    def instance(self, extra_specs=None, **changes):
        flavor = objects.Flavor(
            id=2, name="m1.small", flavorid="1", memory_mb=512, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0,
            rxtx_factor=1.0, vcpu_weight=None, extra_specs=dict(extra_specs or {}),
        )  # fmt: skip
        nothing = ("numa_topology", "config_drive", "vm_mode", "kernel_id", "ramdisk_id", "vcpu_model", "task_state",
                   "trusted_certs", "resources", "migration_context", "new_flavor", "old_flavor",
                   "ephemeral_key_uuid")  # fmt: skip
        values = dict.fromkeys(nothing) | {
            "id": 1, "uuid": uuids.instance, "display_name": "server", "project_id": "fake", "user_id": "fake",
            "image_ref": "155d900f-4e14-4e4c-a73d-069cbf4541e6", "root_gb": 1, "ephemeral_gb": 0, "vcpus": 1,
            "memory_mb": 512, "instance_type_id": flavor.id, "flavor": flavor, "pci_devices": objects.PciDeviceList(),
            "pci_requests": objects.InstancePCIRequests(requests=[]), "os_type": "linux", "host": "fake-host",
            "node": "fake-node", "vm_state": vm_states.ACTIVE, "cleaned": False, "deleted": False,
            "info_cache": objects.InstanceInfoCache(network_info=network_model.NetworkInfo()),
        }  # fmt: skip
        system_metadata = {"image_disk_format": "raw"} | changes.pop("system_metadata", {})
        instance = objects.Instance(self.context, **(values | {"system_metadata": system_metadata} | changes))
        instance.obj_reset_changes()
        return instance

    def mhv_instance(self, **changes):
        return self.instance(MHV_SPECS, **changes)

    def spawn(self, instance, drvr=None):
        drvr = drvr or self.driver
        no_bdms = {"block_device_mapping": [], "swap": None, "ephemerals": [], "image": []}
        with mock.patch.object(drvr, "_create_image", return_value=(True, True)):
            with mock.patch.object(drvr, "_register_undefined_instance_details"):
                drvr.spawn(self.context, instance, instance.image_meta, [], None, {}, network_info=[],
                           block_device_info=no_bdms)  # fmt: skip

    def domain(self, instance):
        return self.driver._host._get_domain(instance)
