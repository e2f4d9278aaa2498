#!/usr/bin/env python3
"""Trains the same SAE with Strata, dictionary_learning, sae-lens, sparsify and plain PyTorch, on the same rows, batch
size and cores, one process after the other, and prints one table of speed, memory and held-out error.

    scripts/python-environment peers
    .venv/peers/bin/python tools/compare_peers.py --data 'activations/*.h5' --dataset resid_post/12 --settings equal

`--settings own` leaves every package its own rates and coefficients; `equal` gives those that have the keys what
dictionary_learning's BatchTopKTrainer uses. Its warm-up of 1000 steps is at most a tenth of the run, as Strata's is.
"""

import argparse
import contextlib
import glob
import importlib.metadata
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import h5py
import numpy as np
import torch
from safetensors.torch import load_file


def read(paths: list[str], dataset: str, first: int, last: int) -> np.ndarray:
    """Rows first to last of the files as one long dataset."""
    parts, start = [], 0
    for path in paths:
        with h5py.File(path) as file:
            parts.append(file[dataset][max(0, first - start) : max(0, last - start)])
            start += file[dataset].shape[0]
    return np.concatenate(parts)


def norms_of(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.linalg.norm(part.astype(np.float32), axis=1) for part in np.array_split(x, 64)])


def prepare(args: argparse.Namespace, folder: Path) -> dict:
    """One file for all: the rows of the run in a random order, then the held-out ones, whole batches of them; neither
    with rows of more than 10 times the median norm."""
    paths = sorted(glob.glob(args.data))
    count = 0
    for path in paths:
        with h5py.File(path) as file:
            count += file[args.dataset].shape[0]
    before = count - args.eval_rows
    if before < args.batch or args.eval_rows < args.batch:
        raise SystemExit(f"--data {args.data}, --eval-rows {args.eval_rows}: too few rows for batches of {args.batch}")
    train = read(paths, args.dataset, 0, min(before, args.steps * args.batch))
    held_out = read(paths, args.dataset, before, count)
    norms = norms_of(train)
    limit = 10 * np.median(norms)
    train, held_out = train[norms <= limit], held_out[norms_of(held_out) <= limit]
    held_out = held_out[: max(args.batch, len(held_out) // args.batch * args.batch)]
    train = train[np.random.default_rng(args.seed).permutation(len(train))]
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset(args.dataset, data=np.concatenate([train, held_out]), chunks=(64, train.shape[1]))
    norms = norms[norms <= limit].astype(np.float64)
    return {"n": train.shape[1], "rows": len(train), "held_out": len(held_out),
            "mean_square": np.mean(norms**2), "mean_norm": np.mean(norms)}


class Data:
    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.args = Path(args.folder), args
        self.info = json.loads((self.folder / "info.json").read_text())
        self.n = self.info["n"]
        with h5py.File(self.folder / "rows.h5") as file:
            x = torch.from_numpy(file[args.dataset][:])
        self.train, self.held_out = x[: self.info["rows"]], x[self.info["rows"] :]

    def orders(self):
        """Row numbers of each batch: as in the file, which is shuffled, and newly shuffled when they start over."""
        generator = torch.Generator().manual_seed(self.args.seed)
        order = torch.arange(len(self.train))
        for _ in range(self.args.steps):
            while len(order) < self.args.batch:
                order = torch.cat([order, torch.randperm(len(self.train), generator=generator)])
            yield order[: self.args.batch]
            order = order[self.args.batch :]

    def batches(self, scale: float):
        return (self.train[order].float() * scale for order in self.orders())

    def measure(self, scale: float, reconstruct) -> dict:
        """FVU and L0 of the held-out rows, in batches of the size of training."""
        x = self.held_out.double() * scale
        error = active = 0.0
        with torch.no_grad():
            for rows in x.split(self.args.batch):
                f, x_hat = reconstruct(rows.float())
                error += float((rows - x_hat).pow(2).sum())
                active += float((f > 0).sum())
        return {"fvu": error / float((x - x.mean(0)).pow(2).sum()), "l0": active / len(x)}


def memory(what: str, process: int | str = "self") -> int:
    found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return 1024 * int(found[1]) if found else 0


class Meter:
    """Times of steps, and the most memory above that of the process with its packages and rows loaded."""

    def __init__(self) -> None:
        # What PyTorch loads at its first step is not the trainer's memory.
        p = torch.ones(64, 64, requires_grad=True)
        (p @ p).relu().flatten().topk(64).values.sum().backward()
        torch.optim.Adam([p]).step()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.before, self.at, self.memory = memory("VmRSS"), [], 0

    def begin_step(self) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        self.begin_step()
        self.memory = memory("VmHWM") - self.before

    def steps(self, batches):
        self.begin_step()
        for x in batches:
            yield x
            self.begin_step()
        self.at.pop()
        self.end()

    def result(self, **others) -> dict:
        return {"seconds": [b - a for a, b in zip(self.at, self.at[1:])], "memory": self.memory, **others}


def select(z: torch.Tensor, k: int) -> torch.Tensor:
    """The k x rows largest of the batch."""
    positive = z.relu()
    values, indices = positive.flatten().topk(k * len(z), sorted=False)
    return torch.zeros_like(positive).flatten().scatter(0, indices, values).view_as(positive)


def equal_rate(args: argparse.Namespace) -> float:
    return 2e-4 / math.sqrt(args.width / 2**14)  # what BatchTopKTrainer chooses


def warmup(args: argparse.Namespace) -> int:
    return min(1000, args.steps // 10)


# Each trainer returns its times, memory and rate, the scale of its inputs, and what reconstructs them: by the rule of
# training, or, where `own` says that there is one, by its threshold for inference.


def strata(args: argparse.Namespace, data: Data) -> dict:
    run = data.folder / "strata"
    settings = {
        "run.output": str(run), "run.seed": args.seed, "data.files": [str(data.folder / "rows.h5")],
        "data.datasets": [args.dataset], "data.eval_rows": data.info["held_out"], "data.max_norm_ratio": 0,
        "train.batch_size": args.batch, "train.tokens": args.steps * args.batch, "train.log_every": 1,
        "train.checkpoint_every": 10**9, "sae.kind": "batch_topk", "sae.width": args.width, "sae.k": args.k,
        "parallel.threads": args.threads}
    if args.settings == "equal":
        settings |= {
            "optimizer.lr": equal_rate(args), "optimizer.warmup_steps": 1000, "optimizer.decay_fraction": 0,
            "optimizer.clip_norm": 1, "sae.aux_k": min(data.n // 2, args.width), "sae.aux_coefficient": 1 / 32,
            "sae.dead_after_tokens": 10_000_000, "sae.b_dec_init": "mean", "sae.encoder_norm": 1}
    (data.folder / "empty.yaml").write_text("{}\n")
    command = [args.strata, "train", str(data.folder / "empty.yaml"), "--quiet"]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    peak = 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        peak = max(peak, memory("VmHWM", process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    p = load_file(next((run / "saes").iterdir()) / "sae_weights.safetensors")

    def reconstruct(x, own=False):
        z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        f = z * (z > p["threshold"]) if own else select(z, args.k)
        return f, f @ p["W_dec"] + p["b_dec"]

    return {"seconds": [args.batch / line["rows_per_second"] for line in lines], "memory": peak,
            "lr": json.loads((run / "summary.json").read_text())["saes"][0]["lr"], "kind": "BatchTopK", "scale": 1.0,
            "reconstruct": reconstruct, "own": True}


def dictionary_learning(args: argparse.Namespace, data: Data) -> dict:
    sys.modules["nnsight"] = MagicMock()  # imported for activations of language models, which are not wanted here
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    scale = 1 / math.sqrt(data.info["mean_square"])  # as trainSAE(normalize_activations=True)
    meter = Meter()
    trainer = BatchTopKTrainer(
        args.steps, data.n, args.width, args.k, layer=0, lm_name="", warmup_steps=warmup(args),
        threshold_start_step=warmup(args), seed=args.seed, device="cpu")
    for step, x in enumerate(meter.steps(data.batches(scale))):
        trainer.update(step, x)

    def reconstruct(x, own=False):
        f = trainer.ae.encode(x, use_threshold=own)
        return f, trainer.ae.decode(f)

    return meter.result(kind="BatchTopK", lr=trainer.lr, scale=scale, reconstruct=reconstruct, own=True)


def sae_lens(args: argparse.Namespace, data: Data) -> dict:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    equal = args.settings == "equal"
    lr = equal_rate(args) if equal else 3e-4
    meter = Meter()
    torch.manual_seed(args.seed)
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(
        d_in=data.n, d_sae=args.width, k=args.k, normalize_activations="expected_average_only_in",
        **({"aux_loss_coefficient": 1 / 32} if equal else {})))
    trainer = SAETrainer(
        SAETrainerConfig(total_training_samples=args.steps * args.batch, train_batch_size_samples=args.batch,
                         lr=lr, lr_end=lr / 10, lr_warm_up_steps=warmup(args) if equal else 0),
        sae, data_provider=iter(()))
    # What `fit` would estimate from batches of its own.
    scale = trainer.activation_scaler.scaling_factor = math.sqrt(data.n) / data.info["mean_norm"]
    for x in meter.steps(data.batches(1.0)):
        trainer.step(x)
        trainer.n_training_steps += 1

    def reconstruct(x, own=False):
        f, z = sae.encode_with_hidden_pre(x)
        if own:
            f = z * (z > sae.topk_threshold)
        return f, sae.decode(f)

    return meter.result(kind="BatchTopK", lr=lr, scale=scale, reconstruct=reconstruct, own=True)


def sparsify(args: argparse.Namespace, data: Data) -> dict:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # Triton does not run on CPUs
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

    meter = Meter()

    class Rows(torch.nn.Module):
        """Stands where the trainer expects a language model: its one layer gives the rows of the numbers it is fed."""

        device, dummy_inputs = torch.device("cpu"), {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Identity()

        @property
        def base_model(self):
            return self

        def forward(self, input_ids):
            meter.begin_step()
            return self.layer(data.train[input_ids].float())

    class Measured(Trainer):
        def save(self):  # which ends `fit`
            meter.end()
            super().save()

    equal = {"optimizer": "adam", "lr_warmup_steps": warmup(args), "auxk_alpha": 1 / 32}
    trainer = Measured(
        TrainConfig(
            SparseCoderConfig(num_latents=args.width, k=args.k), batch_size=1, hookpoints=["layer"],
            init_seeds=[args.seed], save_every=10**9, save_dir=str(data.folder / "sparsify"), log_to_wandb=False,
            **(equal if args.settings == "equal" else {})),
        [{"input_ids": order} for order in data.orders()], Rows())
    lr = trainer.optimizers[0].param_groups[0]
    lr = lr.get("initial_lr", lr["lr"])
    meter.at.clear()  # the trainer has asked for one row to learn its width
    trainer.fit()
    sae = SparseCoder.load_from_disk(data.folder / "sparsify" / "unnamed" / "layer")

    def reconstruct(x):
        out = sae(x)
        return out.latent_acts, out.sae_out

    return meter.result(kind="TopK", lr=lr, scale=1.0, reconstruct=reconstruct, own=False)


def encoder_norm(args: argparse.Namespace, n: int) -> float:
    """As Strata's encoder begins (docs/methods.md)."""
    share, normal = args.k / args.width, statistics.NormalDist()
    t = normal.inv_cdf(1 - share)
    return 1 / (1 + args.width / n * (t * normal.pdf(t) + share))


def pytorch(args: argparse.Namespace, data: Data) -> dict:
    """BatchTopK as dense matrices and autograd, without auxiliary loss."""
    scale = 1 / math.sqrt(data.info["mean_square"])
    lr, decay = args.lr or equal_rate(args), 0.2 * args.steps if args.lr else 0
    meter = Meter()
    torch.manual_seed(args.seed)
    w_dec = torch.nn.functional.normalize(torch.randn(args.width, data.n), dim=1)
    b_dec = next(data.batches(scale)).mean(0)
    c = encoder_norm(args, data.n) if args.lr else 1.0
    p = [w_enc, b_enc, w_dec, b_dec] = [(c * w_dec.T).contiguous(), torch.zeros(args.width), w_dec, b_dec]
    for value in p:
        value.requires_grad_(True)
    adam = torch.optim.Adam(p, lr=lr)

    def reconstruct(x):
        f = select((x - b_dec) @ w_enc + b_enc, args.k)
        return f, f @ w_dec + b_dec

    for step, x in enumerate(meter.steps(data.batches(scale))):
        loss = (x - reconstruct(x)[1]).pow(2).sum(1).mean()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
            torch.nn.utils.clip_grad_norm_(p, 1.0)
            factor = min(1.0, (step + 1) / max(1, warmup(args)), (args.steps - step) / decay if decay else 1.0)
            adam.param_groups[0]["lr"] = lr * factor
            adam.step()
            w_dec /= w_dec.norm(dim=1, keepdim=True)
    return meter.result(kind="BatchTopK", lr=lr, scale=scale, reconstruct=reconstruct, own=False)


TRAINERS = {"strata": (strata, None), "dictionary_learning": (dictionary_learning, "dictionary-learning"),
            "sae_lens": (sae_lens, "sae-lens"), "sparsify": (sparsify, "eai-sparsify"), "pytorch": (pytorch, "torch")}


def work(args: argparse.Namespace) -> None:
    """What a process of one trainer does."""
    torch.set_num_threads(args.threads)
    data = Data(args)
    r = TRAINERS[args.worker][0](args, data)
    scale, reconstruct = r.pop("scale"), r.pop("reconstruct")
    r["batch"] = data.measure(scale, reconstruct)
    r["own"] = data.measure(scale, lambda x: reconstruct(x, own=True)) if r["own"] else None
    (data.folder / f"{args.worker}.json").write_text(json.dumps(r))


def machine(threads: int) -> str:
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in lines}
    flags = cpu.get("flags", "").split()
    instructions = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{cpu.get('model name', 'CPU')}, {threads} of {os.cpu_count()} cores, {instructions}"


def print_table(found: dict, args: argparse.Namespace) -> None:
    ours = found.get("strata", {}).get("step_seconds")
    print("| trainer | kind | rows/s | step / Strata's | memory, MB | FVU | L0 | FVU by own threshold | L0 by it |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, r in found.items():
        cells = [f"{name} {r['version']}".strip(), r["kind"], f"{args.batch / r['step_seconds']:.0f}",
                 f"{r['step_seconds'] / ours:.1f}" if ours else "-", f"{r['memory'] / 1e6:.0f}"]
        for m in (r["batch"], r["own"]):
            cells += [f"{m['fvu']:.4f}", f"{m['l0']:.1f}"] if m else ["-", "-"]
        print(f"| {' | '.join(cells)} |")
    print(f"""
rows/s: by the median step after the first {args.skip}. Memory: the most above packages and rows loaded; Strata's whole.
FVU, L0: held-out rows, by the rule of training in batches of its size; then by the threshold for inference, which
dictionary_learning and sae_lens average over steps, so that it lags in short runs.""")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="activation files, a glob")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--strata", default="build/release/strata", help="the program")
    parser.add_argument("--width", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--skip", type=int, help="first steps, which are not timed; by default a third, 40 at most")
    parser.add_argument("--eval-rows", type=int, default=16384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", default=list(TRAINERS), choices=list(TRAINERS), metavar="NAME")
    parser.add_argument("--settings", choices=["own", "equal"], default="own")
    parser.add_argument("--json", action="store_true")
    for option in ("worker", "folder", "lr"):  # of the processes that this one starts
        parser.add_argument(f"--{option}", type=float if option == "lr" else str, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.skip is None:
        args.skip = min(40, args.steps // 3)
    if args.worker:
        work(args)
        return 0

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads),
                                "TQDM_DISABLE": "1"}
    found: dict[str, dict] = {}
    wanted = [name for name in TRAINERS if name in args.only]
    with tempfile.TemporaryDirectory() as folder:
        info = prepare(args, Path(folder))
        (Path(folder) / "info.json").write_text(json.dumps(info))
        for name in wanted:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--folder", folder]
            if args.settings == "own" and "strata" in found:
                command += ["--lr", str(found["strata"]["lr"])]  # plain PyTorch has no rate of its own
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                print(f"{name} failed:\n{done.stdout[-2000:]}", file=sys.stderr)
                continue
            r = json.loads((Path(folder) / f"{name}.json").read_text())
            r["step_seconds"] = statistics.median(r["seconds"][args.skip :])
            package = TRAINERS[name][1]
            r["version"] = importlib.metadata.version(package) if package else ""
            found[name] = r
    if args.json:
        print(json.dumps({"machine": machine(args.threads), **vars(args), **info, "trainers": found}))
    else:
        print(f"{machine(args.threads)}; {args.dataset}, n {info['n']}, width {args.width}, k {args.k}, {args.steps} "
              f"steps of {args.batch} rows, {args.settings} settings\n")
        print_table(found, args)
    return 0 if len(found) == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
