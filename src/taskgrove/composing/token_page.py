"""A page that shows which expert moved each token: its colour, and how strongly it did so.

A token takes the colour of the expert with the largest alpha, as deep as alpha is large; one that
no expert moved stays white. Pointing at a token shows all weights.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from taskgrove.composing.fused_lm import Answer

COLOURS = ("68,119,170", "238,102,119", "34,136,51", "204,187,68", "102,204,238", "170,51,119")
DEEPEST = 2.0  # the alpha of the full colour
STYLE = (
    "body{font:15px/1.6 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;"
    "color:#222}pre{white-space:pre-wrap;font:14px/1.7 ui-monospace,monospace;background:#fff;"
    "border:1px solid #ddd;padding:.8em}.p{color:#777}.k{padding:.1em .6em;margin-right:.6em}"
)


def page(
    prompts: Sequence[str], answers: Sequence[Answer], experts: Sequence[str], tokenizer: Any
) -> str:
    """The whole page; `experts`: their names."""
    keys = "".join(
        f'<span class="k" style="background:{_colour(n, DEEPEST)}">{escape(name)}</span>'
        for n, name in enumerate(experts)
    )
    blocks = [
        f"<pre><span class=p>{escape(prompt)}</span>{_answer(answer, experts, tokenizer)}</pre>"
        f"<p class=p>{_means(answer, experts)}</p>"
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Experts by token</title>"
        f"<style>{STYLE}</style><h1>Which expert moved which token</h1><p>{keys}</p>"
        "<p>A deep colour is a large weight; white tokens are the large model's own.</p>"
        + "".join(blocks)
        + "</html>\n"
    )


def _answer(answer: Answer, experts: Sequence[str], tokenizer: Any) -> str:
    found = []
    for text, alpha in zip(pieces(answer.tokens, tokenizer), answer.alpha.tolist(), strict=True):
        best = max(range(len(alpha)), key=alpha.__getitem__)
        told = ", ".join(f"{name} {a:.2f}" for name, a in zip(experts, alpha, strict=True))
        colour = f' style="background:{_colour(best, alpha[best])}"' if alpha[best] > 0 else ""
        found.append(f'<span title="{escape(told)}"{colour}>{escape(text)}</span>')
    return "".join(found)


def pieces(tokens: Sequence[int], tokenizer: Any) -> list[str]:
    """Each token's share of the text; a character of several tokens is the last one's."""
    found, given = [], 0
    for n in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:n], skip_special_tokens=True)
        whole = text if n == len(tokens) else text.rstrip("\ufffd")
        found.append(whole[given:])
        given = max(given, len(whole))
    return found


def _means(answer: Answer, experts: Sequence[str]) -> str:
    means = answer.alpha.mean(0).tolist()
    return "mean alpha: " + ", ".join(
        f"{escape(name)} {mean:.2f}" for name, mean in zip(experts, means, strict=True)
    )


def _colour(expert: int, alpha: float) -> str:
    """Colours come round again after six experts; the weights on pointing tell them apart."""
    return f"rgba({COLOURS[expert % len(COLOURS)]},{min(1.0, abs(alpha) / DEEPEST) * 0.7:.2f})"
