"""The files of the operators' screen: complete, from nowhere else, and safe by what they do not contain."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

STATIC = Path(str(files("ami_beam.dashboard") / "static"))
OWN = sorted(path for path in STATIC.iterdir() if path.suffix in (".js", ".html", ".css"))
each_file = pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)


def test_what_is_vendored_is_what_its_readme_says():
    table = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", (STATIC / "vendor/README.md").read_text(), re.M))
    there = {path.name: sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()}
    assert there.pop("README.md")
    assert there == table


@each_file
def test_everything_that_is_named_is_there(path):
    text = path.read_text()
    named = re.findall(r"""(?:from|import) "\./([^"]+)";""", text)
    named += re.findall(r"""(?:src|href)="static/([^"]+)\"""", text)
    for name in named:
        assert (STATIC / name).is_file(), name


@each_file
def test_nothing_is_loaded_from_elsewhere(path):
    # The name of SVG's vocabulary is no address.
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]{2,}/", text)


@each_file
def test_no_text_becomes_markup_or_a_script(path):
    # `document.write`, handlers in attributes and the like; what is set from a topic is set as text.
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|setHTML|\bon\w+=\""
    )
    code = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith(("//", "*", "/*")))
    assert not re.search(forbidden, code)
