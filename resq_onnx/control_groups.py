"""Limits of memory that Linux's control groups set, such as a container's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONTAINER: Final = Path("/sys/fs/cgroup")
"""Where Linux shows control groups; in a container, its own."""

FIRST: Final = CONTAINER / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
SECOND: Final = CONTAINER, ("memory.max", "memory.current")
"""Folder of all groups, and a group's limit and use, in either version."""

CACHED: Final = ("inactive_file", "active_file", "slab_reclaimable")
"""Parts of the use that are given up where others need them."""

GROUPS: Final = Path("/proc/self/cgroup")
"""Those of this process."""


@dataclass(frozen=True)
class Limit:
    """Of the memory of a group.

    Attributes:
        total: Bytes that all its processes may take.
        left: Those that they do not use, or only for files that can be given up.
    """

    total: int
    left: int


def memory_limits() -> list[Limit]:
    """Those of the groups that this process is in; none where nothing limits it."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        top, files = FIRST if controllers else SECOND
        own = top / path.strip("/")
        groups = [group for group in (own, *own.parents) if group.is_relative_to(top)]
        found += [_limit_of(group, files) for group in groups]
    return [limit for limit in found if limit is not None]


def _limit_of(group: Path, files: tuple[str, str]) -> Limit | None:
    try:
        limit, used = (int((group / name).read_text()) for name in files)
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such files, or "max"
        return None
    return Limit(limit, limit - used + sum(int(kept.get(name, 0)) for name in CACHED))
