"""Paths and commands in the documents exist. `make site` checks their links."""

import re
import shlex
from pathlib import Path

import pytest

from ksm_analysis.__main__ import parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "roles").glob("*/README.md")),
]
# Paths in backquotes or commands that begin with a directory of the repository.
PATH = re.compile(
    r"(?<![\w./-])((?:docs|experiments|inventory|ksm_analysis|molecule|playbooks|plugins|roles|tests)"
    r"/[\w./-]*[\w/])(?![\w<{*…]|\.\w*[<{*])"
)
TO_CREATE = {"inventory/mine.yml", "playbooks/mine.yml"}


def name(document):
    """Return the path of a document, relative to the repository."""
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_paths_of_the_repository_exist(document):
    missing = {
        path
        for path in PATH.findall(document.read_text())
        if path not in TO_CREATE and not (ROOT / path).exists()
    }
    assert not missing


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^    )make ([\w-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, name(document)


def commands(document):
    """Return the arguments of commands in a document, one list for each line of code."""
    lines = re.findall(r"^    python -m ksm_analysis ([a-z].*)", document.read_text(), re.MULTILINE)
    return [shlex.split(re.split(r"[|>&]", line)[0], comments=True) for line in lines]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_in_the_documents_are_understood(document):
    for arguments in commands(document):
        parser(arguments[0]).parse_args(arguments)
