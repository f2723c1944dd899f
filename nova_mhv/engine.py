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

"""The engine on this host, as Python sees it: requests to mhvd.

``Client`` is thread-safe, connects at its first request, replaces a
connection that mhvd closed, and releases the GIL while it waits. Every
request may raise ``EngineError``; its ``code`` is one of::

    internal invalid not-found exists unsupported busy gone no-space corrupt
    version permission unavailable

``message`` says what failed and ``hint`` what to do about it. ``guest`` is a
libvirt name or a UUID. Dictionaries have the field names of the messages in
``cpp/protocol/mhv.proto``; ``progress`` is called as ``(stage, done, total)``
with a total of 0 while it is not known.
"""

from nova_mhv._engine import DEFAULT_SOCKET, Client, EngineError

__all__ = ("DEFAULT_SOCKET", "Client", "EngineError")
