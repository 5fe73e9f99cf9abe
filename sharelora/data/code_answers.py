"""The code in an answer to a task such as HumanEval's, however a model has written it down.

A base model continues the function; a chat model repeats it, in a Markdown block, between sentences, or both. Every
line is looked at once and by its beginning alone, so no text takes long to read.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

RULES = ("whole", "body", "function", "block_function", "block_body", "none")
# Of a line only so much is looked at.
_SEEN = 200
_INDENT = "    "
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)$")
# How a line in the first column begins that is Python rather than a sentence.
_PYTHON = re.compile(
    r"(?:async[ ])?(?:def|class)[ ]\w|import[ ]\w|from[ ][\w.]+[ ]import\b|(?:return|raise|assert|yield|del)\b"
    r"|(?:global|nonlocal)[ ]\w|(?:pass|break|continue)[ \t]*(?:#|$)|[@)\]}]|\"\"\"|'''"
    r"|(?:if|elif|while|with|else|try|finally|except)\b.*:|for\b.*\bin\b.*:"
    r"|[A-Za-z_][\w.]*(?:\(.*[)(,:]$|\($|\[.*\][ ]*=|[ ]*(?:,[ ]*\w+[ ]*){0,9}(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=[^=])"
)
_PYTHON_LANGUAGES = ("", "python", "python3", "py")


@dataclass(frozen=True)
class _Block:
    """A Markdown block: the language that it names, and its lines."""

    language: str
    lines: tuple[str, ...]

    @property
    def code(self) -> str:
        return "\n".join(_dedented(self.lines))


def read_code(text: str, prompt: str, name: str) -> tuple[str, str]:
    """Read the code in an answer, and the rule that has read it: the first that applies.

    - `none`: there is no text
    - `block_function`: the first Markdown block (``` or ~~~, its end may be missing) that defines the function
    - `block_body`: the first block of Python or of no named language, else the first of all, is its body
    - `whole`: the text continues the prompt, nothing else
    - `body`: it continues the prompt between sentences, or without its first indentation
    - `function`: it defines the function, between sentences or alone

    Args:
        text: the answer.
        prompt: what it answers: imports, helpers, the function's signature and docstring.
        name: of the function.

    Returns:
        One of `RULES`, and the whole program.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        return "none", f"{prompt}{text}\n"
    lines = text.split("\n")
    before, blocks = _divide(lines)
    if not blocks or (_is_python(before) and (not blocks[0].language or _starts_indented(before))):
        # It goes on before any block begins, or the first fence is the end of a block that the prompt has opened.
        return _unfenced(before, prompt, name)
    defining = next((block for block in blocks if _defines(block.code, name)), None)
    if defining is not None:
        return "block_function", _redefined(defining.code, prompt, name)
    python = (block for block in blocks if block.language in _PYTHON_LANGUAGES and block.code.strip())
    return "block_body", f"{prompt}{_indented(next(python, blocks[0]).code)}\n"


def before_function(prompt: str, name: str) -> str:
    """The lines of a prompt before the one that defines this function: imports and helpers."""
    before, line_end, _ = prompt[: prompt.index(f"def {name}(")].rpartition("\n")
    return f"{before}{line_end}"


def _divide(lines: Sequence[str]) -> tuple[list[str], list[_Block]]:
    """Divide a text into the lines before the first Markdown block, and its blocks; the last may have no end."""
    before: list[str] = []
    blocks: list[_Block] = []
    fence, depth, language, inside = "", 0, "", list[str]()
    for line in lines:
        found = _FENCE.match(line) if len(line) <= _SEEN else None
        if not fence and found:
            fence, depth, language, inside = found[1], found.start(1), found[2].strip().lower(), []
        elif fence and found and found[1].startswith(fence) and not found[2] and found.start(1) < depth + 4:
            # A fence that is indented as code is part of it, of a docstring for example.
            blocks.append(_Block(language, tuple(inside)))
            fence = ""
        elif fence:
            inside.append(line)
        elif not blocks:
            before.append(line)
    return before, [*blocks, *([_Block(language, tuple(inside))] if fence else [])]


def _unfenced(lines: Sequence[str], prompt: str, name: str) -> tuple[str, str]:
    """Read an answer without blocks."""
    start = next((index for index, line in enumerate(lines) if _is_python([line])), None)
    text = "\n".join(lines)
    if start is None:
        return "whole", f"{prompt}{text}\n"
    code = _without_prose(lines[start:])
    if not _is_indented(code[0]) or code[0].startswith(" def "):
        code[0] = code[0].lstrip(" ")
        joined = "\n".join(code)
        if _defines(joined, name):
            return "function", _redefined(joined, prompt, name)
        return "body", f"{prompt}{_indented(joined)}\n"
    # Blank lines and comments around it change no program.
    if not _first(lines[:start]) and not _first(lines[start + len(code) :]):
        return "whole", f"{prompt}{text}\n"
    joined = "\n".join(code)
    return "body", f"{prompt}{joined}\n"


def _is_indented(line: str) -> bool:
    return line[:1] in (" ", "\t")


def _first(lines: Sequence[str]) -> str:
    """The first line that is neither blank nor a comment, which is a heading in Markdown."""
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")


def _starts_indented(lines: Sequence[str]) -> bool:
    return _is_indented(_first(lines))


def _is_python(lines: Sequence[str]) -> bool:
    """Whether the first line of code or prose is Python: indented, or with a beginning that only Python has."""
    first = _first(lines)
    return bool(first) and (_is_indented(first) or bool(_PYTHON.match(first[:_SEEN])))


def _without_prose(lines: Sequence[str]) -> list[str]:
    """The lines before the first sentence; in a long string nothing is one."""
    code: list[str] = []
    quoted = False
    for line in lines:
        if _first([line]) and not quoted and not _is_python([line]):
            break
        quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
        code.append(line)
    return code


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)} ?\(", code, re.MULTILINE) is not None


def _redefined(code: str, prompt: str, name: str) -> str:
    """A program of what the prompt has before its function, and of code that defines the function."""
    return f"{before_function(prompt, name)}{code}\n"


def _indented(code: str) -> str:
    """Code as the body of a function, also where all lines or only the first one have lost their indentation.

    A first line that opens a block (`for x in y:`) is followed by that block: if nothing behind it is less indented,
    all lines have lost theirs.
    """
    first, *others = code.strip("\n").split("\n")
    depths = [len(line) - len(line.lstrip()) for line in others if line.strip()]
    least = min(depths, default=0)
    opens = first.rstrip().endswith(":") and not first.startswith("#")
    if least and not _is_indented(first) and (not opens or depths[0] > least):
        lines = [first, *_dedented(others)]
    else:
        lines = _dedented([first, *others])
    return textwrap.indent("\n".join(lines), _INDENT)


def _dedented(lines: Sequence[str]) -> list[str]:
    """Lines without the indentation that all of them have; blank ones, which may be a string's, stay as they are."""
    depths = [line[: len(line) - len(line.lstrip())] for line in lines if line.strip()]
    common = min(depths, key=len, default="")
    return [line.removeprefix(common) for line in lines]
