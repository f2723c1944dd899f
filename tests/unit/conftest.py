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

"""oslo.service lets a process choose its kind of concurrency once, before anything imports it: native threads, as our
own programs do. Nova's switch OS_NOVA_DISABLE_EVENTLET_PATCHING=false chooses eventlet: for tests/unit/driver alone,
which have to pass with both.
"""

import os

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "true")

try:
    from nova import monkey_patch
except ImportError:
    pass  # the driver's tests are then left out
else:
    # With threads Nova forbids eventlet to the whole process, though libraries of ours may still import it.
    monkey_patch.poison_eventlet = lambda: None
    monkey_patch.patch()
