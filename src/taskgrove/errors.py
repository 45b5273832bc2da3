"""The one exception for a user's mistake, and the words that its sentences share."""

from collections.abc import Iterable
from difflib import get_close_matches


class TaskgroveError(Exception):
    """A user's mistake, told in one sentence: what was got, what was expected, how to fix it.

    The command line prints the sentence and exits with code 2; nothing has been written by then.
    """


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A question to end a sentence with, or nothing.

    >>> did_you_mean("lable", ["text", "label"])
    ' Did you mean "label"?'
    >>> did_you_mean("zebra", ["text", "label"])
    ''
    """
    near = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names in quotes, cut after `most`.

    >>> listed(["a", "b", "c"], most=2)
    '"a", "b" and 1 more'
    """
    names = [str(name) for name in names]
    shown = ", ".join(f'"{name}"' for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
