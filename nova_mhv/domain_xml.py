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

"""A guest's libvirt XML, made fit for the engine.

Changed in what Nova wrote:

* memory as a shared memfd, which the engine reads without going through QEMU.
  Hugepages and file-backed memory, which the operator or flavor chose, stay;
* a QMP monitor of the engine's own (``qemu:commandline``), since commands
  through libvirt cost milliseconds each;
* the balloon no longer reports free pages: what QEMU then gives back to the
  host changes without a trace that the engine could see.

For frequent checkpoints also (``enable(..., lean=True)``), because QEMU saves
1,024 queues of every virtio device in every pause, half a millisecond each:

* no balloon;
* on machine type ``pc``, network and disk without the virtio 1.0 interface,
  which is what keeps that state; every driver knows the older one.

A domain with that monitor is under services: ``enabled`` is the one mark that
survives restarts of everything.
"""

from lxml import etree

QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
MONITOR_ID = "mhv"

_COMMANDLINE = f"{{{QEMU_NS}}}commandline"
_ARG = f"{{{QEMU_NS}}}arg"
_CHARDEV_START = f"socket,id={MONITOR_ID},"


def qmp_path(run_dir: str, uuid: str) -> str:
    return f"{run_dir}/qmp/{uuid}.sock"


def enabled(xml: str) -> bool:
    """Whether the domain has the engine's monitor."""
    return _has_monitor(etree.fromstring(xml))


def enable(xml: str, socket_path: str, lean: bool = False) -> str:
    """The same domain, made fit for services; what it has of shared memory and the monitor stays as it is.

    ``lean`` changes devices: only for a domain that is about to boot.
    """
    domain = etree.fromstring(xml)
    _share_memory(domain)
    for balloon in domain.iterfind("devices/memballoon[@freePageReporting]"):
        balloon.set("freePageReporting", "off")
    if not _has_monitor(domain):
        domain = _with_monitor(domain, socket_path)
    if lean:
        _make_lean(domain)
    return etree.tostring(domain, encoding="unicode", pretty_print=True)


def _has_monitor(domain) -> bool:
    return any((arg.get("value") or "").startswith(_CHARDEV_START) for arg in domain.iterfind(f"{_COMMANDLINE}/{_ARG}"))


def _make_lean(domain) -> None:
    devices = domain.find("devices")
    for balloon in devices.findall("memballoon"):
        devices.remove(balloon)
    etree.SubElement(devices, "memballoon", model="none")
    machine = domain.find("os/type").get("machine") or "pc"
    if machine == "pc" or machine.startswith("pc-i440fx"):
        for device in ("virtio-net-pci", "virtio-blk-pci"):
            for value in ("-global", f"{device}.disable-modern=on"):
                etree.SubElement(domain.find(_COMMANDLINE), _ARG, value=value)


def _share_memory(domain) -> None:
    backing = domain.find("memoryBacking")
    if backing is None:
        backing = etree.Element("memoryBacking")
        memory = domain.find("memory")
        domain.insert(0 if memory is None else domain.index(memory) + 1, backing)
    if backing.find("hugepages") is not None:
        return
    if backing.find("source") is None:
        etree.SubElement(backing, "source", type="memfd")
    if backing.find("access") is None:
        etree.SubElement(backing, "access", mode="shared")


def _with_monitor(domain, socket_path: str):
    # A namespace can be declared only where an element is made.
    root = etree.Element(domain.tag, dict(domain.attrib), nsmap={**domain.nsmap, "qemu": QEMU_NS})
    root.text = domain.text
    root.extend(list(domain))
    commandline = root.find(_COMMANDLINE)
    if commandline is None:
        commandline = etree.SubElement(root, _COMMANDLINE)
    chardev = f"{_CHARDEV_START}path={socket_path.replace(',', ',,')},server=on,wait=off"
    for value in ("-chardev", chardev, "-mon", f"chardev={MONITOR_ID},mode=control"):
        etree.SubElement(commandline, _ARG, value=value)
    return root
