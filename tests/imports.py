"""What our modules import of each other, read from their syntax: at import time, inside functions, for types alone."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def modules(*rooms: str) -> dict[str, Path]:
    """By name, those of top-level folders and files."""
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    paths += [ROOT / f"{room}.py" for room in rooms if (ROOT / f"{room}.py").is_file()]
    return {_name(path): path for path in sorted(paths)}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of what a file imports, modules and what is taken from them; only at import time when asked for."""
    tree = ast.parse(path.read_text())
    package = list(path.relative_to(ROOT).parts[:-1])
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def graph(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """By module, those of the others that it imports. A package counts only where nothing in it is named."""
    return {name: set(_most_exact(imported(path) & found.keys() - {name})) for name, path in found.items()}


def _most_exact(names: Iterable[str]) -> Iterator[str]:
    known = set(names)
    yield from (name for name in known if not any(other.startswith(f"{name}.") for other in known))


def circle(arrows: Mapping[str, set[str]]) -> str:
    """A circle of imports as `a → b → a`; empty where there is none."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as exc:
        return " → ".join(reversed(exc.args[1]))
    return ""
