#!/usr/bin/env python3
"""Absorption where the truth is known: trains SAEs with `strata train` on a tree of features, in which children fire only with
their parent, and tells how often the parent's latent stays silent because a child's latent carries its direction too.

    toy_absorption.py --runs topk,batch_topk --seeds 3
    toy_absorption.py --score runs/toy/saes/* --data activations/tree.h5
    toy_absorption.py --write activations/tree.h5
    toy_absorption.py --self-test

The tree and the measures are described in docs/methods.md, "Absorption on a tree of features".
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from sae_folder import Sae

# True L0: PARENTS * PARENT * (1 + CHILDREN * CHILD) = 1.6. A parent has one child at most in a row; all magnitudes are 1.
N, PARENTS, CHILDREN, PARENT, CHILD = 20, 4, 4, 0.25, 0.15
FEATURES = PARENTS * (1 + CHILDREN)
BATCH = 200

# Section `sae` of each run, on top of COMMON. The penalties are those that bring L0 near the true one at 5000 steps.
COMMON = {"width": FEATURES, "aux_k": 0, "encoder_norm": 1}
JUMPRELU = {"kind": "jumprelu", "l0_target": 1.6, "bandwidth": 0.08, "theta_init": 0.04}
ATM = {"c": 1, "r": 0.5, "start_step": 500, "ramp_steps": 500}
RUNS = {
    "relu": {"kind": "relu", "l1": 0.35},
    "topk": {"kind": "topk", "k": 2},
    "batch_topk": {"kind": "batch_topk", "k": 1.6},
    "jumprelu": JUMPRELU,
    "gated": {"kind": "gated", "l1": 0.75},
    "matryoshka": {"kind": "matryoshka", "prefixes": [4, 10, 20], "k": 1.6},
    "batch_topk_atm": {"kind": "batch_topk", "k": 1.6, "atm": ATM},
    "jumprelu_atm": {**JUMPRELU, "atm": ATM},
}
MEASURES = ("l0", "fvu", "silent_with_child", "silent_alone", "net", "recovered", "parents_recovered")


class Refused(Exception):
    """Wrong use."""


def parents_of() -> np.ndarray:
    """[F], -1 for parents: feature p * (1 + CHILDREN) is a parent, and its children follow it."""
    parents = np.arange(FEATURES) // (1 + CHILDREN) * (1 + CHILDREN)
    return np.where(parents == np.arange(FEATURES), -1, parents)


def directions(seed: int) -> np.ndarray:
    d = np.random.default_rng([seed, 0]).standard_normal((FEATURES, N))
    return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)


def features_on(seed: int, rows: int) -> np.ndarray:
    """[rows, F] bool; other rows for every seed."""
    random = np.random.default_rng([seed, 1])
    on = np.zeros((rows, PARENTS, 1 + CHILDREN), dtype=bool)
    on[:, :, 0] = random.random((rows, PARENTS)) < PARENT
    u = random.random((rows, PARENTS))  # u in [c CHILD, (c + 1) CHILD): child c; above them none
    for child in range(CHILDREN):
        on[:, :, 1 + child] = on[:, :, 0] & (u >= child * CHILD) & (u < (child + 1) * CHILD)
    return on.reshape(rows, FEATURES)


def write(path: Path, seed: int, rows: int) -> None:
    """As `strata data synth` lays it out (docs/data.md), and true_parents [F]."""
    if path.exists():
        raise Refused(f"{path}: exists; nothing is overwritten")
    on, d = features_on(seed, rows), directions(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("resid_post/0", data=on.astype(np.float32) @ d, chunks=(256, N), fletcher32=True)
        data.attrs.update(model="tree", site="resid_post", layer=0)
        file["true_features"] = d
        file["true_frequencies"] = on.mean(0).astype(np.float32)
        file["true_mean"] = np.zeros(N, dtype=np.float32)
        file["true_parents"] = parents_of().astype(np.int32)
        file.attrs["made_by"] = f"tools/toy_absorption.py --write {path.name} --seed {seed} --rows {rows}"


def measure(x: np.ndarray, on: np.ndarray, f: np.ndarray, x_hat: np.ndarray, decoder: np.ndarray, true: np.ndarray,
            parents: np.ndarray) -> dict[str, float]:
    """x, x_hat [rows, n]; on [rows, F]; f [rows, M]; decoder [M, n]; true [F, n]; parents [F]. The parent's latent is the one
    of nearest direction."""
    lengths = np.linalg.norm(decoder, axis=1)
    cosine = true @ (decoder / np.maximum(lengths, 1e-12)[:, None]).T
    with_child, alone = [], []
    for parent in np.flatnonzero(parents < 0):
        silent = f[:, cosine[parent].argmax()] <= 0
        child_on = on[:, parents == parent].any(1)
        with_child.append(silent[on[:, parent] & child_on].mean())
        alone.append(silent[on[:, parent] & ~child_on].mean())
    best = cosine.max(1)
    return {
        "l0": float((f > 0).sum(1).mean()),
        "fvu": float(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()),
        "silent_with_child": float(np.mean(with_child)),
        "silent_alone": float(np.mean(alone)),
        "net": float(np.mean(with_child) - np.mean(alone)),
        "recovered": float((best > 0.9).mean()),
        "parents_recovered": float((best[parents < 0] > 0.9).mean()),
    }


def score(folder: Path, true: np.ndarray, rows: int) -> dict[str, float]:
    """On rows of their own, that no seed trains on."""
    on = features_on(1 << 40, rows)
    x = on.astype(np.float32) @ true
    sae = Sae(folder)
    if sae.w_dec.shape[1] != true.shape[1]:
        raise Refused(f"{folder}: its rows have {sae.w_dec.shape[1]} values, those of the tree {true.shape[1]}")
    with torch.inference_mode():
        f = sae.encode(torch.from_numpy(x))
        return measure(x, on, f.numpy(), sae.decode(f).numpy(), sae.w_dec.numpy(), true, parents_of())


def train(name: str, seed: int, data: Path, output: Path, args: argparse.Namespace) -> Path:
    config = {  # JSON is YAML
        "run": {"output": str(output), "seed": seed},
        "data": {"files": [str(data)], "datasets": ["resid_post/0"], "eval_rows": 8192, "shuffle_rows": 32768, "lanes": 8,
                 "max_norm_ratio": 0},
        "train": {"batch_size": BATCH, "tokens": args.steps * BATCH, "log_every": max(1, args.steps // 20),
                  "checkpoint_every": args.steps},
        "optimizer": {"lr": args.lr, "warmup_steps": 100},
        "sae": {**COMMON, **RUNS[name]}}
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(config, indent=1))
    # The matrices are too small to share among threads.
    done = subprocess.run([args.strata, "train", str(path), "--quiet"], stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise RuntimeError(f"run {name}: strata train ended with status {done.returncode} (choose runs with --runs):\n"
                           + done.stderr.strip())
    return next((output / "saes").iterdir())


def train_and_score(args: argparse.Namespace, folder: Path, records: list[dict]) -> None:
    """Adds one record for each run and seed, as they are done."""
    for seed in range(args.seed, args.seed + args.seeds):
        data = folder / f"tree-{seed}.h5"
        write(data, seed, args.rows)
        for name in args.runs:
            sae = train(name, seed, data, folder / f"{name}-{seed}", args)
            records.append({"run": name, "seed": seed, **score(sae, directions(seed), args.eval_rows)})
            print(f"{name} seed {seed}: " + ", ".join(f"{m} {records[-1][m]:.3f}" for m in MEASURES), file=sys.stderr)


def table(records: list[dict], key: str) -> None:
    """Mean and standard deviation over the records of each name."""
    names = list(dict.fromkeys(r[key] for r in records))
    wide = max(map(len, names))
    print(f"{'':{wide}}  seeds" + "".join(f"{m.replace('_', ' '):>19}" for m in MEASURES))
    for name in names:
        of = [r for r in records if r[key] == name]
        cells = (np.array([r[m] for r in of]) for m in MEASURES)
        print(f"{name:{wide}}{len(of):7}" + "".join(
            f"{f'{c.mean():.3f}' + (f' ± {c.std(ddof=1):.3f}' if len(c) > 1 else ''):>19}" for c in cells))


def self_test() -> bool:
    true, parents, on = directions(0), parents_of(), features_on(0, 20_000)
    x = on.astype(np.float32) @ true
    right = measure(x, on, on.astype(np.float32), x, true, true, parents)
    # Children's latents carry the parent's direction, and the parent's latent fires only without them.
    absorbing, f = true.copy(), on.astype(np.float32)
    for parent in np.flatnonzero(parents < 0):
        children = np.flatnonzero(parents == parent)
        absorbing[children] += true[parent]
        f[:, parent] *= ~on[:, children].any(1)
    absorbed = measure(x, on, f, f @ absorbing, absorbing, true, parents)
    # Parents off always: silent, and as often alone, so no absorption.
    f = on.astype(np.float32) * (parents >= 0)
    gone = measure(x, on, f, f @ true, true, true, parents)
    share = on.reshape(-1, PARENTS, 1 + CHILDREN)
    found = {
        "true L0 is 1.6": abs(on.sum(1).mean() - 1.6) < 0.05,
        "children only with their parent, one at most": bool(
            (share[:, :, 1:].sum(2) <= share[:, :, 0]).all()),
        "the true dictionary: nothing silent, all recovered, FVU 0": right["silent_with_child"] == right["silent_alone"] == 0
        and right["recovered"] == right["parents_recovered"] == 1 and right["fvu"] < 1e-10,
        "absorbing dictionary: silent with a child, not alone, FVU 0": absorbed["silent_with_child"] == 1
        and absorbed["silent_alone"] == 0 and absorbed["net"] == 1 and absorbed["fvu"] < 1e-10,
        "its parents are recovered, its children are not": absorbed["parents_recovered"] == 1
        and absorbed["recovered"] < 0.5,
        "its L0 is lower by the absorbed parents": abs(right["l0"] - absorbed["l0"] - 0.6) < 0.03,
        "parents always off: silent both times, net 0": gone["silent_with_child"] == gone["silent_alone"] == 1
        and gone["net"] == 0,
    }
    for what, holds in found.items():
        print(f"{what}: {'ok' if holds else 'NO'}")
    return all(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=",".join(RUNS), help="some of " + ",".join(RUNS) + " (default all)")
    parser.add_argument("--seeds", type=int, default=3, help="each with a tree of its own")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--steps", type=int, default=5000, help=f"of {BATCH} rows")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=200_000, help="of the tree's file")
    parser.add_argument("--eval-rows", type=int, default=50_000)
    parser.add_argument("--keep", type=Path, help="a new folder for data and runs; by default they are thrown away")
    parser.add_argument("--score", nargs="+", type=Path, help="only score these saved SAEs, trained on --data")
    parser.add_argument("--data", type=Path, help="the tree's file, for --score")
    parser.add_argument("--write", type=Path, help="only write the tree's file")
    parser.add_argument("--strata", default="build/release/strata", help="the program")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--self-test", action="store_true", help="check the measures on dictionaries made by hand")
    args = parser.parse_args()
    args.runs = args.runs.split(",")
    key, status, records = "run", 0, []
    try:
        if args.self_test:
            return 0 if self_test() else 1
        if unknown := [name for name in args.runs if name not in RUNS]:
            raise Refused(f"--runs {unknown[0]}: expected some of {', '.join(RUNS)}")
        if args.write:
            write(args.write, args.seed, args.rows)
            return 0
        if args.score:
            if not args.data:
                raise Refused("--score needs --data, the tree's file that they were trained on")
            with h5py.File(args.data) as file:
                if "true_parents" not in file:
                    raise Refused(f"{args.data}: holds no tree (true_parents); expected a file of --write")
                true = file["true_features"][:]
            key, records = "sae", [{"sae": str(sae), **score(sae, true, args.eval_rows)} for sae in args.score]
        elif args.keep:
            if args.keep.exists():
                raise Refused(f"--keep {args.keep}: exists; nothing is overwritten")
            args.keep.mkdir(parents=True)
            train_and_score(args, args.keep, records)
        else:
            with tempfile.TemporaryDirectory() as name:
                train_and_score(args, Path(name), records)
    except (Refused, ValueError) as error:
        print(f"toy_absorption.py: {error}", file=sys.stderr)
        status = 2
    except (OSError, RuntimeError) as error:
        print(f"toy_absorption.py: {error}", file=sys.stderr)
        status = 1
    if args.json:
        print(json.dumps(records, indent=1))
    elif records:
        table(records, key)
    return status


if __name__ == "__main__":
    sys.exit(main())
