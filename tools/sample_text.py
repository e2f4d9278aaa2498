#!/usr/bin/env python3
"""Writes a text file of English prose that every Python installation has: the documentation inside it. Paragraphs are
taken once each and shuffled by a fixed seed.    sample_text.py OUT.txt [MEGABYTES]"""

import ast
import random
import sys
import sysconfig
from pathlib import Path


def docstrings(folder: Path):
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "topics" in path.name:
                yield node.value


def main() -> None:
    out, megabytes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4.0
    paragraphs: dict[str, None] = {}
    found = 0
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for text in docstrings(Path(root)):
            if found > 2e6 * megabytes:
                break
            found += len(text)
            for paragraph in text.split("\n\n"):
                joined = " ".join(paragraph.split())
                if len(joined) >= 150:
                    paragraphs[joined] = None
    chosen = list(paragraphs)
    random.Random(0).shuffle(chosen)
    size, used = 0, 0
    while used < len(chosen) and size < megabytes * 1e6:
        size += len(chosen[used]) + 2
        used += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(chosen[:used]) + "\n", encoding="utf-8")
    print(f"{out}: {used} paragraphs, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
