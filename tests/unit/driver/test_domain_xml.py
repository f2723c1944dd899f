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

from lxml import etree

from nova_mhv import domain_xml

PLAIN = "<domain type='kvm'>\n  <uuid>u</uuid>\n  <memory>524288</memory>\n  <devices/>\n</domain>"
SOCKET = "/run/nova-mhv/qmp/u.sock"


def _backing(xml):
    return [(one.tag, dict(one.attrib)) for one in etree.fromstring(xml).find("memoryBacking")]


def _arguments(xml):
    return [one.get("value") for one in etree.fromstring(xml).iter(f"{{{domain_xml.QEMU_NS}}}arg")]


def test_an_ordinary_domain_is_not_enabled():
    assert not domain_xml.enabled(PLAIN)


def test_memory_is_a_shared_memfd():
    assert _backing(domain_xml.enable(PLAIN, SOCKET)) == [("source", {"type": "memfd"}), ("access", {"mode": "shared"})]


def test_the_monitor():
    xml = domain_xml.enable(PLAIN, SOCKET)
    assert domain_xml.enabled(xml)
    chardev = "socket,id=mhv,path=/run/nova-mhv/qmp/u.sock,server=on,wait=off"
    assert _arguments(xml) == ["-chardev", chardev, "-mon", "chardev=mhv,mode=control"]
    assert f'<domain xmlns:qemu="{domain_xml.QEMU_NS}" type="kvm">' in xml


def test_twice_is_once():
    once = domain_xml.enable(PLAIN, SOCKET)
    assert domain_xml.enable(once, SOCKET) == once


def test_what_stands_there_stays():
    stands = PLAIN.replace("<devices/>", "<memoryBacking><locked/></memoryBacking><devices><a/></devices>")
    xml = domain_xml.enable(stands, SOCKET)
    assert _backing(xml)[0] == ("locked", {})
    assert etree.fromstring(xml).find("devices/a") is not None


def test_hugepages_and_files_stay():
    huge = PLAIN.replace("<devices/>", "<memoryBacking><hugepages/></memoryBacking>")
    assert _backing(domain_xml.enable(huge, SOCKET)) == [("hugepages", {})]
    filed = PLAIN.replace("<devices/>", "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>")
    assert _backing(domain_xml.enable(filed, SOCKET)) == [("source", {"type": "file"}), ("access", {"mode": "shared"})]


def test_arguments_of_others_stay():
    others = PLAIN.replace("type='kvm'", f"type='kvm' xmlns:qemu='{domain_xml.QEMU_NS}'").replace(
        "<devices/>", "<qemu:commandline><qemu:arg value='-S'/></qemu:commandline>"
    )
    assert _arguments(domain_xml.enable(others, SOCKET))[:2] == ["-S", "-chardev"]


def test_a_comma_in_the_path_is_escaped():
    assert "path=/a,,b/u.sock,server=on" in domain_xml.enable(PLAIN, "/a,b/u.sock")


def test_a_tenants_text_does_not_enable():
    assert not domain_xml.enabled("<domain><metadata><name>socket,id=mhv,path=/x</name></metadata></domain>")


def test_free_pages_are_not_reported():
    xml = "<domain><devices><memballoon model='virtio' freePageReporting='on'><stats period='10'/></memballoon></devices></domain>"
    balloon = etree.fromstring(domain_xml.enable(xml, SOCKET)).find("devices/memballoon")
    assert balloon.get("freePageReporting") == "off"
    assert balloon.find("stats") is not None


def _lean(machine):
    xml = f"<domain><memory>1</memory><os><type machine='{machine}'>hvm</type></os><devices><memballoon model='virtio'/></devices></domain>"
    return domain_xml.enable(xml, SOCKET, lean=True)


def test_frequent_checkpoints_have_little_device_state():
    for machine in ("pc", "pc-i440fx-10.0"):
        xml = _lean(machine)
        assert [dict(one.attrib) for one in etree.fromstring(xml).iterfind("devices/memballoon")] == [{"model": "none"}]
        assert _arguments(xml)[4:] == ["-global", "virtio-net-pci.disable-modern=on", "-global", "virtio-blk-pci.disable-modern=on"]


def test_pci_express_keeps_the_modern_interface():
    xml = _lean("q35")
    assert [dict(one.attrib) for one in etree.fromstring(xml).iterfind("devices/memballoon")] == [{"model": "none"}]
    assert len(_arguments(xml)) == 4
