"""Memory: what `strata plan` says that a run takes, and the most that it took, for every kind in a run that comes to use all
of it: long lists, codes of dead latents, a checkpoint, the end. memory.py STRATA FOLDER"""

import json
import os
import subprocess
import sys
from pathlib import Path

strata, folder = sys.argv[1], Path(sys.argv[2])
BOUND = 0.1
STEPS, BATCH = 20, 2048


def call(*arguments: str) -> str:
    return subprocess.run([strata, *arguments], check=True, capture_output=True, text=True).stdout


def most_of_run(config: Path) -> int:
    process = subprocess.Popen([strata, "train", str(config), "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"strata train {config}: status {status}")
    return usage.ru_maxrss * 1024


call("data", "synth", "--out", str(folder / "wide.h5"), "--rows", "40000", "--n", "256", "--features", "1024", "--active", "24")
failed = False
for kind in ["topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated"]:
    config = folder / f"{kind}.yaml"
    sae = {"kind": kind, "width": 8192}
    rate = 1e-3
    if kind in ("topk", "batch_topk", "matryoshka"):
        sae.update(k=4, aux_k=128, dead_after_tokens=BATCH)
    else:
        rate = 3e-4  # pairs become few slowly
    if kind == "jumprelu":
        sae.update(encoder_norm=1, theta_init=0.06, bandwidth=0.05)  # many pairs at first, as in the others
    config.write_text(json.dumps({
        "run": {"output": str(folder / kind)},
        "data": {"files": [str(folder / "wide.h5")], "datasets": ["resid_post/0"], "eval_rows": 4096, "shuffle_rows": 8192},
        "train": {"batch_size": BATCH, "tokens": STEPS * BATCH, "checkpoint_every": STEPS // 2, "log_every": STEPS},
        "sae": sae, "optimizer": {"lr": rate},
    }))  # JSON is YAML
    seen = most_of_run(config)
    plan = json.loads(call("plan", str(config), "--json", "--product-rate", "100", "--memory-rate", "10"))
    planned = plan["memory"]["needed"]
    right = abs(planned / seen - 1) <= BOUND
    failed = failed or not right
    print(f"{kind}: planned {planned / 2**20:.0f} MiB, taken {seen / 2**20:.0f}, ratio {planned / seen:.2f}"
          + ("" if right else f"\nFAILED: not within {100 * BOUND:.0f} %: " + json.dumps(plan["jobs"][0]["memory"])))
sys.exit(failed)
