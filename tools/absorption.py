#!/usr/bin/env python3
"""First-letter absorption of saved SAEs: how often a latent of single words stands in for the latents of "begins with this
letter", which then stay silent. Activations of the words and the probes of the letters are shared by all SAEs of a place. The
definitions are in docs/methods.md, "First-letter absorption".

    absorption.py runs/smollm2/saes/resid_post.12.* --model smollm2 --cache activations/words.npz
    absorption.py --self-test
"""

import argparse
import inspect
import json
import math
import random
import string
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from harvest import Refused, attach, decoder_layers, load_model
from sae_folder import Sae

LETTERS = string.ascii_lowercase
QUESTION = " has the first letter:"
EXAMPLES = 10
WORDS_OF_A_PROMPT = 32  # words that are asked after the same examples
PROBE_F1 = 0.6  # letters whose probe is worse are left out
F1_RISE = 0.03  # of one more main latent
MOST_MAIN = 10
SILENT = 1e-8
COSINE_FULL, COSINE_FRACTION, PROPORTION, ABSORBERS = 0.025, 0.1, 0.4, 3


# The metrics.


def absorbed_words(x: torch.Tensor, f: torch.Tensor, probe: torch.Tensor, decoder: torch.Tensor,
                   main: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """For words x [rows, n] with codes f [rows, M], the letter's probe [n] and its main latents: whether each is absorbed in
    full, and its absorption fraction."""
    unit = probe / probe.norm()
    along = decoder @ unit
    cosine = along / decoder.norm(dim=1).clamp_min(1e-12)
    projections = f * along
    whole = x @ unit

    top, which = projections.max(dim=1)
    silent = (f[:, main].abs() < SILENT).all(1)
    full = silent & (cosine[which] >= COSINE_FULL) & (whole > 0) & (top >= PROPORTION * whole)

    others = cosine >= COSINE_FRACTION
    others[main] = False
    absorbers = (projections * others).clamp_min(0).topk(min(ABSORBERS, f.shape[1]), dim=1).values.sum(1)
    of_main = projections[:, main].sum(1)
    moved = torch.minimum(absorbers, whole - of_main)
    fraction = torch.where(of_main <= 0, 1.0, moved / (moved + of_main))
    none = (whole <= 0) | (of_main >= whole) | (absorbers < PROPORTION * whole)
    return full, torch.where(none, 0.0, fraction)


def f1_score(said: torch.Tensor, true: torch.Tensor) -> float:
    hits = float((said & true).sum())
    return 2 * hits / max(1.0, float(said.sum() + true.sum()))


def main_latents(f1_of_k: list[float]) -> int:
    """How many latents are main, of the F1 of the probes on 1, 2, ... latents."""
    count = 1
    while count < len(f1_of_k) and f1_of_k[count] > f1_of_k[count - 1] + F1_RISE:
        count += 1
    return count


# Probes.


def train_probes(x: torch.Tensor, y: torch.Tensor, l1: float, weight_decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One logistic probe for each column of y [rows, classes]: weights [classes, n] and biases. Positives weigh as much as
    negatives in sum; `l1` times the sum of |w| of a class is added to the mean loss over the classes."""
    generator = torch.Generator().manual_seed(0)
    positives = y.sum(0).clamp_min(1)
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=(len(y) - positives) / positives)
    w = torch.zeros(y.shape[1], x.shape[1], device=x.device, requires_grad=True)
    b = torch.zeros(y.shape[1], device=x.device, requires_grad=True)
    adam = torch.optim.Adam([w, b], lr=0.01, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=(1e-5 / 0.01) ** (1 / 50))
    for _ in range(50):
        for rows in torch.randperm(len(x), generator=generator).split(1024):
            loss = loss_of(x[rows] @ w.T + b, y[rows])
            if l1:
                loss = loss + l1 * w.abs().sum(1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        schedule.step()
    return w.detach(), b.detach()


def balanced_logistic(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [k] and bias that minimise |w|^2 / 2 + the log loss, both classes weighing rows / 2: Newton's method."""
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    weight = torch.where(y, len(y) / (2.0 * max(1, int(y.sum()))), len(y) / (2.0 * max(1, int((~y).sum())))).double()
    ridge = torch.ones(x.shape[1], dtype=torch.float64)
    ridge[-1] = 1e-9
    sign = torch.where(y, 1.0, -1.0).double()
    loss = lambda v: 0.5 * (ridge * v * v).sum() - (weight * torch.nn.functional.logsigmoid(sign * (x @ v))).sum()
    v = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(x @ v)
        gradient = x.T @ (weight * (p - y.double())) + ridge * v
        if gradient.abs().max() < 1e-6 * len(y):
            break
        hessian = (x.T * (weight * p * (1 - p))) @ x + torch.diag(ridge)
        step = torch.linalg.solve(hessian + 1e-9 * torch.eye(len(v), dtype=torch.float64), gradient)
        before, length = loss(v), 1.0
        while loss(v - length * step) > before and length > 1e-6:
            length /= 2
        v = v - length * step
    return v[:-1].float(), v[-1].float()


def judge(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor],
          codes: tuple[torch.Tensor, torch.Tensor], probes: tuple[torch.Tensor, torch.Tensor],
          decoder: torch.Tensor) -> dict:
    """One SAE: words and letters [rows] of training and test, their codes, the probes of the letters."""
    (_, train_y), (x, y) = train, test
    f_train, f = codes
    scores = x @ probes[0].T + probes[1]
    sparse, _ = train_probes(f_train, torch.nn.functional.one_hot(train_y, 26).float(), 0.01, 1e-6)
    letters = {}
    for number, letter in enumerate(LETTERS):
        probe_f1 = f1_score(scores[:, number] > 0, y == number)
        letters[letter] = {"words": int((y == number).sum()), "probe_f1": probe_f1}
        if probe_f1 <= PROBE_F1:
            continue
        best = sparse[number].topk(min(MOST_MAIN, f.shape[1])).indices
        f1_of_k: list[float] = []
        while len(f1_of_k) < len(best) and main_latents(f1_of_k or [0]) >= len(f1_of_k):
            some = best[: len(f1_of_k) + 1]
            w, b = balanced_logistic(f_train[:, some].cpu(), (train_y == number).cpu())
            f1_of_k.append(f1_score((f[:, some].cpu() @ w + b > 0), (y == number).cpu()))
        main = best[: main_latents(f1_of_k)].tolist()
        right = (y == number) & (scores[:, number] > 0)
        full, fraction = absorbed_words(x[right], f[right], probes[0][number], decoder, main)
        letters[letter] |= {"sparse_f1": f1_of_k[len(main) - 1], "sparse_f1_1": f1_of_k[0], "main": main,
                            "probe_hits": int(right.sum()), "absorbed": int(full.sum()),
                            "absorption": float(full.float().mean()), "absorption_fraction": float(fraction.mean())}
    counted = [r for r in letters.values() if "main" in r]
    mean = lambda key: sum(r[key] for r in counted) / len(counted) if counted else math.nan
    return {"letters_counted": len(counted), "absorption": mean("absorption"),
            "absorption_fraction": mean("absorption_fraction"), "sparse_f1_1": mean("sparse_f1_1"),
            "main_latents": sum(len(r["main"]) for r in counted) / max(1, len(counted)),
            "l0": float((f > 0).sum(1).float().mean()), "letters": letters}


# Words and their activations.


def vocabulary(tokenizer) -> list[int]:
    """Tokens that are a space and at least two letters of the English alphabet."""
    kept = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        word = token[1:]
        if token[:1] in "Ġ▁" and len(word) >= 2 and word.isascii() and word.isalpha():
            kept.append(number)
    return kept


def letter_of(tokenizer, number: int) -> int:
    return LETTERS.index(tokenizer.convert_ids_to_tokens(number)[1].lower())


def split(args: argparse.Namespace, tokenizer) -> tuple[list[int], int]:
    """The words of this run in random order, and how many of them, the first ones, are for training."""
    words = vocabulary(tokenizer)
    random.Random(args.seed).shuffle(words)
    words = words[: args.words or None]
    return words, len(words) * 4 // 5


@torch.inference_mode()
def activations(model, tokenizer, words: list[int], train: int, places: list[tuple[str, int]],
                args: argparse.Namespace) -> dict[str, np.ndarray]:
    """x [words, n] at each place, of the word before QUESTION, after ten answered examples. What follows the word cannot change
    it, so the model reads up to the word only; the examples once for WORDS_OF_A_PROMPT words."""
    from transformers import DynamicCache

    keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # newer, older
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    question, newline = encode(QUESTION), encode("\n")
    answers = [encode(" " + letter.upper()) for letter in LETTERS]
    lead = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    blocks = decoder_layers(model)
    del blocks[max(layer for _, layer in places) + 1 :]
    seen: dict[str, torch.Tensor] = {}
    for site, layer in places:
        attach(blocks, [site], [layer], seen)
    found: dict[str, list[np.ndarray]] = {f"{site}/{layer}": [] for site, layer in places}
    choose = random.Random(args.seed)
    groups = [words[i : i + WORDS_OF_A_PROMPT] for i in range(0, len(words), WORDS_OF_A_PROMPT)]
    for group in tqdm(groups, unit=" prompts", file=sys.stderr, disable=None):
        examples = choose.sample([word for word in choose.sample(words[:train], min(train, 2 * WORDS_OF_A_PROMPT))
                                  if word not in group], EXAMPLES)
        prompt = list(lead)
        for word in examples:
            prompt += newline + [word] + question + answers[letter_of(tokenizer, word)]
        read = DynamicCache()
        model(input_ids=torch.tensor([prompt + newline], device=args.device), use_cache=True, **{keyword: read})
        read.batch_repeat_interleave(len(group))
        model(input_ids=torch.tensor(group, device=args.device).unsqueeze(1), use_cache=True, **{keyword: read})
        for key, rows in found.items():
            rows.append(seen[key][:, -1].float().cpu().numpy())
    return {key: np.concatenate(rows) for key, rows in found.items()}


def words_at(places: list[tuple[str, int]], args: argparse.Namespace) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """Activations [words, n] of each place, the letters [words], and how many of the words are for training."""
    wanted = json.dumps({"model": args.model, "words": args.words, "seed": args.seed})
    stored: dict[str, np.ndarray] = {}
    if args.cache and args.cache.exists():
        with np.load(args.cache) as file:
            stored = dict(file)
        if str(stored.get("made_from")) != wanted:
            raise Refused(f"--cache {args.cache}: made from {stored.get('made_from')}, asked for {wanted}; choose another file")
    if missing := [place for place in places if "%s/%d" % place not in stored]:
        model, tokenizer = load_model(args.model, args.device)
        words, train = split(args, tokenizer)
        if train < 100 * EXAMPLES:
            raise Refused(f"--words {args.words}: {len(words)} words are too few; expected 1250 or more")
        stored |= activations(model, tokenizer, words, train, missing, args)
        stored |= {"made_from": np.array(wanted), "train": np.array(train),
                   "letters": np.array([letter_of(tokenizer, word) for word in words])}
        if args.cache:
            args.cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez(args.cache, **stored)
    x = {"%s/%d" % place: torch.from_numpy(stored["%s/%d" % place]).to(args.device) for place in places}
    return x, torch.from_numpy(stored["letters"]).to(args.device), int(stored["train"])


def evaluate(saes: list[Sae], args: argparse.Namespace) -> list[dict]:
    places = list(dict.fromkeys(sae.place(args.place) for sae in saes))
    x, y, train = words_at(places, args)
    records = []
    for site, layer in places:
        raw = x[f"{site}/{layer}"]
        scale = float((raw.shape[1] / raw[:train].pow(2).sum(1).mean()).sqrt())
        of_train, of_test = (raw[:train] * scale, y[:train]), (raw[train:] * scale, y[train:])
        probes = train_probes(of_train[0], torch.nn.functional.one_hot(of_train[1], 26).float(), 0.0, 1e-4)
        for sae in saes:
            if sae.place(args.place) != (site, layer):
                continue
            if sae.w_enc.shape[0] != raw.shape[1]:
                raise Refused(f"{sae.folder}: takes rows of {sae.w_enc.shape[0]}, {site}/{layer} has {raw.shape[1]}")
            with torch.inference_mode():
                f = torch.cat([sae.encode(rows) for rows in raw.split(2048)]) * scale
            result = judge(of_train, of_test, (f[:train], f[train:]), probes, sae.w_dec)
            records.append({"sae": str(sae.folder), "site": site, "layer": layer, "width": len(sae.w_dec),
                            "words": len(raw), "test_words": len(raw) - train, **result})
            print(f"{sae.folder}: done", file=sys.stderr)
    return records


def self_test() -> bool:
    found = {}
    one = torch.eye(4)
    parent, child = one[0], one[1]
    probe = 2 * parent
    x = 3 * parent + 4 * child
    tilted = (3 * parent + 4 * child) / 5
    # Latents: the parent's, the child's pure direction, the child's with the parent's direction in it, another.
    decoder = torch.stack([parent, child, tilted, one[2]])
    words = {"both": [3.0, 4.0, 0, 0], "absorbed": [0, 0, 5.0, 0], "lost": [0, 4.0, 0, 1.0], "half": [1.5, 0, 2.5, 0],
             "silent": [0, 0, 0, 0], "weak": [0, 0, 1.0, 0]}
    f = torch.tensor(list(words.values()))
    full, fraction = absorbed_words(x.repeat(len(f), 1), f, probe, decoder, [0])
    full, fraction = dict(zip(words, full.tolist())), dict(zip(words, fraction.tolist()))
    close = lambda a, b: abs(a - b) < 1e-6
    found["parent silent, the child's latent carries its direction: absorbed"] = full["absorbed"] and close(fraction["absorbed"], 1)
    found["parent and child on: not absorbed"] = not full["both"] and fraction["both"] == 0
    found["parent silent, nothing carries its direction: not absorbed"] = not full["lost"] and fraction["lost"] == 0
    found["all silent: not absorbed"] = not full["silent"] and fraction["silent"] == 0
    found["carries a fifth of it, less than 0.4: not absorbed"] = not full["weak"] and fraction["weak"] == 0
    found["half of it moved: no full absorption, fraction 1/2"] = not full["half"] and close(fraction["half"], 0.5)
    full, fraction = absorbed_words(-x[None], f[1:2], probe, decoder, [0])
    found["word against the probe: not absorbed"] = not full[0] and fraction[0] == 0
    full, fraction = absorbed_words(x[None], f[1:2], probe, decoder, [0, 2])
    found["the carrying latent is main itself: not absorbed"] = not full[0] and fraction[0] == 0
    full, _ = absorbed_words(x[None], f[1:2] / 2, probe, decoder * torch.tensor([1, 1, 2, 1.0])[:, None], [0])
    found["decoder rows of any length"] = bool(full[0])
    found["F1"] = close(f1_score(torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()), 0.5)
    found["main latents: while F1 rises by more than 0.03"] = [
        main_latents(a) for a in ([0.5], [0.5, 0.52], [0.5, 0.6, 0.62, 0.9], [0.5, 0.6, 0.7])] == [1, 1, 2, 3]

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 3, generator=generator)
    b = torch.rand(2000, generator=generator) < torch.sigmoid(2 * a[:, 0] - a[:, 1] - 2)
    w, bias = balanced_logistic(a, b)
    v = torch.cat([w, bias[None]]).double().requires_grad_(True)
    balance = torch.where(b, 1000 / b.sum(), 1000 / (~b).sum())
    logits = a.double() @ v[:3] + v[3]
    (0.5 * v[:3].pow(2).sum() + torch.nn.functional.binary_cross_entropy_with_logits(
        logits, b.double(), weight=balance.double(), reduction="sum")).backward()
    found["balanced logistic regression: the gradient vanishes"] = bool(v.grad.abs().max() < 2e-2)

    # A whole language: words are a letter and a word direction. One SAE has a latent for every letter; the other gives the
    # letter of half the words with `a` to a latent for each of those words.
    n, rows = 80, 26 * 200
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
    y = torch.arange(rows) % 26
    own = 26 + torch.randint(0, 50, (rows,), generator=generator)
    x = 7 * basis[y] + 5.5 * basis[own] + 0.1 * torch.randn(rows, n, generator=generator)  # E|x|^2 = n, about
    honest = torch.zeros(rows, 130).scatter(1, y[:, None], 7.0).scatter(1, own[:, None], 5.5)
    decoder = torch.cat([basis[:76], torch.nn.functional.normalize(7 * basis[0] + 5.5 * basis[26:76], dim=1), basis[76:]])
    taken = (y == 0) & (own < 51)
    absorbing = honest.clone()
    absorbing[taken, 0] = 0
    absorbing[taken, own[taken]] = 0
    absorbing[taken, own[taken] + 50] = 8.9
    train = rows // 2
    probes = train_probes(x[:train], torch.nn.functional.one_hot(y[:train], 26).float(), 0.0, 1e-4)
    said = [judge((x[:train], y[:train]), (x[train:], y[train:]), (codes[:train], codes[train:]), probes, decoder)
            for codes in (honest, absorbing)]
    expected = float(taken[train:].sum() / (y[train:] == 0).sum())
    found["language: all probes good, each letter one main latent"] = all(
        s["letters_counted"] == 26 for s in said) and all(r["main"] == [i] for i, r in enumerate(said[0]["letters"].values()))
    found["language: honest SAE, absorption 0"] = said[0]["absorption"] == 0 and said[0]["absorption_fraction"] == 0
    found["language: absorbing SAE, of `a` as many as were taken, of others none"] = (
        close(said[1]["letters"]["a"]["absorption"], expected) and close(said[1]["absorption"], expected / 26))
    for what, holds in found.items():
        print(f"{what}: {'ok' if holds else 'NO'}")
    return all(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="saved SAEs (SAELens folders)")
    parser.add_argument("--model", help="as harvest.py takes it: name on the hub, folder, GGUF file, or smollm2")
    parser.add_argument("--cache", type=Path, help="an .npz of the words' activations, made if missing and added to")
    parser.add_argument("--words", type=int, default=16000, help="at most so many, chosen by --seed (default 16000; 0: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the words' order, split and examples")
    parser.add_argument("--place", help="site/layer of all SAEs, where their cfg.json does not say it: resid_post/12")
    parser.add_argument("--json", action="store_true", help="print JSON, with every letter")
    parser.add_argument("--self-test", action="store_true", help="check the metrics on cases made by hand")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    try:
        if args.self_test:
            return 0 if self_test() else 1
        if not args.folders or not args.model:
            raise Refused("expected saved SAEs and --model; or --self-test")
        if args.cache and args.cache.suffix != ".npz":
            raise Refused(f"--cache {args.cache}: expected a name that ends with .npz")
        records = evaluate([Sae(folder, args.device) for folder in args.folders], args)
    except (Refused, ValueError) as error:
        print(f"absorption.py: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"model": args.model, "seed": args.seed, "saes": records}, indent=1))
        return 0
    print(f"{records[0]['words']} words, {records[0]['test_words']} of them for the test")
    wide = max(len(r["sae"]) for r in records)
    print(f"{'':{wide}}{'absorption':>12}{'fraction':>10}{'letters':>9}{'main':>7}{'F1, k=1':>9}{'L0':>8}")
    for r in records:
        print(f"{r['sae']:{wide}}{r['absorption']:12.4f}{r['absorption_fraction']:10.4f}{r['letters_counted']:9}"
              f"{r['main_latents']:7.2f}{r['sparse_f1_1']:9.3f}{r['l0']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
