"""Debian's package index, as apt knows it: descriptions and tags of every package.

apt reads the index into a folder of ours, uncompressed, with a configuration of ours: the system's
lists stay as they are, and no hook of the system runs. What is read is text in paragraphs of
`Field: value` lines (deb822): a Packages file for each archive, with the tags, and a Translation
file with the long descriptions.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from taskgrove.errors import TaskgroveError

CONFIGURATION = """\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::Parts "{folder}/none";
Dir::Etc::Main "/dev/null";
Acquire::Languages {{ "en"; }};
Acquire::GzipIndexes "false";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
"""


@dataclass(frozen=True)
class Package:
    source: str
    section: str
    synopsis: str
    body: str = ""
    tags: dict[str, set[str]] = field(default_factory=dict)  # facet: values


def fetch_index(scratch: Path) -> tuple[list[Path], list[Path]]:
    """The Packages files and the English Translation files that apt downloads into `scratch`."""
    for needed in ("apt-get", "apt-config"):
        if shutil.which(needed) is None:
            raise TaskgroveError(
                f'the suite "debtags" is made from Debian\'s package index: got no {needed} on '
                "this machine, expected Debian or a system made from it."
            )
    scratch.chmod(0o755)  # apt downloads as a user of its own
    for part in ("lists/partial", "cache", "none"):
        (scratch / part).mkdir(parents=True)
    network = [line for line in run(["apt-config", "dump"]).splitlines() if "::Proxy" in line]
    configuration = scratch / "apt.conf"
    configuration.write_text(CONFIGURATION.format(folder=scratch) + "\n".join(network) + "\n")
    told = run(["apt-get", "update"], configuration)
    listing = ["apt-get", "indextargets", "--format", "$(IDENTIFIER)\t$(FILENAME)"]
    files = [line.split("\t") for line in run(listing, configuration).splitlines() if "\t" in line]
    packages = [Path(name) for kind, name in files if kind == "Packages"]
    if not packages:
        words = [line for line in told.splitlines() if line.startswith(("E:", "W:"))]
        raise TaskgroveError(
            f"apt-get update fetched no package index ({(words or ['it named no source'])[0]}); "
            "expected apt sources that this machine can reach."
        )
    return packages, [Path(name) for kind, name in files if kind == "Translations"]


def run(command: list[str], configuration: Path | None = None) -> str:
    """What the command writes, errors included; apt tells a failed source in words, not by code."""
    own = {"APT_CONFIG": str(configuration)} if configuration else {}
    result = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C", **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return result.stdout


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Paragraphs of `Field: value` lines; a line that starts with a space goes on with the value.

    >>> list(stanzas(["Package: a\\n", "Tag: x::y,\\n", " z::w\\n", "\\n", "Package: b\\n"]))
    [{'Package': 'a', 'Tag': 'x::y,\\nz::w'}, {'Package': 'b'}]
    """
    stanza: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif line[0] in " \t":
            if stanza:
                text = line.strip()
                stanza[name] += "\n" + ("" if text == "." else text)
        else:
            name, _, value = line.partition(":")
            stanza[name] = value.strip()
    if stanza:
        yield stanza


def tags_of(text: str) -> dict[str, set[str]]:
    """The values of each facet; braces hold several.

    >>> tags_of("role::program, use::{editing,\\nviewing}")["use"] == {"editing", "viewing"}
    True
    """
    tags: dict[str, set[str]] = {}
    for facet, several, one in re.findall(r"([^\s,:{}]+)::(?:\{([^}]*)\}|([^\s,{}]+))", text):
        for value in re.split(r"[\s,]+", several or one):
            if value:
                tags.setdefault(facet, set()).add(value)
    return tags


def read_index(packages: list[Path], translations: list[Path]) -> dict[str, Package]:
    """Every package by name, with its long description where a Translation file has one."""
    found: dict[str, Package] = {}
    for stanza in read(packages):
        if {"Package", "Description"} <= stanza.keys():
            synopsis, _, body = stanza["Description"].partition("\n")
            found[stanza["Package"]] = Package(
                source=stanza.get("Source", stanza["Package"]).split(" ")[0],
                section=stanza.get("Section", "").rpartition("/")[2],
                synopsis=synopsis,
                body=body,
                tags=tags_of(stanza.get("Tag", "")),
            )
    for stanza in read(translations):
        package = found.get(stanza.get("Package", ""))
        if package is not None and "Description-en" in stanza:
            synopsis, _, body = stanza["Description-en"].partition("\n")
            found[stanza["Package"]] = replace(package, synopsis=synopsis, body=body)
    return found


def read(paths: list[Path]) -> Iterator[dict[str, str]]:
    for path in paths:
        with path.open(encoding="utf8", errors="replace") as lines:
            yield from stanzas(lines)
