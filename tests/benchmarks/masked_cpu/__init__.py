"""Programs that see a CPU with AVX2 and without AVX-512, AVX-VNNI and AMX, on one that has them.

audit.cpp, compiled on first use, is loaded into each process and answers its cpuid instructions.
cpuid_sites.py finds these, in every object that a process loads; a process that loaded one which
was not searched yet is run again. glibc, which asks the CPU before anyone else can answer, has a
setting of its own, and /proc/cpuinfo is replaced by a file without those flags.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.masked_cpu.counts import COUNTS, Counts
from tests.benchmarks.masked_cpu.cpuid_sites import find_cpuids
from tests.benchmarks.masked_cpu.cpuinfo import masked_cpuinfo

SOURCE: Final = Path(__file__).with_name("audit.cpp")

GLIBC: Final = "glibc.cpu.hwcaps=" + ",".join(
    f"-AVX512{part}" for part in ("F", "VL", "BW", "DQ", "CD", "ER", "PF")
)
"""glibc chooses memcpy and the like by these (man ld.so, GLIBC_TUNABLES)."""

SAMPLE_US: Final = 1000
"""Of CPU time; kernels round it up to their own tick, mostly 4 ms."""

MOST_RUNS: Final = 3
"""Of a program: one finds its objects, and some may be loaded only on the masked CPU."""


@dataclass(frozen=True)
class MaskedCpu:
    """Such a CPU.

    Attributes:
        folder: Keeps what is made for it: the library, and where each object has its cpuids.
    """

    folder: Path

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        masked: bool = True,
        sampled: bool = False,
        **options: Any,
    ) -> tuple[subprocess.CompletedProcess[str], Counts]:
        """Run a program.

        Args:
            command: It and its arguments.
            env: Its variables; those needed here are added.
            masked: Whether it is to see the CPU with AVX2 alone; otherwise it is only watched.
            sampled: Whether its program counter is sampled, which costs a little time.
            options: Further ones of `subprocess.run`.

        Raises:
            RuntimeError: No C++ compiler or no objdump; or other objects are loaded each time.
        """
        library = str(self.library())
        preloaded = [library, *env.get("LD_PRELOAD", "").split()]
        variables = {**env, "LD_AUDIT": library}
        if masked:
            tunables = [GLIBC, *env.get("GLIBC_TUNABLES", "").split(":")]
            variables["LD_PRELOAD"] = " ".join(preloaded)
            variables["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
        if sampled:
            variables["MASKED_CPU_SAMPLES"] = str(SAMPLE_US)
        for _ in range(MOST_RUNS):
            done, counts, objects = self._run_once(command, variables, masked, options)
            if masked and not objects:
                raise RuntimeError(f"{command[0]} loads nothing that can be masked, or ignores it")
            if not masked or not self._search(objects):
                return done, counts
        raise RuntimeError(f"{command[0]} loads other objects each time")

    def library(self) -> Path:
        """audit.cpp, compiled unless that was done since its last edit."""
        library = self.folder / "audit.so"
        if not library.is_file() or library.stat().st_mtime < SOURCE.stat().st_mtime:
            compiler = shutil.which(os.environ.get("CXX", "c++"))
            if compiler is None:
                raise RuntimeError("no C++ compiler to build audit.cpp with; name one by CXX")
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-o", str(library)]
            subprocess.run([compiler, str(SOURCE), *flags], check=True)
        return library

    def _run_once(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        masked: bool,
        options: Mapping[str, Any],
    ) -> tuple[subprocess.CompletedProcess[str], Counts, set[Path]]:
        """One process: its result, what it executed, and the objects it loaded."""
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, name) for name in ("COUNTS", "OBJECTS", "SITES", "INFO")}
            files["COUNTS"].write_bytes(bytes(COUNTS.size))
            files["OBJECTS"].touch()
            sites = [
                f"{address:x} {path}\n"
                for path, known in self._known().items()
                for address in known["addresses"]
            ]
            files["SITES"].write_text("".join(sites))
            files["INFO"].write_text(masked_cpuinfo(Path("/proc/cpuinfo").read_text()))
            named = ("COUNTS", "OBJECTS", "SITES", "INFO") if masked else ("COUNTS",)
            more = {f"MASKED_CPU_{name}": str(files[name]) for name in named}
            done = subprocess.run(command, env={**variables, **more}, **options)
            objects = {Path(line) for line in files["OBJECTS"].read_text().splitlines()}
            return done, Counts.read(files["COUNTS"].read_bytes()), objects

    def _known(self) -> dict[str, dict[str, Any]]:
        """By path, what was found in the objects that have not changed since."""
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._table.read_text())
        except FileNotFoundError:
            return {}
        return {path: known for path, known in found.items() if known["stamp"] == _stamp(path)}

    def _search(self, objects: set[Path]) -> bool:
        """Search objects for cpuid; whether there was a new one."""
        known = self._known()
        new = sorted(str(path) for path in objects if str(path) not in known)
        for path in new:
            sites = find_cpuids(Path(path))
            known[path] = {"stamp": _stamp(path), "addresses": sites.addresses}
        self._table.write_text(json.dumps(known))
        return bool(new)

    @property
    def _table(self) -> Path:
        return self.folder / "cpuids.json"


def _stamp(path: str) -> list[int] | None:
    """By which another file with this name is known; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size]
