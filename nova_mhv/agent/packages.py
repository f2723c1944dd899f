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

"""A layer's package on its way from Glance to the engine, which alone decides whether it is to be trusted."""

from typing import IO, Any

import requests
from keystoneauth1 import exceptions as ks_exceptions
from oslo_log import log as logging

from nova_mhv.agent.export import temporary_file
from nova_mhv.rpc import AgentError

LOG = logging.getLogger(__name__)

BYTES_MAX = (1 << 30) + (16 << 20)  # what a package may hold (cpp/package/listing.h), and tar around it

_CHUNK_BYTES = 1 << 20


class GlancePackages:
    """Thread-safe. ``glance`` is a keystoneauth adapter whose user may read images of other projects."""

    def __init__(self, glance: Any, folder: str) -> None:
        self._glance = glance
        self._folder = folder

    def fetch(self, image_id: str) -> IO[bytes]:
        """The image in a file without a name, which is the caller's to close. Raises AgentError."""
        file = temporary_file(self._folder)
        try:
            self._fetch(image_id, file)
        except BaseException:
            file.close()
            raise
        return file

    def _fetch(self, image_id: str, file: IO[bytes]) -> None:
        headers = {"Accept": "application/octet-stream"}
        size = 0
        try:
            with self._glance.get(f"/v2/images/{image_id}/file", headers=headers, stream=True, log=False) as response:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > BYTES_MAX:
                        raise AgentError("invalid", f"The image {image_id} is no package of a service: it is too large.")
                    file.write(chunk)
            file.flush()
        except ks_exceptions.NotFound as error:
            raise AgentError("not-found", f"The image {image_id} could not be found.") from error
        except (ks_exceptions.ClientException, requests.RequestException) as error:
            LOG.exception("The image %s could not be fetched", image_id)
            message = f"The image service did not give the image {image_id}: {error}"
            raise AgentError("unavailable", message, "Try again, or look at the log of mhv-agent.") from error
        except OSError as error:
            raise AgentError("no-space", f"The image {image_id} could not be kept: {error.strerror}") from error
