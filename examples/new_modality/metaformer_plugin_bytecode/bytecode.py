"""Compiled programs as a modality: an instruction is a token. Preprocessing, tokenizer and data set, in one file.

Instructions differ between versions of Python: predict with the version that trained.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Dataset, Preprocess, Tokenizer
from metaformer.errors import DataError
from metaformer.types import Raw, Sample, TokenBatch

ARGUMENTS = 64
"""Arguments of an instruction are small numbers (a variable, a constant, a jump); larger ones share the last code."""


class BytecodePreprocess(Preprocess):
    """Python source, a text or UTF-8 bytes → {ops [T], args [T], mask [T]}. It is compiled, never run."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def __call__(self, value: Any, train: bool) -> Raw:
        if not isinstance(value, (str, bytes)) or not value.strip():
            raise DataError("Python source", f"{value!r:.40}", "give the text of a function or of a file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # whose code it is, is not ours to judge
                code = compile(value, "<sample>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DataError("Python source", f"{type(error).__name__}: {error}", "check it, and its version") from error
        steps = list(instructions(code))[: self.max_length]
        return self._raw([op for op, _ in steps], [argument for _, argument in steps])

    def blank(self) -> Raw:
        return self._raw([0], [0])

    def example(self) -> Raw:
        return self._raw([0] * self.max_length, [0] * self.max_length)

    def _raw(self, ops: list[int], arguments: list[int]) -> Raw:
        mask = torch.ones(len(ops), dtype=torch.bool)
        return {"ops": torch.tensor(ops), "args": torch.tensor(arguments), "mask": mask}


def instructions(code: CodeType) -> Iterator[tuple[int, int]]:
    """(operation, argument) of a code object and then of those inside it: functions, classes, comprehensions."""
    for step in dis.get_instructions(code):
        yield step.opcode, min(step.arg or 0, ARGUMENTS - 1)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant)


class BytecodeTokenizer(Tokenizer):
    """{ops, args [B T], mask [B T]} → TokenBatch [B T D]: an embedding of each of the two, and learned positions."""

    def __init__(self, dim: int, *, max_length: Annotated[int, Field(gt=0)] = 128) -> None:
        super().__init__()
        self.preprocess = BytecodePreprocess(max_length)
        self.ops = nn.Embedding(len(dis.opname), dim)
        self.args = nn.Embedding(ARGUMENTS, dim)
        self.positions = nn.Parameter(torch.empty(max_length, dim))
        for table in (self.ops.weight, self.args.weight, self.positions):
            nn.init.normal_(table, std=0.02)

    def forward(self, raw: Raw) -> TokenBatch:
        ops: Int[Tensor, "B T"] = raw["ops"]
        positions = self.positions[: ops.shape[1]]
        x = self.ops(ops) + self.args(raw["args"]) + positions
        # The mask goes on as it came: zero-padding a batch has made it false where there is no instruction.
        return TokenBatch(x, raw["mask"], self.modality, positions=positions)


class StdlibFunctions(Dataset):
    """What does a function do? {`stream`: source text, `target`: the verb its name begins with}.

    Naming functions from their code is code2vec's task (arXiv 1803.09473). Instructions do not hold the name.
    Data: functions and methods of the running Python's standard library (PSF-2.0) whose names begin with one of
    `VERBS`; the files are read, not imported. One that equals an earlier one is left out. Every fifth file is for
    validation. They differ a little between versions of Python.
    """

    VERBS = ("add", "close", "get", "is", "read", "repr", "set", "write")

    def __init__(self, *, split: Literal["train", "valid"], stream: str = "function", target: str = "verb") -> None:
        self.stream, self.target = stream, target
        self.classes = {target: self.VERBS}
        found = _functions(Path(sysconfig.get_path("stdlib")), self.VERBS)
        self.rows = [(text, verb, place) for text, (part, verb, place) in found.items() if part == split]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        text, verb, _ = self.rows[index]
        return {self.stream: text, self.target: verb}

    def sample_id(self, index: int) -> str:
        """File and line."""
        return self.rows[index][2]

    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(text for text, *_ in self.rows).encode()).hexdigest()


SKIPPED = frozenset({"distutils", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests", "tkinter"})
"""Tests, other people's packages, and what not every installation has."""


@functools.cache
def _functions(library: Path, verbs: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    """Source → (split, verb, place), files in order. Read once for both splits and all controls of a run."""
    found: dict[str, tuple[str, str, str]] = {}
    files = [file for file in sorted(library.rglob("*.py")) if not SKIPPED & set(file.relative_to(library).parts)]
    for number, file in enumerate(files):
        split = "valid" if number % 5 == 4 else "train"
        for node in _defined(ast.parse(file.read_bytes())):
            verb = node.name.strip("_").split("_")[0]
            if verb in verbs:
                found.setdefault(ast.unparse(node), (split, verb, f"{file.relative_to(library)}:{node.lineno}"))
    return found


def _defined(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions that stand on their own: one inside another may need the other's variables."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif not isinstance(node, ast.AsyncFunctionDef):
            yield from _defined(node)
