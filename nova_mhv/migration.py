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

"""Live migration of a guest under services.

Nova writes the destination's XML from the source's, and on the way strips the
memory backing (it knows only its own file-backed memory). libvirt refuses a
destination whose memory source differs from the source's. So the XML is made
whole again at the last moment, in the one call that hands it to libvirt.
"""

from nova.virt.libvirt import guest as libvirt_guest

from nova_mhv import domain_xml


class MigratingGuest(libvirt_guest.Guest):
    """Nova's guest, whose destination XML has the same memory and monitor as here."""

    def __init__(self, guest: libvirt_guest.Guest, socket_path: str) -> None:
        super().__init__(guest._domain)
        self._socket_path = socket_path

    def migrate(self, destination, *args, destination_xml=None, **kwargs):
        if destination_xml is not None:
            destination_xml = domain_xml.enable(destination_xml, self._socket_path)
        return super().migrate(destination, *args, destination_xml=destination_xml, **kwargs)
