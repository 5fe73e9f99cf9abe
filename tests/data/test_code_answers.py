"""The code in an answer: every form in which models write it, which rule reads it, and what the program then does."""

from __future__ import annotations

import time

import pytest

from sharelora.data.code_answers import RULES, read_code

PROMPT = 'from typing import List\n\n\ndef twice(x: int) -> int:\n    """Double x."""\n'
BODY = "    y = x + x\n    return y\n"
FUNCTION = f"def twice(x: int) -> int:\n{BODY}"
FLAT = "y = x + x\nreturn y\n"
TYPED = f"from typing import List\n\n{FUNCTION}"
LOOP = "for _ in [0]:\n    x = x + x\nreturn x\n"
# The form -> the answer, and the rule that reads it.
FORMS: dict[str, tuple[str, str]] = {
    "a continuation": (BODY, "whole"),
    "a continuation behind blank lines": (f"\n\n{BODY}\n\n", "whole"),
    "a continuation with more functions": (f"{BODY}\n\ndef other():\n    return 1\n", "whole"),
    "a continuation and a sentence": (f"{BODY}\nThis doubles x.\n", "body"),
    "a continuation of which a space is lost": ("y = x + x\n    return y\n", "body"),
    "a loop of which a space is lost": ("for _ in [0]:\n        x = x + x\n    return x\n", "body"),
    "a comment in the first column": ("# So:\n    y = x + x\n    return y\n", "whole"),
    "a narrow continuation": ("y = x + x\n  return y\n", "body"),
    "a continuation without indentation": (FLAT, "body"),
    "a loop without indentation": (LOOP, "body"),
    "a sentence before a continuation": (f"Here is the code:\n{BODY}", "body"),
    "a continuation that ends a block": (f"{BODY}```\n\nThis doubles x.", "whole"),
    "a continuation before a block": (f"{BODY}\n```python\nprint(twice(2))\n```", "whole"),
    "the function": (FUNCTION, "function"),
    "the function behind a space": (f" {FUNCTION}", "function"),
    "the function with imports": (TYPED, "function"),
    "a byte order mark": (f"\ufeff{FUNCTION}", "function"),
    "lines that end as on Windows": (FUNCTION.replace("\n", "\r\n"), "function"),
    "sentences around the function": (f"Here is the code:\n\n{FUNCTION}\nIt doubles x, as asked.\n", "function"),
    "a heading": (f"# Solution\n\nHere it is.\n\n{FUNCTION}", "function"),
    "the function and an end of a block": (f"{FUNCTION}```\nDone.", "function"),
    "a docstring with text in the first column": (
        f'def twice(x):\n    """Double it.\n\nSo that it is more.\n"""\n{BODY}\nDone.',
        "function",
    ),
    "a block": (f"```python\n{FUNCTION}```", "block_function"),
    "a block without a language": (f"```\n{FUNCTION}```\n", "block_function"),
    "a block of tildes": (f"~~~python\n{FUNCTION}~~~\n", "block_function"),
    "a block of four": (f"````py\n{FUNCTION}```\n````\n".replace("```\n````", "````"), "block_function"),
    "a block in capitals": (f"```Python\n{FUNCTION}```", "block_function"),
    "a block with no end": (f"```python\n{FUNCTION}", "block_function"),
    "sentences around a block": (
        f"Sure! Here is the code:\n\n```python\n{FUNCTION}```\n\nNote: it works.",
        "block_function",
    ),
    "a byte order mark before a block": (f"\ufeff```python\n{FUNCTION}```", "block_function"),
    "an indented block": (
        "1. So:\n   ```python\n" + "".join(f"   {line}\n" for line in FUNCTION.splitlines()) + "   ```\n",
        "block_function",
    ),
    "several blocks": (
        f"```bash\npip install x\n```\nThen\n```python\n{FUNCTION}```\nUse it:\n```python\nprint(twice(2))\n```",
        "block_function",
    ),
    "the function in the second of two": (f"```python\nimport math\n```\n\n```python\n{FUNCTION}```", "block_function"),
    "two versions": (f"```python\n{FUNCTION}```\nOr\n```python\ndef twice(x):\n    return 0\n```", "block_function"),
    "a block in a docstring in a block": (
        f'```python\ndef twice(x):\n    """Double it.\n    ```\n    twice(2)\n    ```\n    """\n{BODY}```',
        "block_function",
    ),
    "the body in a block": (f"```python\n{BODY}```", "block_body"),
    "the body in a block without indentation": (f"Insert this:\n```\n{FLAT}```", "block_body"),
    "a loop in a block": (f"```python\n{LOOP}```", "block_body"),
    "the body in a block with no end": (f"Insert this:\n~~~\n{FLAT}", "block_body"),
    "the docstring and the body in a block": (f'```\n    """Double x."""\n{BODY}```', "block_body"),
    "the body behind a block of another language": (f"```sh\nls\n```\n```py\n{BODY}```", "block_body"),
}


def run(program: str) -> int:
    names: dict[str, object] = {}
    exec(program, names)  # fixed programs, written here
    return names["twice"](21)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("form", FORMS)
def test_the_function_is_found_in_every_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer, rule = FORMS[form]
    found, program = read_code(answer, PROMPT, "twice")
    assert found == rule
    assert run(program) == 42


def test_every_rule_is_in_the_table() -> None:
    assert {rule for _, rule in FORMS.values()} == set(RULES) - {"none"}


@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff"])
def test_nothing_is_no_code(text: str) -> None:
    assert read_code(text, PROMPT, "twice")[0] == "none"


def test_a_continuation_is_the_program_of_the_published_rule_to_the_letter() -> None:
    for text in (BODY, "    return x", f"\n{BODY}\n\n", "I cannot do that."):
        assert read_code(text, PROMPT, "twice") == ("whole", f"{PROMPT}{text}\n")


def test_helpers_of_the_prompt_stay_where_the_function_is_repeated() -> None:
    prompt = "def half(x):\n    return x / 2\n\n\ndef twice(x):\n    return\n"
    _, program = read_code("```\ndef twice(x):\n    return int(half(4 * x))\n```", prompt, "twice")
    assert run(program) == 42


@pytest.mark.parametrize(
    "part",
    ["```", "`", "~~~\n", "```python\n", " ", "(", "x, ", "x = ", "[", "a.", '"""', "\t\n", "def twice(", "for in "],
)
def test_a_huge_text_is_read_at_once(part: str) -> None:
    text = part * (1_000_000 // len(part))
    began = time.process_time()
    assert read_code(text, PROMPT, "twice")[0] in RULES
    assert time.process_time() - began < 5
