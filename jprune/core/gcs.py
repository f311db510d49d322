"""Google Cloud Storage, as etils.epath and Orbax reach it; imported only where gs:// is used.

epath goes through fsspec to gcsfs, and Orbax's arrays through TensorStore. gcsfs is made to give
up within seconds while nothing has answered yet, to say in one line what is wrong, and to ask the
store every time: the listings that it would remember are changed by other processes.
"""

import asyncio
import contextlib
import logging
import os
import re
import traceback
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import unquote

import aiohttp
import fsspec
import google.auth
import requests
from gcsfs import retry
from gcsfs.core import GCSFileSystem
from google.auth.exceptions import GoogleAuthError

from jprune.core.errors import InputError

# How long the first answer of a bucket may take. Later requests are tried for as long as gcsfs
# does, about half a minute: a job that has run for hours should survive a short failure.
FIRST_ANSWER_SECONDS = 10.0

_EMULATOR = "STORAGE_EMULATOR_HOST"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, requests.RequestException)
# The second is that of newer versions of gcsfs.
_UNUSABLE = (GoogleAuthError, getattr(retry, "NonRetryableError", GoogleAuthError))
_KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_LOGIN = f"log in with `gcloud auth application-default login`, or set {_KEY_FILE} to a key file"


def connect() -> None:
    """Makes this client that of fsspec, hence of epath, and points TensorStore to the same host."""
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Client, clobber=True)
    # It would print every failure with a traceback; what is final is raised.
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    if host := os.environ.get(_EMULATOR):
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", host)


def create(path: str, data: bytes) -> bool:
    """Writes an object unless there is one of that name; whether it did. The store decides."""
    try:
        fsspec.filesystem("gcs").pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def read(path: str) -> bytes:
    """All of an object in one request: a file that is opened is asked for its size first."""
    return fsspec.filesystem("gcs").cat_file(path)


def write(path: str, data: bytes) -> None:
    """Makes or replaces an object, whole."""
    fsspec.filesystem("gcs").pipe_file(path, data)


@contextlib.contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """A context that gives a stream into an object, which appears if the block succeeds."""
    stream = fsspec.filesystem("gcs").open(path, "wb")
    try:
        yield stream
    except BaseException as error:
        # Closing it, also by the garbage collector, would leave a cut object under that name.
        stream.buffer, stream.closed = None, True
        # A view of the buffer in a frame of the error is what Python 3.12.1's collector crashes on
        # (CPython issue 111049).
        traceback.clear_frames(error.__traceback__)
        raise
    stream.close()


def versions(folder: str) -> dict[str, tuple[int, int]]:
    """Size and generation of every object below a folder, by relative name, in order."""
    store = fsspec.filesystem("gcs")
    prefix = store._strip_protocol(folder).rstrip("/") + "/"
    found = store.find(prefix, detail=True)
    return {
        name.removeprefix(prefix): (int(found[name]["size"]), int(found[name]["generation"]))
        for name in sorted(found)
        if name.startswith(prefix)
    }


class Client(GCSFileSystem):
    """gcsfs without memory of listings, and with errors for people.

    A missing object stays a FileNotFoundError, on which epath relies. All else is an InputError,
    which is no OSError: gcsfs takes those for "not there" when it is asked for a folder.
    """

    def __init__(self, *args: Any, token: Any = None, **options: Any):
        """Takes Google's application default credentials, or none where there are none."""
        super().__init__(
            *args, token=token or _credentials(), **(options | {"use_listings_cache": False})
        )
        self._answered: set[str] = set()  # buckets that exist, so far as is known

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Nothing: a store has no folders, and no bucket is ever made by mistake."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, as `mkdir`."""

    async def _request(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        """One request, as gcsfs makes it, with the errors of the class docstring."""
        url = self._format_path(path, args)
        found = re.search(r"/b/([^/?]+)(/o)?", url)
        bucket, is_object = (unquote(found[1]), found[2]) if found else ("", None)
        try:
            # What sends data may take its time; nothing but a reader asks a bucket first.
            if bucket in self._answered or "data" in options:
                return await super()._request(method, path, *args, **options)
            answer = await self._first_request(method, path, *args, **options)
            self._answered.add(bucket)
            return answer
        except FileNotFoundError:
            if bucket and bucket not in self._answered and is_object:
                await self._check_bucket(bucket)
            raise
        except FileExistsError:
            raise
        except _UNREACHABLE as error:
            late = f"no answer in {FIRST_ANSWER_SECONDS:g} s"
            timed_out = isinstance(error, asyncio.TimeoutError)
            reason = late if timed_out else str(error) or type(error).__name__
            raise InputError(
                f"cannot reach {self._location} for gs://{bucket}: {reason}; check the network, "
                "then run the same command again"
            ) from error
        except _UNUSABLE as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"gs://{bucket} cannot be opened with these credentials ({reason}): {_LOGIN}"
            ) from error
        except retry.HttpError as error:
            if error.code == 416:  # a range beyond the end, which gcsfs takes for nothing to read
                raise
            raise InputError(self._refusal(bucket, error)) from error
        except (OSError, ValueError) as error:
            # Few may look at a bucket itself; gcsfs then goes by what is in it.
            if not is_object:
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"gs://{bucket} refuses this: {reason}; it takes the permissions to list, read, "
                "write and delete objects (role Storage Object User)"
            ) from error

    async def _first_request(self, *args: Any, **options: Any) -> Any:
        """A request that is tried twice, and not for half a minute."""
        once = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)
        with contextlib.suppress(*_UNREACHABLE, retry.HttpError):
            return await asyncio.wait_for(once(self, *args, **options), FIRST_ANSWER_SECONDS)
        await asyncio.sleep(1)
        return await asyncio.wait_for(once(self, *args, **options), FIRST_ANSWER_SECONDS)

    async def _check_bucket(self, bucket: str) -> None:
        """Raises InputError if what was not found is the bucket."""
        try:
            await super()._request("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError:
            raise InputError(
                f"no such bucket: gs://{bucket}; check the name, or make it (gcloud storage "
                f"buckets create gs://{bucket})"
            ) from None
        except Exception:  # it may not be listed, or not now: the object is what was asked for
            return
        self._answered.add(bucket)

    def _refusal(self, bucket: str, error: retry.HttpError) -> str:
        message = " ".join(str(error.message).split())
        if error.code != 401:
            return f"gs://{bucket} answers with an error: {message}"
        anonymous = self.credentials.credentials is None
        does = "asks for credentials" if anonymous else "refuses these credentials"
        return f"gs://{bucket} {does} ({message}): {_LOGIN}"


def _credentials() -> Any:
    """What gcsfs takes as `token`.

    Its own search takes a quarter of a minute where there are none.
    """
    if os.environ.get(_EMULATOR):
        return "anon"
    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except GoogleAuthError as error:
        if os.environ.get(_KEY_FILE):
            raise InputError(f"{_KEY_FILE} names no usable key file: {error}") from error
        return "anon"
