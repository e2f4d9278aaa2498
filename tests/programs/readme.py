"""Runs every block of README.md in order, as a reader would: bash, python and C++ are executed, YAML becomes the file that
the comment above it names. Steps that need packages from PyPI run where STRATA_PYTHON names an interpreter that has them;
the sbatch line is run by tests/slurm."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

source = Path(os.environ["STRATA_SOURCE"])
build = Path(os.environ["STRATA_BUILD"])
heavy_python = os.environ.get("STRATA_PYTHON")

BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.S)
# Lines that would start this test again, or a build beside it: those are what runs it.
INDIRECT = {"scripts/test"}


def run(command: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"-- {what}\n{done.stdout}", flush=True)
    if done.returncode != 0:
        sys.exit(f"README.md: exit status {done.returncode} of: {what}")
    if what == "scripts/quickstart":
        share = float(re.search(r"recovered_features\s+(\S+)", done.stdout).group(1))
        if share < 0.9:
            sys.exit(f"README.md: {what}: {share} of the true features recovered, 0.9 expected")


def run_cpp(text: str, folder: Path) -> None:
    prefix, project = folder / "prefix", folder / "consumer"
    project.mkdir()
    (project / "main.cpp").write_text(text)
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(consumer LANGUAGES CXX)\nset(CMAKE_CXX_STANDARD 20)\n"
        "find_package(strata REQUIRED)\nadd_executable(consumer main.cpp)\n"
        "target_link_libraries(consumer PRIVATE strata::strata)\n")
    run(["cmake", "--install", str(build), "--prefix", str(prefix)], folder, "cmake --install")
    run(["cmake", "-S", str(project), "-B", str(project / "build"), f"-DCMAKE_PREFIX_PATH={prefix}"], folder, "cmake")
    run(["cmake", "--build", str(project / "build")], folder, "cmake --build")
    run([str(project / "build" / "consumer")], folder, "consumer")


def main() -> None:
    os.environ["PATH"] = f"{build}:{os.environ['PATH']}"
    os.environ["STRATA"] = str(build / "strata")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("scripts", "configs", "slurm", "tools"):
            shutil.copytree(source / part, folder / part)
        seen = []
        for file, language, text in BLOCK.findall((source / "README.md").read_text()):
            seen.append(language)
            if language == "bash":
                for line in filter(None, text.splitlines()):
                    if line in INDIRECT:
                        run(["bash", "-n", line], source, line)
                    elif "--model" in line and not heavy_python or line.startswith("sbatch"):
                        run(["bash", "-n", line.split()[0 if "--model" in line else 1]], source, f"syntax only: {line}")
                    else:
                        run(["bash", "-c", line], folder, line)
            elif language == "python":
                if "sae_lens" in text and not heavy_python:
                    compile(text, "README.md", "exec")
                else:
                    run([heavy_python if "sae_lens" in text else "/usr/bin/python3", "-c", text], folder, "python")
            elif language == "yaml":
                (folder / file).write_text(text)
            elif language == "cpp":
                run_cpp(text, folder)
            elif language != "text":
                sys.exit(f"README.md: a block of {language}, which nobody runs")
        assert {"bash", "python", "yaml", "cpp"} <= set(seen), seen


main()
