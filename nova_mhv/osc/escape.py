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


"""What a guest or a service says, made fit for a terminal: as mhvctl does (cpp/ctl/escape.h)."""

import json
import unicodedata
from typing import Any

from cliff import columns as cliff_columns

# Control characters, halves of surrogate pairs, ends of lines, and of the format characters those that turn the direction of writing.
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escaped(text: str) -> str:
    """One line without terminal escapes; a backslash becomes two, so that nothing else looks like what is escaped."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character not in _TURNS and unicodedata.category(character) not in _CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


class GuestColumn(cliff_columns.FormattableColumn[Any]):
    """A value from outside of the cloud. ``-f json`` has it as it is, which escapes what it must by itself."""

    def human_readable(self) -> str:
        return shown(self._value)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escaped(value)
    return escaped(json.dumps(value, ensure_ascii=False)) if isinstance(value, dict | list) else str(value)


def value_for(formatter: str, value: Any) -> Any:
    """A cell of a table; numbers stay what they are. Formats other than JSON print the machine's form of a column as it is."""
    if value is None or isinstance(value, int | float):
        return value
    return GuestColumn(value) if formatter == "json" else shown(value)
