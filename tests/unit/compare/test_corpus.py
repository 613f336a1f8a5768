"""The corpus: the same split on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from carousel_models.compare.corpus import (
    Corpus,
    CorpusMissingError,
    SourceFile,
    is_held_out,
    standard_library,
)


def library(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {path}\n")
    return root


def paths(corpus: Corpus) -> set[str]:
    return {file.path for file in corpus.files}


def test_this_interpreter_has_enough_to_train_on() -> None:
    training, held_out = standard_library()
    assert training.size_bytes > 4_000_000
    assert 0.01 < held_out.size_bytes / training.size_bytes < 0.2
    assert not paths(training) & paths(held_out)
    assert all(is_held_out(path) for path in paths(held_out))


def test_the_split_does_not_depend_on_the_content(tmp_path: Path) -> None:
    names = [f"module_{number}.py" for number in range(64)]
    before = standard_library(library(tmp_path, *names))
    (tmp_path / next(iter(paths(before[1])))).write_text("another = 1\n")
    after = standard_library(tmp_path)
    assert [paths(corpus) for corpus in before] == [paths(corpus) for corpus in after]
    assert before[1].sha256 != after[1].sha256
    assert before[0].sha256 == after[0].sha256


def test_tests_tables_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    good = [f"email/part_{number}.py" for number in range(64)]
    bad = ["test/test_x.py", "site-packages/x/y.py", "encodings/cp1.py", "_sysconfigdata_x.py"]
    training, held_out = standard_library(library(tmp_path, *good, *bad, "config-3/x.py"))
    assert paths(training) | paths(held_out) == set(good)


def test_a_python_without_sources_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusMissingError, match="holds 0 Python source files"):
        standard_library(tmp_path)


def test_a_sample_holds_whole_files_within_the_limit() -> None:
    corpus = Corpus(
        (SourceFile("a", b"x" * 60), SourceFile("b", b"y" * 60), SourceFile("c", b"z" * 30))
    )
    sample = corpus.sample(100)
    assert paths(sample) == {"a", "c"}
    assert sample.joined() == b"x" * 60 + b"\n\n" + b"z" * 30
