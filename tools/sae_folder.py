"""Saved SAEs (SAELens folders) in PyTorch, for the tools that measure them on a language model; sae-lens is not needed."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

ARCHITECTURES = ("jumprelu", "topk", "standard")


class Sae:
    """f = encode(x) [rows, M], x_hat = decode(f) [rows, n], of raw activations, by the definitions in docs/methods.md."""

    def __init__(self, folder: Path, device: str = "cpu"):
        for name in ("cfg.json", "sae_weights.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: no {name} in it; expected a saved SAE, such as runs/NAME/saes/SAE")
        config = json.loads((folder / "cfg.json").read_text())
        self.folder = folder
        self.architecture = config.get("architecture")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"{folder}: architecture {self.architecture}; expected {', '.join(ARCHITECTURES)}")
        if config.get("normalize_activations", "none") != "none":
            raise ValueError(f"{folder}: normalize_activations {config['normalize_activations']}; expected none")
        self.k = config.get("k")
        self.subtracts_bias = config.get("apply_b_dec_to_input", True)
        self.metadata = config.get("metadata", {}).get("strata", {})
        t = {name: value.float().to(device) for name, value in load_file(folder / "sae_weights.safetensors").items()}
        self.w_enc, self.b_enc, self.w_dec, self.b_dec = (t[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
        self.threshold = t["threshold"].clamp_min(0) if self.architecture == "jumprelu" else torch.tensor(0.0)

    def place(self, said: str | None = None) -> tuple[str, int]:
        """Site and layer of what it was trained on, or of `said`, "site/layer"."""
        site, _, layer = (said or self.metadata.get("dataset", "")).partition("/")
        if not layer.isdigit():
            raise ValueError(f"{self.folder}: its cfg.json names no site and layer; give them with --place resid_post/12")
        return site, int(layer)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = (x - self.b_dec if self.subtracts_bias else x) @ self.w_enc + self.b_enc
        if self.architecture == "topk":
            best = z.topk(self.k, dim=-1)
            return torch.zeros_like(z).scatter(-1, best.indices, best.values.relu())
        return z * (z > self.threshold)

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        return f @ self.w_dec + self.b_dec
