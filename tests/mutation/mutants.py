"""Small faults to seed into formulas: wrong signs, dropped halves, α for σ, one off, time the wrong way.

An operator looks at one node of the syntax tree and yields edits of the node's own span, so that a mutant's file is
the original's but for a few characters. Left alone is what no formula depends on: annotations, docstrings, defaults,
error messages and the guards that raise them, tolerances, shapes and types.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

Edit = tuple[int, int, str]
"""(start, end, what stands there instead)."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One edit of one file."""

    path: str
    line: int
    function: str
    """Qualified name of the function around it, "" at the top of the module."""
    block: int | None
    """First line of the block of statements around it, which is what tests are known to enter; None outside any."""
    operator: str
    edit: Edit
    before: str
    after: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names this mutant however the lines above it move."""
        return self.path, self.function, self.before, self.after

    def apply(self, text: str) -> str:
        """The mutated source."""
        return _edited(text, self.edit)


def _edited(text: str, edit: Edit) -> str:
    return text[: edit[0]] + edit[2] + text[edit[1] :]


class Source:
    """A file's text, addressed by the nodes of its tree."""

    def __init__(self, text: str) -> None:
        self.text, self.lines, self.starts = text, text.split("\n"), [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def place(self, line: int, column: int) -> int:
        """Index of a character; the tree counts columns in bytes of UTF-8."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.place(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self.place(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def operand(self, node: ast.AST) -> str:
        """The text of a node, in parentheses where it may need them."""
        closed = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant
        return self.of(node) if isinstance(node, closed) else f"({self.of(node)})"

    def token(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[Edit]:
        """Change the operator between two operands."""
        start = self.text.find(old, self.span(left)[1], self.span(right)[0])
        if start >= 0:
            yield start, start + len(old), new

    def snippets(self, edit: Edit) -> tuple[str, str]:
        """The lines of an edit before and after it, on one line each."""
        start = self.text.rfind("\n", 0, edit[0]) + 1
        whole = self.text[start : edit[1]] + self.text[edit[1] :].partition("\n")[0]
        changed = _edited(whole, (edit[0] - start, edit[1] - start, edit[2]))
        return " ".join(whole.split()), " ".join(changed.split())


def _constant(node: ast.AST | None, *values: float) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value in values


def _called(node: ast.AST) -> str:
    """The last name of what is called: sqrt of jnp.sqrt."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def _arithmetic(node: ast.AST, *kinds: type[ast.operator]) -> bool:
    """Whether this is an operation on numbers of these kinds: no joining of tuples or text, no tolerance."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, kinds)):
        return False
    for side in (node.left, node.right):
        if isinstance(side, ast.Tuple | ast.List | ast.JoinedStr):
            return False
        if isinstance(side, ast.Constant) and (isinstance(side.value, str) or 0 < abs(side.value) < 1e-4):
            return False
    return True


def sign(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """a + b for a − b, x for −x, exp(−x) for exp(x)."""
    if isinstance(node, ast.BinOp) and _arithmetic(node, ast.Add, ast.Sub):
        old, new = "+-" if isinstance(node.op, ast.Add) else "-+"
        yield from source.token(node.left, node.right, old, new)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        old, new = ("+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
        yield from source.token(node.target, node.value, old, new)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        start = source.span(node)[0]
        yield start, start + 1, ""
    if isinstance(node, ast.Call) and _called(node) in ("exp", "expm1", "log1p") and node.args:
        start, end = source.span(node.args[0])
        if source.text[start] != "-":
            yield start, end, f"-{source.operand(node.args[0])}"


def half(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """1 for ½ and, in products, for 2."""
    if _constant(node, 0.5):
        yield *source.span(node), "1.0"
    if isinstance(node, ast.BinOp) and _arithmetic(node, ast.Mult, ast.Div):
        for side in (node.left, node.right):
            if _constant(side, 2):
                yield *source.span(side), "1.0" if "." in source.of(side) else "1"


def factor(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """a or b for a · b, a for a / b; `half` takes care of the twos."""
    if isinstance(node, ast.BinOp) and _arithmetic(node, ast.Mult, ast.Div):
        if not _constant(node.right, 2, 0.5):
            yield *source.span(node), source.operand(node.left)
        if isinstance(node.op, ast.Mult) and not _constant(node.left, 2, 0.5):
            yield *source.span(node), source.operand(node.right)


def quotient(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """a / b for a · b."""
    if isinstance(node, ast.BinOp) and _arithmetic(node, ast.Mult, ast.Div):
        old, new = "*/" if isinstance(node.op, ast.Mult) else "/*"
        yield from source.token(node.left, node.right, old, new)


def alpha_sigma(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """σ for α: of a process or a schedule, or a local name whose counterpart exists."""
    other = {"alpha": "sigma", "sigma": "alpha"}
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        stem, dot, _ = node.attr.partition("_dot")
        if stem in other and node.attr == stem + dot:
            end = source.span(node)[1]
            yield end - len(node.attr), end, other[stem] + dot
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        counterpart = re.sub("alpha|sigma", lambda match: other[match[0]], node.id)
        if counterpart != node.id and counterpart in names:
            yield *source.span(node), counterpart


def off_by_one(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """The neighbouring index, bound or order."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and _constant(node.right, 1):
        yield *source.span(node), source.operand(node.left)
    if isinstance(node, ast.Call) and _called(node) in ("range", "arange") and node.args:
        bounds = node.args[:2]
        yield *source.span(bounds[-1]), f"{source.operand(bounds[-1])} - 1"
        if len(bounds) == 2 and not _constant(bounds[0], 0):
            yield *source.span(bounds[0]), f"{source.operand(bounds[0])} - 1"
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            for place in [part.lower, part.upper] if isinstance(part, ast.Slice) else [part]:
                if place is not None and re.fullmatch(r"-?\d", source.of(place)):
                    index = int(source.of(place))
                    inner = index > 0 and place is part
                    yield *source.span(place), str(index - 1 if index < 0 or inner else index + 1)
                elif isinstance(place, ast.Name) and place is not part:
                    yield *source.span(place), f"{place.id} - 1"


_ENDS = "t s, t_0 t_1, safe_t safe_s, start end, t_start t_end, low high, lower upper, left right"
PAIRS = {a: b for pair in map(str.split, _ENDS.split(",")) for a, b in (pair, pair[::-1])}
"""Names for the two ends of something."""


def _of_the_same(one: ast.AST, other: ast.AST) -> bool:
    """Whether both are places of one list."""
    if isinstance(one, ast.Subscript) and isinstance(other, ast.Subscript):
        return ast.dump(one.value) == ast.dump(other.value)
    return False


def direction(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """s for t, f(s, t) for f(t, s), a list that is not reversed."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and PAIRS.get(node.id) in names:
        yield *source.span(node), PAIRS[node.id]
    if isinstance(node, ast.Call):
        for one, other in pairwise(node.args):
            if PAIRS.get(source.of(one)) == source.of(other) or _of_the_same(one, other):
                (start, left), (right, end) = source.span(one), source.span(other)
                yield start, end, source.of(other) + source.text[left:right] + source.of(one)
    if isinstance(node, ast.Slice) and node.step is not None and source.of(node.step) == "-1":
        yield *source.span(node.step), "1"


COMPARISONS = {"Lt": ("<", ">="), "GtE": (">=", "<"), "Gt": (">", "<="), "LtE": ("<=", ">"), "Eq": ("==", "!=")}
COMPARISONS["NotEq"] = COMPARISONS["Eq"][::-1]


def comparison(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """The opposite."""
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for (left, right), op in zip(pairwise(operands), node.ops, strict=True):
            if type(op).__name__ in COMPARISONS:
                yield from source.token(left, right, *COMPARISONS[type(op).__name__])


def power(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """x for √x and for x²."""
    if isinstance(node, ast.Call) and _called(node) in ("sqrt", "safe_sqrt", "square") and len(node.args) == 1:
        yield *source.span(node), source.operand(node.args[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _constant(node.right, 2):
        yield *source.span(node), source.operand(node.left)


def stage(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """f(y, t) for f(y, t'): a stage's time that does not move with its state."""
    if isinstance(node, ast.Call) and _called(node) in ("denoise", "gradient", "slope", "flow") and len(node.args) == 2:
        time = node.args[1]
        if isinstance(time, ast.Name) and time.id != "t" and "t" in names:
            yield *source.span(time), "t"


def neighbours(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """A norm over the batch for each sample's own."""
    if isinstance(node, ast.Call) and _called(node) == "sum_event" and len(node.args) == 1:
        yield *source.span(node), f"jnp.sum({source.of(node.args[0])})"


def pairing(node: ast.AST, source: Source, names: frozenset[str]) -> Iterator[Edit]:
    """Noise in another order than in what it is compared with."""
    if isinstance(node, ast.Call) and _called(node) == "perturb" and len(node.args) == 4:
        yield *source.span(node.args[2]), f"{source.operand(node.args[2])}[::-1]"


Operator = Callable[[ast.AST, Source, frozenset[str]], Iterator[Edit]]
OPERATORS: dict[str, Operator] = {
    operator.__name__: operator
    for operator in (
        sign,
        half,
        factor,
        quotient,
        alpha_sigma,
        off_by_one,
        direction,
        comparison,
        power,
        stage,
        neighbours,
        pairing,
    )
}
SHAPES = re.compile("axis|axes|dtype|shape|event|block|chunk|^size$|batch_size|static|tol$|toler|__")
"""Keywords, variables and things subscripted that hold shapes, types, tolerances or the sizes of blocks."""
MAKERS = {"reshape", "broadcast_to", "zeros", "ones", "empty", "astype", "result_type", "field", "static", "warn"}
"""Calls whose arguments hold such things."""


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a file, and knows in which function and block it is."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.source = path, Source(text)
        self.names: frozenset[str] = frozenset()
        self.trail: tuple[str, ...] = ()
        self.block: int | None = None
        self.found: dict[Edit, Mutant] = {}

    def generic_visit(self, node: ast.AST) -> None:
        for name, operator in OPERATORS.items():
            for edit in operator(node, self.source, self.names):
                here = (self.path, getattr(node, "lineno", 0), ".".join(self.trail), self.block)
                self.found.setdefault(edit, Mutant(*here, name, edit, *self.source.snippets(edit)))
        for _, value in ast.iter_fields(node):
            self.visit_all(value if isinstance(value, list) else [value])

    def visit_all(self, values: Sequence[object], inside: bool = False) -> None:
        """Visit a node's children; a list of statements inside a function is a block."""
        outer = self.block
        if values and isinstance(values[0], ast.stmt) and (inside or outer is not None):
            self.block = values[0].lineno
        for value in values:
            if isinstance(value, ast.AST):
                self.visit(value)
        self.block = outer

    def visit_FunctionDef(self, node: Function) -> None:
        outer = self.names, self.trail
        self.names, self.trail = self.names | _bound(node), (*self.trail, node.name)
        self.visit_all(node.body, inside=True)
        self.names, self.trail = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.trail = self.trail, (*self.trail, node.name)
        for statement in node.body:
            if not isinstance(statement, ast.AnnAssign):  # defaults are conventions
                self.visit(statement)
        self.trail = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit_all([node.value])

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(isinstance(target, ast.Name) and SHAPES.search(target.id) for target in node.targets):
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if any(isinstance(statement, ast.Raise) for statement in node.body):
            self.visit_all(node.orelse)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _called(node) in MAKERS:
            self.visit(node.func)
        else:
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if not SHAPES.search(node.arg or ""):
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not SHAPES.search(self.source.of(node.value).rpartition(".")[2]):
            self.generic_visit(node)

    def nothing(self, node: ast.AST) -> None:
        """Left alone."""

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = visit_arguments = nothing


def _bound(node: Function) -> frozenset[str]:
    """Arguments and variables of a function."""
    stored = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return frozenset((*stored, *(n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg))))


def mutants_of(path: str, text: str) -> list[Mutant]:
    """Every mutant of a file, from its first line to its last."""
    finder = _Finder(path, text)
    finder.visit(ast.parse(text))
    return sorted(finder.found.values(), key=lambda mutant: (mutant.edit, mutant.operator))


def sources(root: Path) -> dict[str, str]:
    """The files that faults are seeded into: formulas, not networks or old names, and nothing that needs an extra."""
    paths = [path for layer in ("diffusion", "samplers") for path in sorted((root / layer).rglob("*.py"))]
    kept = [p for p in paths if "networks" not in p.parts and p.name not in ("__init__.py", "adaptive.py", "moved.py")]
    return {path.relative_to(root).as_posix(): path.read_text() for path in kept}
