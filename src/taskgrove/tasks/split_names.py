"""The names of the three parts of a table, and what other tools call them."""

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(word: str) -> str | None:
    """The split that a word means, if any.

    >>> split_name("Dev"), split_name("extra")
    ('validation', None)
    """
    return ALIASES.get(word.strip().lower())
