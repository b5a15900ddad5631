"""The mutants of a module, as cosmic-ray makes them.

Invariants:
- A mutant's rank depends on the seed and on its own line, so a change elsewhere does not move a sample.
- Annotations, decorators and unions of types are left alone: they mean nothing at run time.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from tests.sources import ROOT, tree_of

ACCEPTED: Final = Path(__file__).with_name("equivalent.toml")

_COMPARISONS: Final = (
    "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
    "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
)  # fmt: skip
_BINARY: Final = (
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul",
    "LShift_RShift", "RShift_LShift", "BitAnd_BitOr", "BitOr_BitAnd", "BitXor_BitAnd",
)  # fmt: skip
OPERATORS: Final = (
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in _BINARY),
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_USub_UAdd",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
"""One or two faults per place. cosmic-ray has more, such as ``+`` to ``**``, that any test finds."""


@dataclass(frozen=True)
class Mutant:
    """One fault: a line of a module, and what it becomes."""

    module: str
    definition: str | None
    line_number: int
    line: str
    operator: str
    occurrence: int
    column: int

    def rank(self, seed: str) -> bytes:
        """Where it stands among all mutants, under `seed`."""
        key = (
            f"{seed}\0{self.module}\0{self.definition}\0{self.line}\0{self.operator}\0{self.column}"
        )
        return hashlib.blake2b(f"{key}\0{self.occurrence % 2}".encode()).digest()

    def mutated(self) -> tuple[str, str]:
        """The text of the mutated module, and its first line that differs, stripped."""
        before = path_of(self.module).read_text(encoding="utf-8")
        after = mutate_code(before, get_operator(f"core/{self.operator}")(), self.occurrence)
        assert after is not None
        pairs = zip(before.splitlines(), after.splitlines(), strict=False)
        return after, next((new.strip() for old, new in pairs if old != new), "")


def path_of(module: str) -> Path:
    """The file of a module."""
    return ROOT / "grapevine_proto" / f"{module}.py"


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of a module."""
    path = path_of(module)
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = tree_of(path)
    skipped = _meaningless(tree)
    binary = _binary_operators(tree)
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for operator_name in OPERATORS:
        operator = get_operator(f"core/{operator_name}")()
        occurrence = -1
        for node in nodes:
            for start, _end in operator.mutation_positions(node):
                occurrence += 1
                if _is_within(start, skipped):
                    continue
                if operator_name.startswith("ReplaceBinary") and not _is_within(start, binary):
                    continue  # a marker of parameters, or a pattern
                found.append(
                    Mutant(
                        module,
                        ASTQuery(node).get_definition_name(),
                        start[0],
                        lines[start[0] - 1].strip(),
                        operator_name,
                        occurrence,
                        start[1],
                    )
                )
    return found


def accepted() -> dict[tuple[str, str, str], str]:
    """Mutants that behave like the original: (module, line, mutated line) to the reason."""
    entries = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("equivalent", [])
    return {(one["module"], one["line"], one["mutant"]): one["reason"] for one in entries}


Range = tuple[tuple[int, int], tuple[int, int]]


def _meaningless(tree: ast.Module) -> list[Range]:
    """Ranges of (line, column) whose text means nothing at run time."""
    nodes: list[ast.AST | None] = []
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
                nodes.append(node)
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                nodes.append(annotation)
            case ast.FunctionDef(returns=returns, decorator_list=decorators):
                nodes += [returns, *decorators]
            case ast.ClassDef(decorator_list=decorators):
                nodes += decorators
            case ast.keyword(arg="strict", value=value):
                nodes.append(value)  # of `zip`: what differs in length is a bug elsewhere
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                nodes.append(node)
    for statement in tree.body:  # aliases of unions
        match statement:
            case ast.Assign(value=ast.BinOp(op=ast.BitOr()) as union):
                nodes.append(union)
            case _:
                pass
    return [_range(node) for node in nodes if isinstance(node, ast.expr | ast.stmt)]


def _binary_operators(tree: ast.Module) -> list[Range]:
    """Ranges between the two operands of each binary operation."""
    ranges = []
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left=left, right=right):
                ranges.append((_range(left)[1], _range(right)[0]))
            case ast.AugAssign(target=left, value=right):
                ranges.append((_range(left)[1], _range(right)[0]))
    return ranges


def _is_within(position: tuple[int, int], ranges: list[Range]) -> bool:
    return any(first <= position < last for first, last in ranges)


def _range(node: ast.expr | ast.stmt) -> Range:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
