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

"""``nova_mhv.api.wsgi:application``, for any WSGI server."""

from oslo_service.backend import BackendType, init_backend

# Before anything imports oslo_service.service, as oslo.messaging does: native threads, no eventlet.
init_backend(BackendType.THREADING)

from nova_mhv.api import app  # noqa: E402

application = app.make_application(app.load_config())
