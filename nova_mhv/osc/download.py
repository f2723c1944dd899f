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

"""An exported image, fetched into a file that was not there before."""

import hashlib
import logging
import os
from typing import Any, BinaryIO

import requests
from openstack import exceptions as sdk_exceptions
from osc_lib import exceptions

from nova_mhv.osc.common import Progress

LOG = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


class Download:
    """The file is made at once, so that nothing is exported in vain, and is removed again unless it is whole."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._whole = False

    def __enter__(self) -> "Download":
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise exceptions.CommandError(
                f"The file {self._path} is already there, and was left alone.\nName another file, or remove it first."
            ) from error
        except OSError as error:
            raise exceptions.CommandError(f"The file {self._path} cannot be made: {error.strerror}") from error
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()
        if not self._whole:
            os.unlink(self._path)

    def fetch(self, image_client: Any, image_id: str, progress: Progress) -> int:
        """Writes the image and deletes it from Glance, whole or not; returns its size in bytes."""
        try:
            return self._fetch(image_client, image_id, progress)
        # Before OSError, which both of them are.
        except (sdk_exceptions.SDKException, requests.RequestException) as error:
            raise exceptions.CommandError(f"The exported image {image_id} cannot be read: {error}") from error
        except OSError as error:
            raise exceptions.CommandError(f"The file {self._path} cannot be written: {error.strerror}") from error
        finally:
            _delete_image(image_client, image_id)

    def _fetch(self, image_client: Any, image_id: str, progress: Progress) -> int:
        image = image_client.get_image(image_id)
        digest = hashlib.new(image.hash_algo) if image.hash_value else None
        size = 0
        response = image_client.download_image(image, stream=True)
        sdk_exceptions.raise_from_response(response)
        for chunk in response.iter_content(_CHUNK_BYTES):
            self._file.write(chunk)
            size += len(chunk)
            if digest:
                digest.update(chunk)
            progress.update("downloading", size, image.size or 0)
        self._file.flush()
        os.fsync(self._file.fileno())
        if image.size not in (None, size) or (digest and digest.hexdigest() != image.hash_value):
            raise exceptions.CommandError("The exported image arrived altered or cut short.\nExport it again.")
        self._whole = True
        return size


def _delete_image(image_client: Any, image_id: str) -> None:
    try:
        image_client.delete_image(image_id, ignore_missing=True)
    except sdk_exceptions.SDKException as error:
        LOG.warning("The exported image %s could not be deleted: %s", image_id, error)
