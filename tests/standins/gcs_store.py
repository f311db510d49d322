"""What a stand-in for Google Cloud Storage holds, and what a test may do to it."""

import itertools
import pathlib
import re
import threading
import time
from dataclasses import dataclass, field

BUCKET = "bucket"


@dataclass(frozen=True)
class Stored:
    """An object: its bytes, and the number that tells its versions apart."""

    data: bytes
    generation: int
    updated: float = field(default_factory=time.time)


class Trap:
    """Holds the uploads of objects whose name matches, before anybody can see them."""

    def __init__(self, pattern: str):
        self.pattern = re.compile(pattern)
        self.sprung = threading.Event()
        self.opened = threading.Event()


class Store:
    """Buckets of objects, and what goes wrong with them.

    Attributes:
      buckets: objects by name, by bucket.
      refused: the status that every request to a bucket gets.
      visible: whether buckets themselves may be looked at, and not only what is in them; the role
        Storage Object User does not allow it.
      trap: which upload is held, if any.
      page: how many names one page of a listing has.
      changes_left: after so many more writes and deletions all requests are refused, as if their
        sender had died; None for no end.
      requests: method and path of every request.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {BUCKET: {}}
        self.refused: dict[str, int] = {}
        self.visible = False
        self.trap: Trap | None = None
        self.page = 5
        self.changes_left: int | None = None
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self.lock = threading.Lock()
        self.generations = itertools.count(1)
        self.uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}

    @property
    def objects(self) -> dict[str, bytes]:
        """What is in the one bucket that is there from the start."""
        with self.lock:
            return {name: stored.data for name, stored in self.buckets[BUCKET].items()}

    def put(self, name: str, data: bytes, bucket: str = BUCKET) -> Stored:
        """Makes or replaces an object."""
        with self.lock:
            self.buckets[bucket][name] = stored = Stored(data, next(self.generations))
        return stored

    def put_folder(self, name: str, folder: pathlib.Path) -> str:
        """Puts the files of a local folder under a name; gives its address."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{name}/{file.relative_to(folder)}", file.read_bytes())
        return f"gs://{BUCKET}/{name}"

    def clear(self) -> None:
        """Makes it as it was at the start."""
        with self.lock:
            self.buckets = {BUCKET: {}}
            self.refused, self.uploads, self.visible = {}, {}, False
            self.trap = self.changes_left = None
            self.requests.clear()

    @property
    def environment(self) -> dict[str, str]:
        """What sends the clients here instead of to Google, without credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore looks for one, and complains
        }
