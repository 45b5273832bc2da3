"""The obvious twins of ranking metrics and contrastive losses: one query, one row at a time."""

import math


def order(scores, gains):
    """Places by falling score; of equal scores, the relevant last."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], gains[i]))


def recall(scores, gains, k):
    found = sum(gains[i] > 0 for i in order(scores, gains)[:k])
    return found / sum(g > 0 for g in gains)


def reciprocal_rank(scores, gains, k):
    for rank, i in enumerate(order(scores, gains)[:k], 1):
        if gains[i] > 0:
            return 1 / rank
    return 0.0


def ndcg(scores, gains, k):
    got = sum(gains[i] / math.log2(r + 1) for r, i in enumerate(order(scores, gains)[:k], 1))
    ideal = sorted(gains, reverse=True)[:k]
    return got / sum(g / math.log2(r + 1) for r, g in enumerate(ideal, 1))


def average_precision(scores, gains, k):
    hits, total = 0, 0.0
    for rank, i in enumerate(order(scores, gains)[:k], 1):
        if gains[i] > 0:
            hits += 1
            total += hits / rank
    return total / min(sum(g > 0 for g in gains), len(gains) if k is None else min(k, len(gains)))


def nearest_vote(cosines, classes, k):
    """The class with most votes among the k most alike; of equals, the more alike in sum."""
    near = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
    votes = {}
    for i in near:
        n, total = votes.get(classes[i], (0, 0.0))
        votes[classes[i]] = n + 1, total + cosines[i]
    return max(votes, key=lambda c: votes[c])


def info_nce_row(s, positive, allowed):
    """L_i of one row of s [b], already divided by the temperature."""
    losses = []
    for p in range(len(s)):
        if positive[p]:
            rest = [s[n] for n in range(len(s)) if allowed[n] and not positive[n]]
            losses.append(math.log(sum(math.exp(x - s[p]) for x in rest) + 1))
    return sum(losses) / len(losses) if losses else 0.0


def cosent(c, y, temperature):
    terms = [
        math.exp((c[r] - c[p]) / temperature)
        for p in range(len(c)) for r in range(len(c)) if y[p] > y[r]
    ]  # fmt: skip
    return math.log(1 + sum(terms))
