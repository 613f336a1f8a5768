"""The tagger's truth, letter by letter."""

from __future__ import annotations

import tokenize

import pytest
from models.recipes.lexical import LABELS, NotPythonError, classes

LETTERS = dict(
    zip(
        LABELS,
        (" ", "/", "#", "s", "9", "k", "d", "b", "n", "o"),
        strict=True,
    )
)


def drawn(source: str) -> str:
    return "".join(LETTERS[LABELS[number]] for number in classes(source.encode()))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1.5e3  # why\n", "n o 99999  #####/"),
        (
            "def f(a):\n    return len(a)\n",
            "kkk donoo/    kkkkkk bbbono/",
        ),
        ("class A:\n  pass\n", "kkkkk do/  kkkk/"),
        ("self.len\n", "nnnnonnn/"),
        ("'''a\nb'''\n", "sssssssss/"),
        ("é = 'ü'\n", "nn o ssss/"),
        ("a = b \\\n  + c\n", "n o n     o n/"),
        ('f"{a!r:>{w}} b"\n', "sssssssssssssss/"),
        ("f'{f\"{a}\"}' + b\n", "sssssssssss o n/"),
        ("\n\n#x\n", "//##/"),
    ],
)
def test_each_byte_has_its_class(source: str, expected: str) -> None:
    assert drawn(source) == expected


def test_the_spans_are_those_of_tokenize_on_a_real_file() -> None:
    with open(tokenize.__file__, "rb") as file:  # noqa: PTH123 - the name may be any file's
        source = file.read()
    found = classes(source)
    assert len(found) == len(source)
    comments = b"".join(
        item.string.encode()
        for item in tokenize.tokenize(iter(source.splitlines(keepends=True)).__next__)
        if item.type == tokenize.COMMENT
    )
    marked = bytes(byte for byte, number in zip(source, found, strict=True) if number == 2)
    assert marked == comments


@pytest.mark.parametrize("source", [b"\xff\xfe", b"x = (\n", b"'''open\n"])
def test_what_is_not_python_is_named(source: bytes) -> None:
    with pytest.raises(NotPythonError, match="cannot be tokenized"):
        classes(source)
