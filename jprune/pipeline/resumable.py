"""A pass over the blocks that goes on where it was stopped: what it found so far, on disk."""

from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, jsonable, read_json, write_json
from jprune.core.processes import is_writer, on_writer

PROGRESS = "progress.json"


class Progress:
    """One JSON value per finished block, in the file `progress.json` of a folder.

    Args:
      folder: where the file is, and whatever the values refer to.
      key: says what is computed; what is on record under another key does not count.
    """

    def __init__(self, folder: PathLike, key: str):
        self.file = as_path(folder) / PROGRESS
        self.key = key
        self.entries: list[Any] = on_writer(self._read)

    def add(self, entry: Any) -> None:
        """Records the next block, whose files are there."""
        self.entries.append(jsonable(entry))
        self._write()

    def keep(self, count: int) -> None:
        """Forgets all but the first blocks."""
        if count < len(self.entries):
            del self.entries[count:]
            self._write()

    def _read(self) -> list[Any]:
        try:
            found = read_json(self.file) if self.file.exists() else {}
        except InputError:
            return []
        if not isinstance(found, dict) or found.get("key") != self.key:
            return []
        return list(found.get("blocks", ()))

    def _write(self) -> None:
        if is_writer():
            write_json(self.file, {"key": self.key, "blocks": self.entries})
