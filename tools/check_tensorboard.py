#!/usr/bin/env python3
"""Holds what TensorBoard reads of a run's event files (run.tensorboard: true) against its metrics.jsonl: the same
numbers at the same steps, each once, however often the run was interrupted and resumed.

    scripts/python-environment peers
    .venv/peers/bin/python tools/check_tensorboard.py runs/example
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def check(run: Path) -> int:
    expected = {}  # (SAE, tag): [(step, value)]
    for line in (run / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        sae, step = metrics.pop("sae"), metrics.pop("step")
        for tag, value in metrics.items():
            expected.setdefault((sae, tag), []).append((step, np.float32(value)))
    found = {}
    for folder in sorted((run / "tensorboard").iterdir()):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            found[folder.name, tag] = [(e.step, np.float32(e.value)) for e in events.Scalars(tag)]
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            print(f"{key}: metrics.jsonl {expected.get(key)}, TensorBoard {found.get(key)}")
            return 1
    if not expected:
        print(f"{run}: nothing to compare")
        return 1
    print(f"{len(expected)} curves of {sum(map(len, expected.values()))} points, the same in TensorBoard")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a run")
    sys.exit(check(parser.parse_args().run))
