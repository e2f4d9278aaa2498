#!/usr/bin/env python3
"""Loads SAE folders with the real sae-lens and holds its codes and measures against numpy and `strata eval`.

    scripts/python-environment peers
    .venv/peers/bin/python tools/check_saelens.py runs/synthetic/saes/* --data activations/synthetic.h5
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from sae_lens import SAE
from safetensors.numpy import load_file


def encode_by_hand(folder: Path, config: dict, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [rows, M] and reconstruction [rows, n] in float64, by the definitions in docs/methods.md."""
    t = {name: value.astype(np.float64) for name, value in load_file(folder / "sae_weights.safetensors").items()}
    z = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    if config["architecture"] == "topk":
        kept = np.zeros_like(z)
        best = np.argsort(-z, axis=1, kind="stable")[:, : config["k"]]
        np.put_along_axis(kept, best, np.take_along_axis(z, best, axis=1), axis=1)
        f = np.maximum(kept, 0)
    else:
        f = np.where(z > np.maximum(t["threshold"], 0), z, 0)
    return f, f @ t["W_dec"] + t["b_dec"]


def check(folder: Path, args: argparse.Namespace) -> bool:
    config = json.loads((folder / "cfg.json").read_text())
    dataset = args.dataset or config["metadata"]["strata"]["dataset"]
    with h5py.File(args.data) as file:
        rows = file[dataset].shape[0]
        x = file[dataset][max(0, rows - args.rows) :].astype(np.float32)

    sae = SAE.load_from_disk(str(folder), device="cpu")
    with torch.inference_mode():
        theirs = sae.encode(torch.from_numpy(x))
        their_x = sae.decode(theirs).numpy()
    theirs = theirs.to_dense().numpy() if theirs.layout != torch.strided else theirs.numpy()
    f, x_hat = encode_by_hand(folder, config, x.astype(np.float64))
    ours = json.loads(
        subprocess.run(
            [args.strata, "eval", str(folder), "--data", args.data, "--dataset", dataset, "--rows", str(args.rows)]
            + ["--norm-limit", "0", "--json"],
            check=True, stdout=subprocess.PIPE).stdout)

    fvu = float(((x - their_x).astype(np.float64) ** 2).sum() / ((x - x.mean(0, dtype=np.float64)) ** 2).sum())
    found = {
        # Near-ties may fall either way in float32: pairs active in one and not in the other.
        "pairs that differ (sae-lens, numpy)": (float(((theirs > 0) != (f > 0)).mean()), 1e-5),
        "largest difference of x_hat / largest x (sae-lens, numpy)": (
            float(np.quantile(np.abs(their_x - x_hat).max(1), 0.999) / np.abs(x).max()), 1e-4),
        "FVU (sae-lens, strata eval)": (abs(fvu - ours["fvu"]) / fvu, 1e-4),
        "L0 (sae-lens, strata eval)": (abs((theirs > 0).sum(1).mean() - ours["l0"]) / ours["l0"], 1e-4),
    }
    print(f"{folder.name}: {type(sae).__name__}, {x.shape[0]} rows, FVU {fvu:.6f}, L0 {ours['l0']:.3f}")
    for what, (difference, allowed) in found.items():
        print(f"  {what}: {difference:.2e} {'ok' if difference <= allowed else f'MORE THAN {allowed:.0e}'}")
    return all(difference <= allowed for difference, allowed in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="SAELens folders")
    parser.add_argument("--data", required=True, help="activation file")
    parser.add_argument("--dataset", help="by default what the SAE was trained on")
    parser.add_argument("--rows", type=int, default=4096, help="the last so many rows")
    parser.add_argument("--strata", default="build/release/strata", help="the program")
    args = parser.parse_args()
    return 0 if all([check(folder, args) for folder in args.folders]) else 1


if __name__ == "__main__":
    sys.exit(main())
