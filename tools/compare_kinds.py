#!/usr/bin/env python3
"""Trains the kinds of SAE on the same rows at equal L0 over several seeds, and prints one table of held-out measures.

    compare_kinds.py --strata build/release/strata --data 'acts/*.h5' --dataset resid_post/12 --out /tmp/kinds

Kinds without a fixed L0 train at several penalties; their measures are read off at the wanted L0, FVU and relative bias
interpolated over log L0. A run that is there already is not made again.
"""

import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

KINDS = {
    "topk": [{"kind": "topk", "k": "L0"}],
    "batch_topk": [{"kind": "batch_topk", "k": "L0", "row_cap": 4}],
    "matryoshka": [{"kind": "matryoshka", "k": "L0", "row_cap": 4}],
    "jumprelu": [{"kind": "jumprelu", "l0_target": "L0"}],
    "gated": [{"kind": "gated", "l1": [0.13, 0.17]}],
    "relu": [{"kind": "relu", "l1": [0.06, 0.08]}],
    "batch_topk + atm": [{"kind": "batch_topk", "k": "L0", "row_cap": 4, "atm": {"start_step": 30, "ramp_steps": 30}}],
    "jumprelu + atm": [{"kind": "jumprelu", "l0_target": "L0", "atm": {"start_step": 30, "ramp_steps": 30}}],
}


def train(args: argparse.Namespace, name: str, seed: int) -> list[dict]:
    folder = Path(args.out) / f"{name.replace(' ', '')}-{seed}"
    if not (folder / "summary.json").exists():
        suite = [{k: args.l0 if v == "L0" else v for k, v in item.items()} for item in KINDS[name]]
        settings = {
            "run.output": str(folder), "run.seed": seed, "data.files": [args.data], "data.datasets": [args.dataset],
            "data.eval_rows": args.eval_rows, "train.tokens": args.rows, "train.batch_size": args.batch,
            "train.checkpoint_every": 10**9, "optimizer.warmup_steps": 30, "sae.width": args.width, "suite": suite,
        }
        Path(args.out).mkdir(parents=True, exist_ok=True)
        empty = Path(args.out) / "empty.yaml"
        empty.write_text("{}\n")
        command = [args.strata, "train", str(empty), "--quiet"]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        subprocess.run(command, check=True)
    return json.loads((folder / "summary.json").read_text())["saes"]


def at_l0(saes: list[dict], wanted: float, measure: str) -> float:
    """The measure at the wanted L0: of the only SAE, or between the two that are nearest to it; at the nearer one where both are
    on one side."""
    if len(saes) == 1:
        return saes[0][measure]
    a, b = sorted(saes, key=lambda s: abs(math.log(max(s["l0"], 0.1) / wanted)))[:2]
    part = math.log(wanted / a["l0"]) / math.log(b["l0"] / a["l0"])
    return a[measure] + min(max(part, 0), 1) * (b[measure] - a[measure])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strata", default="build/release/strata")
    parser.add_argument("--data", required=True, help="activation files, a glob")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--rows", type=int, default=307_200, help="to train on")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--eval-rows", type=int, default=40_000)
    args = parser.parse_args()

    print("| kind | L0 | FVU | relative bias | dead |\n|---|---|---|---|---|")
    for name in args.kinds:
        rows = [train(args, name, seed) for seed in range(args.seeds)]
        cells = []
        for measure, form in (("l0", ".1f"), ("fvu", ".4f"), ("relative_bias", ".3f"), ("dead_fraction", ".2%")):
            values = [at_l0(saes, args.l0, measure) for saes in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):{form}} ± {spread:{form}}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
