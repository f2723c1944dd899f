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

"""What Nova sees of the engine's pauses: nothing.

An epoch stops a guest for milliseconds, up to 40 times a second. libvirt then
sends PAUSED and RESUMED events, and a look at the domain may find it paused.

Whose pause it is shows in libvirt's reason: QEMU stopped without libvirt
asking is VIR_DOMAIN_PAUSED_UNKNOWN; a pause by Nova is USER, a failed disk
IOERROR, a migration MIGRATION. Events come without their reason, so those of
a watched guest are dropped unless Nova itself is acting on it; a real change
of state is then seen by Nova's periodic power state synchronisation.
"""

import libvirt
from nova.compute import power_state, vm_states
from nova.virt import event as virtevent
from nova.virt import hardware

from nova_mhv.guests import Guests
from nova_mhv.hold import Holds

_TRANSITIONS = (virtevent.EVENT_LIFECYCLE_PAUSED, virtevent.EVENT_LIFECYCLE_RESUMED)


def hides(event: virtevent.Event, guests: Guests, holds: Holds) -> bool:
    """Whether an event is to be kept from Nova. Called on libvirt's event thread: asks nobody."""
    if not isinstance(event, virtevent.LifecycleEvent) or event.get_transition() not in _TRANSITIONS:
        return False
    uuid = event.get_instance_uuid()
    return guests.watches(uuid) and not holds.held(uuid)


def seen(info: hardware.InstanceInfo, instance, guest) -> hardware.InstanceInfo:
    """``info`` of a watched guest that was found paused, as Nova is to see it; ``guest`` is Nova's libvirt guest."""
    if instance.vm_state == vm_states.PAUSED:
        return info
    state, reason = guest._domain.state()
    engines = state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_UNKNOWN
    if engines or state == libvirt.VIR_DOMAIN_RUNNING:
        return hardware.InstanceInfo(state=power_state.RUNNING, internal_id=info.internal_id)
    return info
