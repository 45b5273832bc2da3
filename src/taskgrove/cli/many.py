"""Several values behind one flag: `--tuned A B` is read as `--tuned A --tuned B`."""

from collections.abc import Iterable

MANY = (
    "--tuned", "--experts", "--unlabelled", "--labelled", "--probe", "--ignore", "--weights",
    "--scale", "--fisher", "--gram", "--classes",
)  # fmt: skip


def spread(arguments: Iterable[str]) -> list[str]:
    """Repeats the flags of MANY for each value that follows.

    >>> spread(["merge", "ties", "--tuned", "A", "B", "--out", "M"])
    ['merge', 'ties', '--tuned', 'A', '--tuned', 'B', '--out', 'M']
    >>> spread(["--scale", "-0.5", "0.3"])
    ['--scale', '-0.5', '--scale', '0.3']
    """
    found: list[str] = []
    flag, values = "", 0
    for word in arguments:
        if word in MANY:
            flag, values = word, 0
        elif word.startswith("-") and not _is_number(word):
            flag = ""
        elif flag:
            values += 1
            found += [flag] if values > 1 else []
        found.append(word)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
