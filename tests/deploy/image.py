"""The Dockerfile as a list of instructions, and its build as far as a folder and chroot go, where Docker is not."""

import re
import shutil
import subprocess
from pathlib import Path

from stack import ROOT

Stage = list[tuple[str, str]]


def stages() -> list[Stage]:
    """Instruction and arguments, from each FROM to the next."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    found: list[Stage] = []
    for line in filter(None, text.splitlines()):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments.strip()))
    return found


def said(stage: Stage, instruction: str) -> list[str]:
    """The arguments of every such instruction."""
    return [arguments for name, arguments in stage if name == instruction]


def variables() -> dict[str, str]:
    """What ENV sets in the image."""
    return dict(pair.split("=", 1) for pair in " ".join(said(stages()[-1], "ENV")).split())


def in_context() -> set[str]:
    """What .dockerignore, which ignores all but this, lets in."""
    first, *lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def build(base: Path, folder: Path) -> Path:
    """Take the steps that change files, each stage from a copy of the root `base`; the root of the image."""
    built: dict[str, Path] = {}
    root = base
    for stage in stages():
        name, place = said(stage, "FROM")[0].partition(" AS ")[2], "/"
        root = built[name] = folder / (name or "image")
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        for instruction, arguments in stage:
            if instruction == "WORKDIR":
                place = arguments
                (root / place[1:]).mkdir(exist_ok=True)
            elif instruction == "COPY":
                _copy(arguments.split(), root, place, built)
            elif instruction == "RUN":
                subprocess.run(["chroot", str(root), "sh", "-c", f"cd {place} && {arguments}"], check=True)
    return root


def _copy(arguments: list[str], root: Path, place: str, built: dict[str, Path]) -> None:
    *sources, target = arguments
    origin = built[sources.pop(0).removeprefix("--from=")] if sources[0].startswith("--from=") else ROOT
    into = root / f"{place}/{target}".lstrip("/") if not target.startswith("/") else root / target[1:]
    for source in sources:
        assert origin is not ROOT or source in in_context(), f"{source} is not in the build context"
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, into)
