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

"""What a flavor asks for: extra specs (and image properties) into ``Services``.

Knows neither Nova nor the engine, so that the API host can load it too.

====================================  ======================================  ====================
extra spec                            value                                   image property
====================================  ======================================  ====================
mhv:services                          names of services, separated by commas  -
mhv:configure_<service>               a JSON object                           -
mhv:checkpoint_interval_s             0 (on demand), or 0.025 to 86400        may lengthen, or 0
mhv:checkpoint_keep                   1 to 10000, or 1m:all,1h:1s,1d:1m       may lower
mhv:checkpoint_disks                  required, best-effort or none           -
mhv:checkpoint_overhead_max           0.1 to 100 (percent)                    -
====================================  ======================================  ====================

The image properties are named ``mhv_checkpoint_interval_s`` and
``mhv_checkpoint_keep``: an image may ask for less than its flavor, not more.

What stays is a number of the newest automatic checkpoints, or pairs AGE:EVERY:
``1m:all,1h:1s,1d:1m`` keeps all of the last minute, of the last hour one a
second, of the last day one a minute, then none (cpp/keep/policy.h).

Where a flavor is made, a catalog (layers) says which services there are and
what their configurations may hold. On the compute host it is the engine that
knows, so that only the form is looked at.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from nova_mhv import layers
from nova_mhv.layers import shown as _shown

PREFIX = "mhv:"
IMAGE_PREFIX = "mhv_"
CONFIGURE = "mhv:configure_"

CHECKPOINT = "checkpoint"
DISK_POLICIES = ("required", "best-effort", "none")
INTERVAL_S_MIN = 0.025
INTERVAL_S_MAX = 86400.0
FREQUENT_S = 1.0
OVERHEAD_MIN = 0.1
OVERHEAD_MAX = 100.0
KEEP_MIN = 1
KEEP_MAX = 10000
KEEP_PAIRS_MAX = 8
KEEP_EXAMPLE = "1m:all,1h:1s,1d:1m"

_VALUE_CHARS_MAX = 255
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE_MAX_S = 520 * _UNITS_S["w"]
_PAIR = re.compile(r"([0-9]{1,6})([smhdw]):(?:(all)|([0-9]{1,6})([smhdw]))")


class FlavorError(ValueError):
    """A value that cannot be had; the text lists what is valid."""


@dataclasses.dataclass(frozen=True)
class Services:
    """``interval_s`` 0 takes no checkpoint by itself; ``keep`` counts the automatic ones, or is the text of a policy.

    ``overhead_max`` percent of the server's time is what automatic ones may cost: they come later rather than cost more.
    """

    names: tuple[str, ...]
    interval_s: float = 0.0
    keep: int | str = 10
    disks: str = "required"
    overhead_max: float = 10.0
    configurations: Mapping[str, str] = dataclasses.field(default_factory=dict)  # JSON, by name of the service

    @property
    def frequent(self) -> bool:
        """Whether every millisecond of a pause counts."""
        return 0 < self.interval_s < FREQUENT_S

    def with_added(self, present: "Services | None") -> "Services":
        """The same, and behind it what ``present`` has beyond it: what was added to the server while it ran."""
        if present is None:
            return self
        names = self.names + tuple(name for name in present.names if name not in self.names)
        kept = {name: text for name, text in present.configurations.items() if name in names}
        return dataclasses.replace(self, names=names, configurations={**kept, **self.configurations})


def parse_names(value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if not layers.NAME.fullmatch(name):
            raise FlavorError(f"{_shown(name)} is no name of a hypervisor service; valid: such as {', '.join(layers.BUILT_IN)}")
    if len(set(names)) != len(names):
        raise FlavorError(f"{_shown(value)} names a service twice; name each once")
    return tuple(names)


def parse_configuration(value: str) -> str:
    layers.parse_configuration(value)
    return value


def parse_interval(value: str) -> float:
    valid = f"0 (only on demand), or {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g} seconds"
    if not _NUMBER.fullmatch(value):
        raise FlavorError(f"{_shown(value)} is no checkpoint interval; valid: {valid}")
    interval_s = float(value)
    if interval_s != 0 and not INTERVAL_S_MIN <= interval_s <= INTERVAL_S_MAX:
        raise FlavorError(f"a checkpoint interval of {value} s is out of range; valid: {valid}")
    return interval_s


def keep_pairs(value: str) -> list[tuple[int, int]]:
    """A policy as (age, every) in seconds, every 0 for all. Raises FlavorError."""
    pairs = []
    for text in value.split(","):
        match = _PAIR.fullmatch(text)
        if not match:
            break
        age, age_unit, everything, every, every_unit = match.groups()
        pairs.append((int(age) * _UNITS_S[age_unit], 0 if everything else int(every) * _UNITS_S[every_unit]))
        if not 0 < pairs[-1][0] <= _AGE_MAX_S or pairs[-1][1] > pairs[-1][0] or not (everything or pairs[-1][1]):
            break
    else:
        grow = all(a < b and x < y for (a, x), (b, y) in zip(pairs, pairs[1:], strict=False))
        if grow and len(pairs) <= KEEP_PAIRS_MAX:
            return pairs
    raise FlavorError(f"{_shown(value)} does not say which checkpoints stay; valid: {_keep_valid()}")


def _keep_valid() -> str:
    return (
        f"a whole number from {KEEP_MIN} to {KEEP_MAX}, or up to {KEEP_PAIRS_MAX} pairs AGE:EVERY of growing times"
        f" such as {KEEP_EXAMPLE} (units: s, m, h, d, w)"
    )


def parse_keep(value: str) -> int | str:
    if ":" in value:
        keep_pairs(value)
        return value
    if not re.fullmatch(r"[0-9]{1,6}", value) or not KEEP_MIN <= int(value) <= KEEP_MAX:
        raise FlavorError(f"{_shown(value)} is no number of checkpoints to keep; valid: {_keep_valid()}")
    return int(value)


def parse_disks(value: str) -> str:
    if value not in DISK_POLICIES:
        raise FlavorError(f"{_shown(value)} is no policy for disks; valid: {', '.join(DISK_POLICIES)}")
    return value


def parse_overhead(value: str) -> float:
    valid = f"{OVERHEAD_MIN:g} to {OVERHEAD_MAX:g} percent"
    if not _NUMBER.fullmatch(value) or not OVERHEAD_MIN <= float(value) <= OVERHEAD_MAX:
        raise FlavorError(f"{_shown(value)} is no share of the server's time; valid: {valid}")
    return float(value)


PARSERS: dict[str, Callable[[str], object]] = {
    "mhv:services": parse_names,
    "mhv:checkpoint_interval_s": parse_interval,
    "mhv:checkpoint_keep": parse_keep,
    "mhv:checkpoint_disks": parse_disks,
    "mhv:checkpoint_overhead_max": parse_overhead,
}


def check(name: str, value: str, catalog: layers.Catalog | None = None) -> object:
    """One extra spec by itself: its parsed value, or FlavorError. Without a catalog its form alone."""
    service = name.removeprefix(CONFIGURE) if name.startswith(CONFIGURE) else ""
    parser = parse_configuration if layers.NAME.fullmatch(service) else PARSERS.get(name)
    if parser is None:
        raise FlavorError(f"unknown extra spec {_shown(name)}; valid: {', '.join(PARSERS)}, {CONFIGURE}SERVICE")
    if len(value) > _VALUE_CHARS_MAX:
        raise FlavorError(f"the value of {name} has {len(value)} characters; valid: at most {_VALUE_CHARS_MAX}")
    try:
        parsed = parser(value)
        if catalog is not None and service:
            catalog.check_name(service)
            catalog.check_configuration(service, layers.parse_configuration(value))
        elif catalog is not None and isinstance(parsed, tuple):
            catalog.check_names(parsed)
        return parsed
    except (FlavorError, layers.LayerError) as error:
        raise FlavorError(f"{name}: {error}") from None


def wants(extra_specs: Mapping[str, str]) -> bool:
    """Whether a flavor asks for a service at all, be its values right or wrong."""
    return any(name.startswith(PREFIX) for name in extra_specs)


def parse(extra_specs: Mapping[str, str], image_properties: Mapping[str, str] | None = None) -> Services | None:
    """What is asked for, or None for an ordinary flavor.

    ``image_properties`` are the image's own, by name. Raises FlavorError.
    """
    specs = {name: check(name, value) for name, value in extra_specs.items() if name.startswith(PREFIX)}
    if not specs:
        return None
    if "mhv:services" not in specs:
        raise FlavorError(f"{', '.join(sorted(specs))} without mhv:services; add mhv:services={CHECKPOINT}")
    configurations = {name.removeprefix(CONFIGURE): value for name, value in specs.items() if name.startswith(CONFIGURE)}
    _refuse_options_of_others(specs, configurations)
    values = {
        "names": specs["mhv:services"],
        "interval_s": specs.get("mhv:checkpoint_interval_s"),
        "keep": specs.get("mhv:checkpoint_keep"),
        "disks": specs.get("mhv:checkpoint_disks"),
        "overhead_max": specs.get("mhv:checkpoint_overhead_max"),
        "configurations": configurations,
    }
    asked = Services(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]
    return _lowered(asked, image_properties or {})


def _refuse_options_of_others(specs: Mapping[str, object], configurations: Mapping[str, object]) -> None:
    names = specs["mhv:services"]
    needed = {name: CHECKPOINT for name in specs if name.startswith("mhv:checkpoint_")}
    needed |= {CONFIGURE + service: service for service in configurations}
    for name, service in needed.items():
        if service not in names:  # type: ignore[operator]
            raise FlavorError(f"{name} without the service {service}; add it to mhv:services")


def _lowered(asked: Services, image_properties: Mapping[str, str]) -> Services:
    changes: dict[str, float | int | str] = {}
    for name, value in image_properties.items():
        if not name.startswith(IMAGE_PREFIX):
            continue
        if name == "mhv_checkpoint_interval_s":
            changes["interval_s"] = _longer_interval(asked, name, value)
        elif name == "mhv_checkpoint_keep":
            changes["keep"] = _lower_keep(asked, name, value)
        else:
            valid = "mhv_checkpoint_interval_s, mhv_checkpoint_keep"
            raise FlavorError(f"unknown image property {_shown(name)}; valid: {valid}")
    return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def _longer_interval(asked: Services, name: str, value: str) -> float:
    interval_s = _image_value(name, value, parse_interval)
    if interval_s == 0 or 0 < asked.interval_s <= interval_s:
        return interval_s
    valid = f"0, or {asked.interval_s:g} and more" if asked.interval_s else "0 (the flavor has no automatic ones)"
    raise FlavorError(f"the image's {name}={value} asks for more than the flavor gives; valid: {valid}")


def _lower_keep(asked: Services, name: str, value: str) -> int | str:
    keep = _image_value(name, value, parse_keep)
    if isinstance(asked.keep, int):
        valid = f"{KEEP_MIN} to {asked.keep}"
        if isinstance(keep, int) and keep <= asked.keep:
            return keep
    else:
        valid = f"pairs AGE:EVERY that keep no more than {asked.keep}"
        if isinstance(keep, str) and _keeps_no_more(keep_pairs(keep), keep_pairs(asked.keep)):
            return keep
    raise FlavorError(f"the image's {name}={value} asks for more than the flavor gives; valid: {valid}")


def _keeps_no_more(less: list[tuple[int, int]], more: list[tuple[int, int]]) -> bool:
    """At every age that ``less`` keeps at all, ``more`` keeps at least as often."""
    for age, every in less:
        allowed = next((x for a, x in more if age <= a), None)
        if allowed is None or every < allowed:
            return False
    return True


def _image_value(name: str, value: str, parser):
    try:
        return parser(value)
    except FlavorError as error:
        raise FlavorError(f"image property {name}: {error}") from None
