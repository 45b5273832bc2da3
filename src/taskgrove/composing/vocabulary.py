"""One vocabulary: models whose logits are added must mean the same token by the same number.

Model makers pad vocabularies to round sizes, each model its own; what lies beyond the last token
of the tokenizer is padding and is cut off.
"""

from collections.abc import Mapping

from taskgrove.errors import TaskgroveError


def check_tokens(vocabularies: Mapping[str, Mapping[str, int]]) -> None:
    """Refuses, token by token, what is not one vocabulary. {model: {token: number}}."""
    (first, tokens), *others = vocabularies.items()
    for name, theirs in others:
        if theirs == tokens:
            continue
        wrong = {token for token, _ in tokens.items() ^ theirs.items()}
        token = min(wrong, key=lambda t: (min(tokens.get(t, 1 << 62), theirs.get(t, 1 << 62)), t))
        ours, other = (_place(given.get(token)) for given in (tokens, theirs))
        raise TaskgroveError(
            f"{name} does not share the vocabulary of {first}: {len(wrong)} tokens differ, such as"
            f' "{token}" ({ours} in {first}, {other} in {name}); expected models with the same'
            " tokenizer, choose models of one family."
        )


def _place(number: int | None) -> str:
    return "missing" if number is None else f"number {number}"


def common_size(sizes: Mapping[str, int], tokens: int) -> int:
    """How many logits all models have. `sizes`: {model: logits}; `tokens`: the tokenizer's count,
    or 0 if it is not known; then padding cannot be told from tokens and sizes must be equal.

    >>> common_size({"large": 512, "small": 384}, 380)
    384
    """
    size = min(sizes.values())
    short = [name for name, count in sizes.items() if count < tokens]
    if short:
        raise TaskgroveError(
            f"{short[0]} has {sizes[short[0]]} logits, but the tokenizer has {tokens} tokens;"
            " expected a model trained with this tokenizer."
        )
    if not tokens and len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in sizes.items())
        raise TaskgroveError(
            f"the models have different numbers of logits ({found}); expected one vocabulary, or"
            " give `tokens`, the count of the tokenizer they share, so that padding can be cut off."
        )
    return size
