"""Four sets of text pairs of very unequal sizes, for general text embeddings: real, none shipped.

    retrieval    a Debian package's description -> its synopsis, the package's name taken out
    translation  English synopsis -> German synopsis, as Debian's translators wrote it
    role         package descriptions of eight debtags roles; two of one role are a pair
    valence      dictionary definitions whose words people rated from -1 to 1; two of one sign are
                 a pair. De Smedt and Daelemans, "Vreselijk mooi!", LREC 2012, glosses of WordNet; a
                 file of the package textblob (MIT), read there and never imported

The descriptions come from apt's own index, read into a folder of ours (see debian_index). A row has
a key, a package's source or a definition's word, and a hash of it gives the split, the same in the
three Debian tasks. Synopses that agree in their letters are kept once, and so are definitions.
Texts follow their packages' licences: they stay in the user's cache.
"""

import hashlib
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from taskgrove.errors import TaskgroveError
from taskgrove.suites.debian_index import Package, fetch_index, read, read_index, run
from taskgrove.suites.debtags import digest, label_of, letters

TASKS = ("retrieval", "translation", "role", "valence")
SIZES = {"retrieval": 20_000, "translation": 3_000, "role": 1_000, "valence": 500}  # to train on
SPLITS = {"train": 0.65, "probe": 0.1, "test": 0.25}
ROLES, MOST_OF_ROLE = 8, 600  # classes, and rows of one, so that programs are not nearly all
LEAST_BODY, MOST_BODY = 80, 120  # letters of a description
LEAST_VALENCE, LEAST_GLOSS = 0.25, 9  # beyond 0; letters of a definition


@dataclass(frozen=True)
class Pair:
    """A row: `positive` where the text has its own partner, `label` where its class has many."""

    task: str
    split: str
    query: str
    positive: str = ""
    label: str = ""


def pairs(progress: Callable[[str], None] | None = None) -> list[Pair]:
    """All rows; the first call on a machine makes the file, which takes half a minute."""
    import pyarrow.parquet as pq

    from taskgrove.tasks.cache import cache_folder

    path = cache_folder() / "suites" / "embedding_pairs.parquet"
    if not path.exists():
        write(path, progress or (lambda _: None))
    return [Pair(**row) for row in pq.read_table(path).to_pylist()]


def write(path: Path, say: Callable[[str], None]) -> None:
    """Makes the file, aside and renamed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from taskgrove.tasks.cache import written_aside

    lexicon = rated_words()  # what is not installed is said before anything is fetched
    with tempfile.TemporaryDirectory(prefix="taskgrove-apt-") as scratch:
        say("asks apt for the package index (about 30 MB, the system's lists stay as they are)")
        packages, translations = fetch_index(Path(scratch))
        found = read_index(packages, translations)
        german = read_german(translations, fetch_german(Path(scratch)))
    rows = [*from_debian(found, german), *from_lexicon(lexicon)]
    counts = Counter(row.task for row in rows)
    if missing := [task for task in TASKS if not counts[task]]:
        raise TaskgroveError(
            f'apt\'s index gave no row for "{missing[0]}" among its {len(found):,} packages; '
            "expected the index of a Debian release, with tags and German translations."
        )
    say(f"keeps {len(rows):,} rows")
    names = ("task", "split", "query", "positive", "label")
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def fetch_german(scratch: Path) -> list[Path]:
    """The German Translation files, read into the folder that `fetch_index` has filled."""
    configuration = scratch / "apt.conf"
    asked = configuration.read_text().replace('{ "en"; }', '{ "en"; "de"; }')
    configuration.write_text(asked)
    run(["apt-get", "update"], configuration)
    listing = ["apt-get", "indextargets", "--format", "$(LANGUAGE)\t$(FILENAME)"]
    files = [line.split("\t") for line in run(listing, configuration).splitlines() if "\t" in line]
    return [Path(name) for language, name in files if language == "de"]


def read_german(english: list[Path], german: list[Path]) -> dict[str, str]:
    """A package's German synopsis, where it translates the English one that the index has."""
    current = {s["Package"]: s.get("Description-md5") for s in read(english) if "Package" in s}
    return {
        s["Package"]: s["Description-de"].partition("\n")[0]
        for s in read(german)
        if "Description-de" in s and s.get("Description-md5") == current.get(s.get("Package", ""))
    }


def from_debian(found: dict[str, Package], german: dict[str, str]) -> Iterator[Pair]:
    """The rows of three tasks, each synopsis and each beginning of a description once."""
    names = sorted(once(found), key=digest)
    roles = Counter(label_of(found[name], "role") for name in names)
    del roles[None]
    often = sorted(roles.items(), key=lambda item: (-item[1], item[0]))[:ROLES]
    left = {role: MOST_OF_ROLE for role, _ in often}
    for name in names:
        package = found[name]
        split, synopsis = split_of(package.source), nameless(package.synopsis, name, package.source)
        body = nameless(" ".join(package.body.split()), name, package.source)[:MOST_BODY]
        if len(body) >= LEAST_BODY:
            yield Pair("retrieval", split, body, synopsis)
        if letters(german.get(name, "")) not in ("", letters(package.synopsis)):
            yield Pair("translation", split, package.synopsis, german[name])
        if (role := label_of(package, "role")) and left.get(role, 0) > 0:
            left[role] -= 1
            yield Pair("role", split, f"{synopsis}. {body}", label=role)


def once(found: dict[str, Package]) -> Iterator[str]:
    """Names of packages, one of those whose synopses or descriptions begin alike."""
    seen: set[str] = set()
    for name in sorted(found, key=digest):
        package = found[name]
        marks = {letters(package.synopsis), letters(package.body)[:60]} - {""}
        if package.synopsis and seen.isdisjoint(marks):
            yield name
        seen |= marks


def nameless(text: str, *names: str) -> str:
    """The text without a package's name, which would give its partner away.

    >>> nameless("GIMP edits images; gimp-data helps gimp.", "gimp")
    'it edits images; it-data helps it.'
    """
    longest = sorted(names, key=len, reverse=True)
    pattern = "|".join(rf"\b{re.escape(name)}\b" for name in longest if len(name) > 1)
    return re.sub(pattern, "it", text, flags=re.IGNORECASE) if pattern else text


def rated_words() -> Path:
    """The lexicon among textblob's files; find_spec looks for the package without running it."""
    spec = find_spec("textblob")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(place) / "en" / "en-sentiment.xml").exists():
            return file
    found = "a textblob without en/en-sentiment.xml" if spec else "no package textblob"
    raise TaskgroveError(
        f"the rated definitions of embedding_pairs lie in the package textblob: got {found}, "
        'expected textblob>=0.18; install it with pip install "textblob>=0.18".'
    )


def from_lexicon(file: Path) -> Iterator[Pair]:
    """A row a definition, its valence the mean over the words that share it."""
    rated: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for word in ElementTree.parse(file).getroot().iter("word"):
        gloss = " ".join((word.get("sense") or "").split())
        if len(gloss) >= LEAST_GLOSS:
            rated[gloss].append((word.get("form", ""), float(word.get("polarity", "0"))))
    for gloss in sorted(rated, key=digest):
        valence = sum(value for _, value in rated[gloss]) / len(rated[gloss])
        if abs(valence) >= LEAST_VALENCE:
            sign = "positive" if valence > 0 else "negative"
            yield Pair("valence", split_of(min(rated[gloss])[0]), gloss, label=sign)


def split_of(key: str) -> str:
    """train, probe or test, by a hash."""
    content = b"taskgrove embedding_pairs" + key.encode()
    place = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
    bound = 0.0
    for split, share in SPLITS.items():
        bound += share
        if place < bound:
            return split
    return "test"
