#!/usr/bin/env python3
"""Strata beside a plain dense PyTorch training of the same maths: batch_topk, same data, steps, batch size, learning
rate, seed and cores. Prints held-out FVU and L0 by the calibrated threshold, dead latents, and rows/s.

    scripts/python-environment peers
    .venv/peers/bin/python tools/compare_dense.py --data activations/smollm2.h5 --dataset resid_post/12
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch


def load(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Training and held-out rows, scaled to E|x|^2 = 1 and without the rows of more than 10 times the median norm."""
    with h5py.File(args.data) as file:
        x = torch.from_numpy(file[args.dataset][:].astype(np.float32))
    norms = x.norm(dim=1)
    train, held_out = x[: -args.eval_rows], x[-args.eval_rows :]
    limit = 10 * norms[: -args.eval_rows].median()
    train = train[norms[: -args.eval_rows] <= limit]
    held_out = held_out[norms[-args.eval_rows :] <= limit]
    scale = float(1 / train.pow(2).sum(1).mean().sqrt())
    return train * scale, held_out * scale, scale


def train_dense(x: torch.Tensor, args: argparse.Namespace, steps: int, lr: float) -> dict:
    """The step of docs/methods.md written as dense matrices and autograd."""
    generator = torch.Generator().manual_seed(args.seed)
    n, width, batch = x.shape[1], args.width, args.batch_size
    w_dec = torch.nn.functional.normalize(torch.randn(width, n, generator=generator), dim=1)
    p = {"w_enc": w_dec.T.contiguous(), "w_dec": w_dec, "b_enc": torch.zeros(width), "b_dec": x.mean(0)}
    for value in p.values():
        value.requires_grad_(True)
    adam = torch.optim.Adam(p.values(), lr=lr)
    silent = torch.zeros(width)
    warmup, decay = min(1000, steps // 10), 0.2 * steps
    mean_square = float(x.pow(2).sum(1).mean())
    order = torch.empty(0, dtype=torch.int64)
    started = time.perf_counter()
    for step in range(steps):
        while order.numel() < batch:
            order = torch.cat([order, torch.randperm(x.shape[0], generator=generator)])
        rows, order = x[order[:batch]], order[batch:]
        xc = rows - p["b_dec"]
        z = xc @ p["w_enc"] + p["b_enc"]
        positive = z.relu()
        chosen = positive.flatten().topk(round(args.k * batch)).indices
        mask = torch.zeros(batch * width, dtype=torch.bool)
        mask[chosen] = True
        f = positive * mask.view(batch, width)
        x_hat = f @ p["w_dec"] + p["b_dec"]
        error = rows - x_hat
        loss = error.pow(2).sum(1).mean()
        dead = silent >= args.dead_after_tokens
        if args.aux_k and dead.any():
            e = error.detach()
            some = z[:, dead]
            top = some.topk(min(args.aux_k, some.shape[1]), dim=1)
            g = torch.zeros_like(some).scatter(1, top.indices, top.values.relu())
            missed = (e - g @ p["w_dec"][dead]).pow(2).sum()
            loss = loss + args.aux_coefficient * mean_square * missed / (e - e.mean(0)).pow(2).sum()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            silent += batch
            silent[(f > 0).any(0)] = 0
            d, g = p["w_dec"], p["w_dec"].grad
            g -= (g * d).sum(1, keepdim=True) * d
            torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
            factor = min(1.0, (step + 1) / warmup if warmup else 1.0, (steps - step) / decay)
            adam.param_groups[0]["lr"] = lr * factor
            adam.step()
            d /= d.norm(dim=1, keepdim=True)
    return {"parameters": {k: v.detach() for k, v in p.items()}, "seconds": time.perf_counter() - started}


@torch.inference_mode()
def measure_dense(p: dict, train: torch.Tensor, held_out: torch.Tensor, args: argparse.Namespace) -> dict:
    some = train[torch.randperm(train.shape[0], generator=torch.Generator().manual_seed(1))[:16384]]
    z = ((some - p["b_dec"]) @ p["w_enc"] + p["b_enc"]).flatten()
    threshold = z.topk(round(args.k * some.shape[0])).values[-1]
    z = (held_out - p["b_dec"]) @ p["w_enc"] + p["b_enc"]
    f = z * ((z > threshold) & (z > 0))
    x_hat = f @ p["w_dec"] + p["b_dec"]
    variance = (held_out - held_out.mean(0)).pow(2).sum()
    return {"fvu": float((held_out - x_hat).pow(2).sum() / variance), "l0": float((f > 0).sum(1).float().mean()),
            "dead_fraction": float((~(f > 0).any(0)).float().mean())}


def train_strata(args: argparse.Namespace, folder: Path) -> tuple[dict, float]:
    settings = {
        "run.output": folder / "run", "run.seed": args.seed, "data.files": f"[{args.data}]",
        "data.datasets": f"[{args.dataset}]", "data.eval_rows": args.eval_rows, "train.tokens": args.tokens,
        "train.batch_size": args.batch_size, "sae.kind": "batch_topk", "sae.width": args.width, "sae.k": args.k,
        "sae.aux_k": args.aux_k, "sae.aux_coefficient": args.aux_coefficient,
        "sae.dead_after_tokens": args.dead_after_tokens, "train.checkpoint_every": 10**9, "train.log_every": 20}
    if args.lr:
        settings["optimizer.lr"] = args.lr
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name}: {value}")
    config = folder / "config.yaml"
    config.write_text("".join(f"{s}: {{{', '.join(values)}}}\n" for s, values in sections.items()))
    subprocess.run([args.strata, "train", str(config), "--quiet"], check=True,
                   env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    summary = json.loads((folder / "run" / "summary.json").read_text())["saes"][0]
    rates = [json.loads(line)["rows_per_second"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return summary, sum(rates) / len(rates)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--strata", default="build/release/strata", help="the program")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--width", type=int, default=4608)
    parser.add_argument("--k", type=float, default=32)
    parser.add_argument("--lr", type=float, help="both; by default what Strata chooses")
    parser.add_argument("--aux-k", type=int, default=256)
    parser.add_argument("--aux-coefficient", type=float, default=1 / 32)
    parser.add_argument("--dead-after-tokens", type=int, default=200_000)
    parser.add_argument("--eval-rows", type=int, default=16384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        summary, rate = train_strata(args, Path(name))
    train, held_out, _ = load(args)
    dense = train_dense(train, args, summary["steps"], summary["lr"])
    measures = measure_dense(dense["parameters"], train, held_out, args)
    print(f"{args.dataset}, {summary['steps']} steps of {args.batch_size} rows, width {args.width}, k {args.k:g}, "
          f"lr {summary['lr']:.3g}, {args.threads} threads")
    print(f"{'':14}{'FVU':>10}{'L0':>9}{'dead':>9}{'rows/s':>10}")
    for who, m, rows_per_second in (
        ("strata", summary, rate),
        ("dense PyTorch", measures, summary["steps"] * args.batch_size / dense["seconds"]),
    ):
        print(f"{who:14}{m['fvu']:10.4f}{m['l0']:9.2f}{100 * m['dead_fraction']:8.2f}%{rows_per_second:10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
