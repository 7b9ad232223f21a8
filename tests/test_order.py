"""Reading order is import order: a file imports only from files above it, and some packages have owners."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "glvid"
ORDER = (
    "errors files parallel types store geometry warp losses networks weights video synthetic formats data predict "
    "given solve views prior moving dense refine quality lessons colors synth results claim exports metric inference "
    "api evaluate train viewer bench report page doctor cli __main__"
).split()
KNOWN_BY = {
    "av": {"video"},
    "typer": {"cli"},
    "rich": {"cli"},
    "ray": {"cli"},
    "open3d": {"exports", "synthetic"},
    "safetensors": {"weights", "networks"},
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path: Path) -> str:
    """The name of a file, or of the folder it lies in, in ORDER."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full dotted names of everything a file imports, at its head or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_above(path):
    allowed = {*ORDER[: ORDER.index(part(path)) + 1], "__version__"}
    used = {name.split(".")[1] for name in imported(path) if name.startswith("glvid.")}
    assert used <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_stay_with_those_who_may_know_them(path):
    for package, owners in KNOWN_BY.items():
        if package in {name.split(".")[0] for name in imported(path)}:
            assert part(path) in owners, f"{path.name} imports {package}"


@pytest.mark.parametrize(("call", "owner"), [("grid_sample(", "warp"), ("torch.load(", "weights"), ("print(", "cli")])
def test_calls_stay_with_their_owner(call, owner):
    users = {part(path) for path in FILES for node in ast.walk(ast.parse(path.read_text())) if is_call(node, call[:-1])}
    assert users <= {owner}


def is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and (
        ast.unparse(node.func) == name or ast.unparse(node.func).endswith("." + name)
    )
