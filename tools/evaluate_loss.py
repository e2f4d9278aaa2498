#!/usr/bin/env python3
"""Puts saved SAEs into their language model and tells what they cost it: the cross-entropy of the next token (nats) clean, with
the SAE's reconstruction, and with zeros instead; KL from the clean prediction; FVU and L0 on the same tokens. The
definitions are in docs/methods.md, "Quality on the language model".

    evaluate_loss.py runs/smollm2/saes/* --model smollm2 --text .venv/text/prose.txt --tokens 16384
    evaluate_loss.py --self-test
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from harvest import Refused, batches, contexts, decoder_layers, load_model, on_activation, padded
from sae_folder import Sae


@dataclasses.dataclass
class Sums:
    """Over the positions that predict a token: nats; over the rows that were replaced: squares."""

    ce: float = 0.0
    kl: float = 0.0
    error: float = 0.0
    squares: float = 0.0
    mean: torch.Tensor | float = 0.0
    active: float = 0.0
    rows: int = 0
    left: int = 0


class Spliced:
    """One change of the model: f(x) instead of the activation x at a place, at positions that are neither BOS nor padding.
    Rows over the norm limit of the SAE's training stay as they are too; they are counted in `left`."""

    def __init__(self, site: str, layer: int, norm_limit: float, replace: Callable):
        self.site, self.layer, self.norm_limit, self.replace = site, layer, norm_limit, replace
        self.sums = Sums()

    def attach(self, blocks, kept: torch.Tensor):
        def call(x):
            within = kept & (x.norm(dim=-1) <= self.norm_limit) if self.norm_limit else kept
            rows = x[within].float()
            x_hat, active = self.replace(rows)
            s, wide = self.sums, rows.double()
            s.error += float((wide - x_hat).pow(2).sum())
            s.squares += float(wide.pow(2).sum())
            s.mean = s.mean + wide.sum(0)
            s.active += active
            s.rows += len(rows)
            s.left += int(kept.sum()) - len(rows)
            new = x.clone()
            new[within] = x_hat.to(x.dtype)
            return new

        return on_activation(blocks, self.site, self.layer, call)


def with_sae(sae: Sae) -> Callable:
    def replace(x):
        f = sae.encode(x)
        return sae.decode(f), float((f > 0).sum())

    return replace


def with_zeros(x):
    return torch.zeros_like(x), 0.0


@torch.inference_mode()
def run(model, bos: int | None, batched, changes: list[Spliced], device: str) -> tuple[float, int]:
    """Sums every change over the batches; the sum of the clean cross-entropy and the number of predictions."""
    blocks = decoder_layers(model)
    clean, predictions = 0.0, 0
    for batch in batched:
        ids, attention, kept = (t.to(device) for t in padded(bos, batch))
        counted = kept[:, :-1] & kept[:, 1:]  # the position and the token that it predicts
        expected = ids[:, 1:][counted].unsqueeze(1)

        def log_probabilities():
            logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
            return logits[:, :-1][counted].float().log_softmax(dim=-1)

        log_p = log_probabilities()
        p = log_p.exp()
        clean -= float(log_p.gather(1, expected).double().sum())
        predictions += len(expected)
        for change in changes:
            handle = change.attach(blocks, kept)
            try:
                log_q = log_probabilities()
            finally:
                handle.remove()
            change.sums.ce -= float(log_q.gather(1, expected).double().sum())
            change.sums.kl += float((p * (log_p - log_q)).sum(1).double().sum())
    return clean, predictions


def evaluate(model, bos: int | None, batched, saes: list[Sae], said: str | None, device: str) -> list[dict]:
    """One record for each SAE; the definitions are in docs/methods.md."""
    zeros: dict[tuple, Spliced] = {}
    spliced = []
    for sae in saes:
        key = (*sae.place(said), float(sae.metadata.get("norm_limit", 0)))
        zeros.setdefault(key, Spliced(*key, with_zeros))
        spliced.append((sae, key, Spliced(*key, with_sae(sae))))
    clean, count = run(model, bos, batched, [*zeros.values(), *(change for _, _, change in spliced)], device)
    records = []
    for sae, key, change in spliced:
        s, zero = change.sums, zeros[key].sums
        variance = s.squares - float(torch.as_tensor(s.mean).pow(2).sum()) / s.rows
        records.append({
            "sae": str(sae.folder), "site": key[0], "layer": key[1], "width": len(sae.w_dec), "predictions": count,
            "ce_clean": clean / count, "ce_sae": s.ce / count, "ce_zero": zero.ce / count,
            "kl_sae": s.kl / count, "kl_zero": zero.kl / count,
            "loss_recovered": (zero.ce - s.ce) / (zero.ce - clean), "kl_score": (zero.kl - s.kl) / zero.kl,
            "fvu": s.error / variance, "l0": s.active / s.rows, "rows": s.rows, "rows_left": s.left})
    return records


def write_sae(folder: Path, place: str, w_enc: torch.Tensor, w_dec: torch.Tensor) -> Sae:
    n, width = w_enc.shape
    folder.mkdir()
    config = {"architecture": "standard", "d_in": n, "d_sae": width, "metadata": {"strata": {"dataset": place}}}
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file({"W_enc": w_enc, "W_dec": w_dec, "b_enc": torch.zeros(width), "b_dec": torch.zeros(n)},
              folder / "sae_weights.safetensors")
    return Sae(folder)


def self_test(args: argparse.Namespace) -> bool:
    """On the model asked for, by default a small random one: an SAE that gives back its input costs nothing, at every site;
    one that gives zeros costs what zeros cost; padding and the size of batches change nothing."""
    generator = torch.Generator().manual_seed(0)
    if args.model:
        model, tokenizer = load_model(args.model, args.device, head=True)
        bos, vocabulary = tokenizer.bos_token_id, len(tokenizer)
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                             num_attention_heads=4, initializer_range=0.2)).eval()
        bos, vocabulary = 1, 300
    n = model.config.hidden_size
    some = [torch.randint(2, vocabulary, (length,), generator=generator).tolist() for length in (40, 25, 31, 7)]
    last = model.config.num_hidden_layers - 1
    good = True

    def expect(what: str, difference: float, allowed: float) -> None:
        nonlocal good
        good &= difference <= allowed
        print(f"{what}: {difference:.1e} {'ok' if difference <= allowed else f'MORE THAN {allowed:.0e}'}")

    with tempfile.TemporaryDirectory() as name:
        for site in ("resid_pre", "resid_post", "mlp_in", "mlp_out", "attn_out"):
            place = f"{site}/{last - 1 if last else 0}"
            one = torch.eye(n)
            identity = write_sae(Path(name) / f"{site}-identity", place, torch.cat([one, -one], 1), torch.cat([one, -one]))
            zero = write_sae(Path(name) / f"{site}-zero", place, one, torch.zeros(n, n))
            noisy = write_sae(Path(name) / f"{site}-noisy", place, one, torch.randn(n, n, generator=generator) / n)
            whole = evaluate(model, bos, [some], [identity, zero, noisy], None, args.device)
            single = evaluate(model, bos, [[context] for context in some], [identity, zero, noisy], None, args.device)
            i, z, _ = whole
            expect(f"{site}: CE with the identity - clean", abs(i["ce_sae"] - i["ce_clean"]), 1e-5)
            expect(f"{site}: KL and FVU of the identity", max(abs(i["kl_sae"]), i["fvu"]), 1e-5)
            expect(f"{site}: CE of an SAE that gives zeros - zeros", abs(z["ce_sae"] - z["ce_zero"]), 1e-6)
            expect(f"{site}: loss recovered and KL score of it", max(abs(z["loss_recovered"]), abs(z["kl_score"])), 1e-6)
            expect(f"{site}: one batch - one context at a time",
                   max(abs(a[key] - b[key]) / max(1, abs(b[key])) for a, b in zip(whole, single)
                       for key in ("ce_clean", "ce_sae", "ce_zero", "kl_sae", "kl_zero", "fvu", "l0")), 1e-4)
            tokens = sum(map(len, some))
            expect(f"{site}: rows and predictions, neither BOS nor padding among them",
                   abs(z["rows"] - tokens) + abs(z["predictions"] - (tokens - len(some))), 0)
            expect(f"{site}: zeros leave the CE as it is", float(z["ce_zero"] == z["ce_clean"]), 0)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="saved SAEs (SAELens folders)")
    parser.add_argument("--model", help="as harvest.py takes it: name on the hub, folder, GGUF file, or smollm2")
    parser.add_argument("--text", nargs="+", type=Path, help="text files, UTF-8; best none that the SAEs were trained on")
    parser.add_argument("--tokens", type=int, default=16384, help="of the text, from its beginning (default 16384)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a context")
    parser.add_argument("--batch", type=int, default=4, help="contexts of a forward pass; logits take 0.2 GB each")
    parser.add_argument("--place", help="site/layer of all SAEs, where their cfg.json does not say it: resid_post/12")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--self-test", action="store_true", help="check the splicing itself; with --model on that model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    try:
        if args.self_test:
            return 0 if self_test(args) else 1
        if not args.folders or not args.model or not args.text:
            raise Refused("expected saved SAEs, --model and --text; or --self-test")
        if missing := [path for path in args.text if not path.is_file()]:
            raise Refused(f"--text {missing[0]}: no such file")
        saes = [Sae(folder, args.device) for folder in args.folders]
        for sae in saes:
            sae.place(args.place)
        model, tokenizer = load_model(args.model, args.device, head=True)
        texts = islice(contexts(tokenizer, args.text, args.context), math.ceil(args.tokens / args.context))
        batched = list(batches(texts, args.batch))
        records = evaluate(model, tokenizer.bos_token_id, tqdm(batched, unit=" batches", file=sys.stderr, disable=None),
                           saes, args.place, args.device)
    except (Refused, ValueError) as error:
        print(f"evaluate_loss.py: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"model": args.model, "text": list(map(str, args.text)), "context": args.context, "saes": records},
                         indent=1))
        return 0
    wide = max(len(r["sae"]) for r in records)
    first = records[0]
    print(f"{first['predictions']} predictions, clean cross-entropy {first['ce_clean']:.4f}")
    print(f"{'':{wide}}{'CE':>9}{'CE zero':>9}{'recovered':>11}{'KL':>9}{'KL zero':>9}{'KL score':>10}{'FVU':>9}{'L0':>8}")
    for r in records:
        print(f"{r['sae']:{wide}}{r['ce_sae']:9.4f}{r['ce_zero']:9.4f}{r['loss_recovered']:11.4f}{r['kl_sae']:9.4f}"
              f"{r['kl_zero']:9.4f}{r['kl_score']:10.4f}{r['fvu']:9.4f}{r['l0']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
