"""What every part needs: errors, files, progress, tree paths, meshes, compilation cache."""

from jprune.core.compilation import enable_compilation_cache
from jprune.core.errors import InputError, Interrupted, JpruneError, nearest, unknown
from jprune.core.files import (
    as_path,
    check_replaceable,
    is_complete,
    is_remote,
    jsonable,
    new_dir,
    read_json,
    remove_leftovers,
    sha256_array,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)
from jprune.core.mesh import parse_mesh, partition_spec, use_mesh
from jprune.core.progress import log, progress
from jprune.core.trees import map_named, matches, named_leaves, select
from jprune.core.version import __version__

__all__ = [
    "InputError",
    "Interrupted",
    "JpruneError",
    "__version__",
    "as_path",
    "check_replaceable",
    "enable_compilation_cache",
    "is_complete",
    "is_remote",
    "jsonable",
    "log",
    "map_named",
    "matches",
    "named_leaves",
    "nearest",
    "new_dir",
    "parse_mesh",
    "partition_spec",
    "progress",
    "read_json",
    "remove_leftovers",
    "select",
    "sha256_array",
    "sha256_file",
    "sha256_json",
    "unknown",
    "use_mesh",
    "write_bytes",
    "write_json",
    "write_text",
]
