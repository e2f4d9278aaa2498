#!/usr/bin/env python3
"""Losses and gradients of every kind of SAE from PyTorch's autograd, in float64, as tests/golden/*.json.

    scripts/python-environment golden
    .venv/golden/bin/python tools/golden.py [FOLDER]

tests/device/golden_test.cpp holds the C++ reference (tests/support/reference.h) to these files at 1e-9. Written from
docs/methods.md and from nothing of the C++ code: a change of the mathematics is made in both and the files are made
again. Parameters and rows are rounded to three decimals and come from Python's own generator, so that the files are
small and do not depend on the version of PyTorch. Averaging optimisers run as their authors' package `schedulefree`.
"""

import json
import math
import pathlib
import random
import sys

import schedulefree
import torch

torch.set_default_dtype(torch.float64)
N, M, B = 6, 12, 10


# Steps have no derivative; these give theta one through a box of width eps around it, and none to z.
class JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, eps):
        ctx.save_for_backward(z, theta)
        ctx.eps = eps
        return z * (z > theta)

    @staticmethod
    def backward(ctx, g):
        z, theta = ctx.saved_tensors
        box = ((z - theta).abs() < ctx.eps / 2) & (z > 0)
        return g * (z > theta), -(theta / ctx.eps) * (g * box).sum(0), None


class Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, eps):
        ctx.save_for_backward(z, theta)
        ctx.eps = eps
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx, g):
        z, theta = ctx.saved_tensors
        box = ((z - theta).abs() < ctx.eps / 2) & (z > 0)
        return None, -(g * box).sum(0) / ctx.eps, None


def largest(z, count):
    """The `count` largest positive of z, as zeros and ones."""
    chosen = torch.zeros_like(z).flatten()
    order = z.flatten().argsort(descending=True, stable=True)[:count]
    chosen[order] = 1
    return chosen.reshape(z.shape) * (z > 0)


def largest_of_rows(z, k):
    return torch.stack([largest(row, k) for row in z])


def selection(z, rules, keep):
    if rules["kind"] == "topk":
        return largest_of_rows(z * keep, int(rules["k"]))
    if rules.get("row_cap"):  # counts masked pairs too
        z = z * largest_of_rows(z, rules["row_cap"])
    z = z * keep
    if rules.get("rank_rows"):
        return torch.cat([largest(part, math.floor(rules["k"] * len(part) + 0.5))
                          for part in z.split(rules["rank_rows"])])
    return largest(z, math.floor(rules["k"] * len(z) + 0.5))


def losses(p, x, target, kept, dead, rules):
    """The terms by name, the total with its graph, and which pairs have a code."""
    kind = rules["kind"]
    y = x if target is None else target
    q2 = rules["mean_square"]
    q = math.sqrt(q2)
    skip = x @ p["W_skip"] if "W_skip" in p else 0
    xc = x - p["b_dec"] if target is None else x
    u = xc @ p["W_enc"].T
    z = u + p["b_enc"]
    keep = torch.ones_like(z) if kept is None else kept
    terms = {}

    if kind in ("topk", "batch_topk", "matryoshka"):
        if rules.get("masks_after"):
            chosen = selection(z.detach(), rules, 1) * keep
        else:
            chosen = selection(z.detach(), rules, keep)
        f = z * chosen
    elif kind == "relu":
        f = torch.relu(z) * keep
        length = p["W_dec"].norm(dim=1) if rules.get("free_decoder") else 1
        terms["penalty"] = q * rules.get("l1", 0) * (f * length).sum() / B
    elif kind == "jumprelu":
        theta = p["latent"].exp() if rules.get("log_theta") else p["latent"]
        eps = q * rules["bandwidth"]
        f = JumpReLU.apply(z, theta, eps) * keep
        active = Active.apply(z, theta, eps) * keep
        l0 = active.sum() / B
        if "l0_target" in rules:
            terms["penalty"] = q2 * (rules.get("l0") or 1) * (l0 / rules["l0_target"] - 1) ** 2
        else:
            terms["penalty"] = q2 * rules.get("l0", 0) * l0
        above = torch.relu(active.mean(0) - rules["frequency_limit"])
        terms["frequency"] = q2 * rules.get("frequency", 0) * (above ** 2).sum()
    elif kind == "gated":
        rho, beta = p["latent"][:M], p["latent"][M:]
        magnitude = rho.exp() * u + beta
        f = (z > 0) * torch.relu(magnitude) * keep
        gate = torch.relu(z) * keep
        terms["penalty"] = q * rules.get("l1", 0) * gate.sum() / B
        frozen = gate @ p["W_dec"].detach() + p["b_dec"].detach()
        if "W_skip" in p:
            frozen = frozen + x @ p["W_skip"].detach()
        terms["gate"] = ((frozen - y) ** 2).sum() / B

    terms["prefixes"] = 0
    for end in rules.get("prefixes", [M]):
        residual = f[:, :end] @ p["W_dec"][:end] + p["b_dec"] + skip - y
        terms["reconstruction"] = (residual ** 2).sum() / B
        terms["prefixes"] = terms["prefixes"] + terms["reconstruction"]

    if dead:
        error = -residual.detach()
        of_dead = z[:, dead]
        codes = of_dead * largest_of_rows(of_dead.detach(), min(rules["aux_k"], len(dead)))
        variance = ((error - error.mean(0)) ** 2).sum()
        missed = ((error - codes @ p["W_dec"][dead]) ** 2).sum()
        terms["auxiliary"] = rules["aux_coefficient"] * q2 * missed / variance

    total = sum(v for k, v in terms.items() if k != "reconstruction")
    return terms, total, (f != 0).int()


def backward(p, *rest):
    for tensor in p.values():
        tensor.grad = None
    terms, total, active = losses(p, *rest)
    total.backward()
    return terms, active


def train(p, x, target, kept, dead, rules, lr, clip, steps):
    """Projection, clipping on all tensors, Adam, unit rows; the same batch each time."""
    unit = not rules.get("free_decoder")
    adam = torch.optim.Adam(p.values(), lr=lr)
    norms = []
    for _ in range(steps):
        backward(p, x, target, kept, dead, rules)
        d, g = p["W_dec"].detach(), p["W_dec"].grad
        if unit:
            g -= (g * d).sum(1, keepdim=True) / (d * d).sum(1, keepdim=True) * d
        norms.append(math.sqrt(sum(float((v.grad ** 2).sum()) for v in p.values())))
        for v in p.values():
            v.grad *= min(1, clip / norms[-1])
        adam.step()
        with torch.no_grad():
            if unit:
                p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
    return norms


def rounded(rng, *shape, scale=1.0, offset=0.0):
    count = math.prod(shape)
    return torch.tensor([round(offset + scale * rng.gauss(0, 1), 3) for _ in range(count)]).reshape(shape)


def start(rng, rules, skip):
    p = {"W_enc": None, "W_dec": rounded(rng, M, N, scale=N ** -0.5)}
    if not rules.get("free_decoder"):
        p["W_dec"] = (p["W_dec"] / p["W_dec"].norm(dim=1, keepdim=True) * 1000).round() / 1000
    p["W_enc"] = p["W_dec"] + rounded(rng, M, N, scale=0.1)
    p["b_enc"] = rounded(rng, M, scale=0.1)
    p["b_dec"] = rounded(rng, N, scale=0.2)
    if rules["kind"] == "jumprelu":
        theta = rounded(rng, M, scale=0.08, offset=0.35).abs()
        p["latent"] = (theta.log() * 1000).round() / 1000 if rules.get("log_theta") else theta
    if rules["kind"] == "gated":
        p["latent"] = rounded(rng, 2 * M, scale=0.2)
    if skip:
        p["W_skip"] = rounded(rng, N, N, scale=0.3)
    return {name: tensor.clone().requires_grad_() for name, tensor in p.items()}


def numbers(tensor):
    """Flat, 13 significant digits."""
    return [float(f"{v:.12e}") for v in tensor.detach().flatten().tolist()]


def case(rules, masks=False, transcoder=False, skip=False, dead=(), steps=0, seed=1):
    rng = random.Random(seed)
    rules = {"mean_square": 1.7, **rules}
    p = start(rng, rules, skip)
    x = rounded(rng, B, N, scale=N ** -0.5)
    target = rounded(rng, B, N, scale=0.5) if transcoder else None
    kept = torch.tensor([float(rng.random() < 0.7) for _ in range(B * M)]).reshape(B, M) if masks else None
    out = {"n": N, "width": M, "rows": B, "rules": rules, "x": numbers(x),
           "parameters": {name: numbers(tensor) for name, tensor in p.items()}}
    if transcoder:
        out["target"] = numbers(target)
    if masks:
        out["kept"] = [int(v) for v in kept.flatten()]
    if dead:
        out["dead"] = list(dead)
    rest = (x, target, kept, list(dead), rules)
    terms, active = backward(p, *rest)
    assert active.sum() > 0
    out["active"] = active.flatten().tolist()
    out["losses"] = {name: numbers(v)[0] for name, v in terms.items()}
    out["gradient"] = {name: numbers(tensor.grad) for name, tensor in p.items()}
    if steps:
        lr, clip = 0.01, 0.5
        norms = train(p, *rest, lr, clip, steps)
        out["training"] = {"lr": lr, "clip_norm": clip, "gradient_norms": [float(f"{v:.12e}") for v in norms],
                           "parameters": {name: numbers(tensor) for name, tensor in p.items()}}
    return out


JUMPRELU = {"kind": "jumprelu", "bandwidth": 0.4, "frequency_limit": 0.15}
PREFIXES = [2, 5, M]
AUXILIARY = {"aux_k": 2, "aux_coefficient": 0.5}
DEAD = (1, 4, 5, 9, 11)
ALL = dict(masks=True, transcoder=True, skip=True)


def cases():
    yield "relu", case({"kind": "relu", "l1": 0.2}, steps=3)
    yield "relu_free", case({"kind": "relu", "l1": 0.2, "free_decoder": True}, steps=3)
    yield "relu_all", case({"kind": "relu", "l1": 0.2, "free_decoder": True, "prefixes": PREFIXES}, **ALL)
    yield "topk", case({"kind": "topk", "k": 3, **AUXILIARY}, dead=DEAD)
    yield "topk_all", case({"kind": "topk", "k": 3, "prefixes": PREFIXES, **AUXILIARY}, dead=DEAD, **ALL)
    yield "batch_topk", case({"kind": "batch_topk", "k": 1.75}, steps=3)
    yield "batch_topk_masks_after", case({"kind": "batch_topk", "k": 1.75, "masks_after": True, **AUXILIARY},
                                         masks=True, dead=DEAD)
    yield "batch_topk_by_rank", case({"kind": "batch_topk", "k": 2.5, "row_cap": 3, "rank_rows": [3, 7]})
    yield "jumprelu", case({**JUMPRELU, "l0": 0.3}, steps=3)
    yield "jumprelu_target", case({**JUMPRELU, "l0_target": 2.5, "frequency": 0.6, "log_theta": True}, steps=3)
    yield "jumprelu_past_zero", case({**JUMPRELU, "bandwidth": 0.9, "l0": 0.3}, masks=True)
    yield "jumprelu_all", case({**JUMPRELU, "l0": 0.4, "l0_target": 2.5, "frequency": 0.6, "prefixes": PREFIXES}, **ALL)
    yield "gated", case({"kind": "gated", "l1": 0.2}, steps=3)
    yield "gated_all", case({"kind": "gated", "l1": 0.2, "prefixes": PREFIXES}, **ALL)
    yield "matryoshka", case({"kind": "matryoshka", "k": 2.5, "prefixes": PREFIXES, **AUXILIARY}, dead=DEAD)
    yield "matryoshka_all", case({"kind": "matryoshka", "k": 2.5, "prefixes": PREFIXES, **AUXILIARY}, dead=DEAD, **ALL)
    yield "transcoder", case({"kind": "batch_topk", "k": 2.5}, transcoder=True, skip=True, steps=3)


class SignSgd(torch.optim.Optimizer):
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


def optimiser(kind):
    """Given gradients, not those of a loss, under a rate that rises and falls."""
    rng = random.Random(2)
    size, steps = 6, 7
    beta1, beta2, epsilon = 0.9, 0.95, 1e-3
    begin = rounded(rng, size)
    p = begin.clone().requires_grad_()
    if kind == "adam":
        made = torch.optim.Adam([p], betas=(beta1, beta2), eps=epsilon)
    elif kind == "adam_schedule_free":
        made = schedulefree.AdamWScheduleFree([p], betas=(beta1, beta2), eps=epsilon, foreach=False)
    else:
        made = schedulefree.ScheduleFreeWrapper(SignSgd([p], 1), momentum=beta1)
    averaging = kind != "adam"
    if averaging:
        made.train()
    out = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "start": numbers(begin), "steps": []}
    for t in range(steps):
        lr = 0.1 * min((t + 1) / 4, (steps - t) / 3)
        gradient = rounded(rng, size)
        for group in made.param_groups:
            group["lr"] = lr
        p.grad = gradient.clone()
        made.step()
        step = {"lr": lr, "gradient": numbers(gradient), "parameters": numbers(p)}
        if averaging:
            made.eval()
            step["averaged"] = numbers(p)
            made.train()
        out["steps"].append(step)
    return out


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "tests/golden")
    folder.mkdir(parents=True, exist_ok=True)
    made = dict(cases())
    made.update({f"optimiser_{kind}": optimiser(kind) for kind in ("adam", "adam_schedule_free", "signum")})
    for name, content in made.items():
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
                           for key, value in content.items())
        (folder / f"{name}.json").write_text("{\n" + lines + "\n}\n")
    print(f"{len(made)} files in {folder}")


if __name__ == "__main__":
    main()
