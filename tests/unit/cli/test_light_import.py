"""`carousel --help` answers in a moment because nothing heavy is imported for it."""

import subprocess
import sys

HEAVY = (
    "torch",
    "grpc",
    "numpy",
    "google",
    "pydantic",
    "carousel_server",
    "carousel_models",
    "rich",
)


def imported(statement):
    probe = f"import sys; {statement}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_command_imports_nothing_heavy():
    assert imported("import carousel.cli.main").isdisjoint(HEAVY)


def test_the_demo_s_view_needs_no_torch_and_no_server():
    names = imported("import carousel.cli.demo.show")
    assert names.isdisjoint({"torch", "carousel_server", "carousel_models"})
