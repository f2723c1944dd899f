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

"""Validators of the extra specs ``mhv:*``, for Nova's API (entry point nova.api.extra_spec_validators).

Nova applies them from microversion 2.86 on. It looks a name up as it stands
first, then goes through patterns in the order of registration; the pattern
that comes last here gives unknown names of the namespace a useful refusal.
"""

import nova.conf
from nova import exception
from nova.api.validation.extra_specs import base

from nova_mhv import flavor, layers
from nova_mhv.conf import layers as layers_conf

CONF = nova.conf.CONF
CONF.register_group(layers_conf.GROUP)
CONF.register_opts(layers_conf.FLAVOR_OPTS, group=layers_conf.GROUP)

_DESCRIPTIONS = {
    "mhv:services": "Hypervisor services of the server, separated by commas: " + ", ".join(layers.BUILT_IN) + ", and "
    "what [layers] enabled in nova.conf names.",
    "mhv:checkpoint_interval_s": "Seconds between automatic checkpoints: 0 (none), or "
    f"{flavor.INTERVAL_S_MIN:g} to {flavor.INTERVAL_S_MAX:g}.",
    "mhv:checkpoint_keep": f"Which automatic checkpoints stay: {flavor.KEEP_MIN} to {flavor.KEEP_MAX} of the newest, "
    f"or one per time by age, as in {flavor.KEEP_EXAMPLE}.",
    "mhv:checkpoint_overhead_max": "Percent of the server's time that automatic checkpoints may cost: "
    f"{flavor.OVERHEAD_MIN:g} to {flavor.OVERHEAD_MAX:g}; they come later rather than cost more.",
    "mhv:checkpoint_disks": "What to do with a disk that cannot be checkpointed: "
    "required (refuse the server), best-effort (leave it out), none (leave out all).",
}


class Validator(base.ExtraSpecValidator):
    """Refuses with the text of nova_mhv.flavor, which lists what is valid."""

    def validate(self, name, value):
        try:
            flavor.check(name, value, layers.catalog(CONF.layers.enabled, CONF.layers.manifest_dirs))
        except flavor.FlavorError as error:
            raise exception.ValidationError(f"Validation failed; {error}.") from None


def register():
    known = [Validator(name=name, description=text, value={"type": str}) for name, text in _DESCRIPTIONS.items()]
    unknown = Validator(
        name="mhv:{name}",
        description="Any other name in the namespace is refused.",
        value={"type": str},
        parameters=[{"name": "name", "pattern": r".*"}],
    )
    configuration = Validator(
        name=flavor.CONFIGURE + "{service}",
        description="The configuration of a service, a JSON object that its manifest describes.",
        value={"type": str},
        parameters=[{"name": "service", "pattern": r"[a-z][a-z0-9-]*"}],
    )
    return [*known, configuration, unknown]
