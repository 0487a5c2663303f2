"""What a table of figures must say of where they were taken, in a line."""

from __future__ import annotations

from collections.abc import Mapping

from resq_onnx.evaluation.machine import describe_machine


def machine_line(more_versions: Mapping[str, str] | None = None) -> str:
    """CPU, usable cores, instruction sets (its own, and that of our kernels), versions.

    Args:
        more_versions: By package, beside those of our own.
    """
    machine = describe_machine()
    versions = {**(more_versions or {}), **machine.versions}
    return ", ".join(
        [
            f"{machine.cpu}, {machine.cores} cores with {' '.join(machine.instruction_sets)}",
            f"our kernels: {machine.kernels or 'none'}",
            *(f"{name} {version}" for name, version in versions.items()),
        ]
    )
