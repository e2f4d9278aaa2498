#!/usr/bin/env python3
"""Compares what `strata plan` says with what `strata train` takes: seconds of a step and memory of the host's ranks.

For each shape: a short run, the plan, the run and the plan again. The step's seconds are the median of rows_per_second in
the later halves of metrics.jsonl; the memory is the largest sum of proportional set sizes (shared pages once) seen while a
run goes on. JumpReLU starts from thresholds at which few pairs are active, so that late steps come early, and the plan is
made for the L0 that was seen. Example:

    tools/check_plan.py activations/*.h5 --dataset resid_post/12 --strata build/release/strata
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

BATCH = 4096
# kind, width, ranks, further keys
SHAPES = [
    ("batch_topk", 2048, 1, {}),
    ("batch_topk", 16384, 1, {}),
    ("batch_topk", 16384, 2, {}),
    ("batch_topk", 32768, 2, {}),
    ("topk", 8192, 1, {}),
    ("topk", 8192, 2, {}),
    ("jumprelu", 8192, 1, {"sae.theta_init": 0.08, "sae.encoder_norm": 1, "optimizer.lr": 1e-6}),
    ("jumprelu", 16384, 2, {"sae.theta_init": 0.08, "sae.encoder_norm": 1, "optimizer.lr": 1e-6}),
    ("matryoshka", 4096, 2, {}),
    ("matryoshka", 16384, 1, {}),
]


def command(strata: str, ranks: int, arguments: list[str]) -> list[str]:
    return (["mpirun", "-q", "-n", str(ranks)] if ranks > 1 else []) + [strata, *arguments]


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


def memory_now(pid: int) -> int:
    """Proportional set size of the ranks below a process, in bytes."""
    total = 0
    try:
        for one in descendants(pid):
            if Path(f"/proc/{one}/comm").read_text().strip() != "strata":
                continue
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def train(strata: str, ranks: int, arguments: list[str], output: Path) -> tuple[list[dict], int]:
    process = subprocess.Popen(command(strata, ranks, ["train", *arguments, "--quiet"]))
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_now(process.pid))
        time.sleep(0.1)
    if process.returncode != 0:
        raise SystemExit(f"exit status {process.returncode}")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return lines[len(lines) // 2 :], peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--dataset", default="resid_post/12")
    parser.add_argument("--strata", default="strata")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all shapes")
    parser.add_argument("--shapes", default="", help="numbers of the shapes to run, from 0; all by default")
    options = parser.parse_args()
    chosen = [SHAPES[int(i)] for i in options.shapes.split(",")] if options.shapes else SHAPES
    print("| kind | width | L0 | ranks | step, planned | measured | ratio | MiB, planned | measured | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind, width, ranks, keys in chosen:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(json.dumps({
                "run": {"output": "unset"},
                "data": {"files": [os.path.abspath(f) for f in options.files], "datasets": [options.dataset],
                         "eval_rows": 4096},
                "train": {"batch_size": BATCH, "tokens": BATCH * options.steps, "log_every": 5},
                "sae": {"kind": kind, "width": width},
            }))
            settings = [f"{key}={value}" for key, value in keys.items()] + options.set
            arguments = [str(config), *(word for one in settings for word in ("--set", one))]
            rates, planned, peaks = [], [], []
            for turn in range(2):
                output = Path(folder) / f"run{turn}"
                lines, peak = train(options.strata, ranks, [*arguments, "--set", f"run.output={output}"], output)
                rates += [line["rows_per_second"] for line in lines]
                peaks.append(peak)
                l0 = statistics.median(line["l0"] for line in lines)
                late = ["--set", f"sae.l0_target={l0}"] if kind == "jumprelu" else []
                plan = json.loads(subprocess.check_output(
                    [options.strata, "plan", *arguments, *late, "--ranks", str(ranks), "--json"]))
                planned.append(plan["jobs"][0]["seconds_per_step"])
                needed = plan["memory"]["needed"]
            measured, expected = BATCH / statistics.median(rates), statistics.mean(planned)
            print(f"| {kind} | {width} | {l0:.0f} | {ranks} | {1e3 * expected:.0f} ms | {1e3 * measured:.0f} ms "
                  f"| {expected / measured:.2f} | {needed / 2**20:.0f} | {max(peaks) / 2**20:.0f} "
                  f"| {needed / max(peaks):.2f} |", flush=True)


if __name__ == "__main__":
    main()
