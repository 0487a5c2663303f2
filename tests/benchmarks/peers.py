"""Whole-model speed and memory against other runtimes, in one table of one run.

python -m tests.benchmarks.peers [--python PEERS_PYTHON] [--rounds R] [--json FILE]
    [--busy-core | --handed-over] [--isa avx2 | --instructions]

Every measurement is a process of its own (load, warm up, one prompt, new tokens); runtimes
alternate within a round, so that a slow minute of the machine is everybody's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.benchmarks.machine import machine_line
from tests.benchmarks.masked_cpu import MaskedCpu
from tests.benchmarks.peer_instructions import print_instructions, watch
from tests.benchmarks.peer_list import OURS, PEERS, Peer, installed_packages
from tests.benchmarks.peer_models import ROOT, Workshop
from tests.benchmarks.peer_runtime import Runtime, Scenario
from tests.benchmarks.peer_tables import print_busy_table, print_table

FOLDER: Final = ROOT / "build" / "peers"
MODEL: Final = ROOT / "build" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Results:
    """Samples by scenario and name, in order of rounds; and why a runtime has none."""

    samples: dict[Scenario, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: Scenario, name: str, sample: dict[str, float]) -> None:
        """Add one run."""
        self.samples.setdefault(scenario, {}).setdefault(name, []).append(sample)


def prepare(
    peers: Sequence[Peer],
    shop: Workshop,
    ours: Path | None,
    cpu: MaskedCpu | None,
    results: Results,
) -> list[Runtime]:
    """Those that can run, with their models made; the others get a reason."""
    own, others = installed_packages(sys.executable), installed_packages(shop.python)
    runtimes = []
    for peer in peers:
        reason = peer.missing(own, others)
        try:
            if reason is not None:
                raise RuntimeError(reason)
            made = ours if ours and peer.form == OURS.form else shop.prepared(peer.form) / peer.file
            python = sys.executable if peer.ours else shop.python
            runtimes.append(Runtime(peer, python, made, cpu))
        except RuntimeError as error:
            results.reasons[peer.name] = str(error)
    return runtimes


def run_rounds(
    runtimes: list[Runtime], scenarios: list[Scenario], rounds: int, new: int, results: Results
) -> None:
    """Fill `results`; a runtime that fails is not tried again."""
    for number in range(rounds):
        for scenario in scenarios:
            for runtime in runtimes:
                name = runtime.peer.name
                if name in results.reasons:
                    continue
                print(f"round {number + 1}/{rounds}: {scenario}: {name}", file=sys.stderr)
                try:
                    results.add(scenario, name, runtime.measure(scenario, new))
                except RuntimeError as error:
                    results.reasons[name] = f"failed with {scenario}: {error}"


def scenarios_of(options: argparse.Namespace) -> list[Scenario]:
    """Every number of threads with the short prompt; the most threads with the long one."""
    most = max(options.threads)
    if options.busy_core:
        prompt = options.prompt_tokens
        return [Scenario(1, prompt), Scenario(most, prompt), Scenario(most, prompt, busy=True)]
    short = [Scenario(threads, options.prompt_tokens) for threads in sorted(set(options.threads))]
    long = [Scenario(most, options.long_prompt_tokens)] if options.long_prompt_tokens else []
    return short + long


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    venv = FOLDER / "venv" / "bin" / "python"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=MODEL, help="a .gguf file of Q4_1")
    parser.add_argument("--ours", type=Path, help="our export of it; default: made here")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="keeps the peers' models")
    parser.add_argument(
        "--python",
        default=str(venv) if venv.is_file() else sys.executable,
        help="interpreter with the peers' packages (default: that of FOLDER/venv, or this one)",
    )
    parser.add_argument("--only", nargs="+", default=[], choices=[p.name for p in PEERS])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--long-prompt-tokens", type=int, default=3584, help="0: none")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy-core", action="store_true", help="decode beside a busy process")
    parser.add_argument("--handed-over", action="store_true", help="our model in other runtimes")
    parser.add_argument("--isa", choices=["avx2"], help="all runtimes see a CPU with no more")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="sample which instructions are executed, with and without --isa, not speeds",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")
    return parser.parse_args()


def main() -> None:
    """Prepare, measure, print."""
    options = parse_arguments()
    results = Results()
    wanted = [peer for peer in PEERS if options.busy_core or not peer.busy_only]
    if options.only:
        wanted = [peer for peer in wanted if peer.form == OURS.form or peer.name in options.only]
    else:
        wanted = [
            peer for peer in wanted if peer.handed_over == options.handed_over or peer == OURS
        ]
    shop = Workshop(options.model.resolve(), options.folder.resolve(), options.python)
    masked = MaskedCpu(shop.folder / "masked_cpu")
    ours = options.ours and options.ours.resolve()
    runtimes = prepare(wanted, shop, ours, masked if options.isa else None, results)
    if options.instructions:
        scenario = Scenario(max(options.threads), options.prompt_tokens)
        print_instructions(watch(runtimes, masked, scenario, options.new_tokens))
        return
    if options.isa:
        os.environ["RESQ_ONNX_ISA"] = options.isa  # The masked CPU has no more; for the report.
    run_rounds(runtimes, scenarios_of(options), options.rounds, options.new_tokens, results)
    report(results, options)


def report(results: Results, options: argparse.Namespace) -> None:
    """Print the tables; write the samples where that was asked for."""
    if options.busy_core:
        print_busy_table(results.samples)
    else:
        for scenario, samples in results.samples.items():
            seen = f", all on a CPU masked to {options.isa.upper()}" if options.isa else ""
            print_table(f"{scenario}, {options.new_tokens} new{seen}", samples, OURS.name)
    for name, reason in results.reasons.items():
        print(f"{name}: left out, {reason}")
    versions = installed_packages(options.python)
    packages = dict.fromkeys(name for peer in PEERS for name in peer.packages)
    where = machine_line({name: versions[name] for name in packages if name in versions})
    print(f"Medians of {options.rounds} alternating runs. {where}.")
    if options.json:
        samples_of_all = [
            {**asdict(scenario), "runtime": name, "samples": runs}
            for scenario, by_name in results.samples.items()
            for name, runs in by_name.items()
        ]
        written = {
            "machine": where,
            "isa": options.isa,
            "results": samples_of_all,
            "left_out": results.reasons,
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
