"""The obvious twin of `taskgrove.mixing.atoms`: one row at a time, in plain Python."""


def row_probabilities(labels, rates):
    """`{(table, row number): probability}` and `{task: expected labels in one draw}`."""
    size = dict.fromkeys(rates, 0)
    tasks_of = {}
    for table, (tasks, has, rows) in labels.items():
        for row, flags in zip(rows, has, strict=True):
            present = [task for task, flag in zip(tasks, flags, strict=True) if flag]
            tasks_of[table, int(row)] = present
            for task in present:
                size[task] += 1
    weight = {
        row: sum(rates[t] / size[t] for t in ts) / len(ts) for row, ts in tasks_of.items() if ts
    }
    p = {row: w / sum(weight.values()) for row, w in weight.items()}
    return p, {t: sum(p[row] for row in p if t in tasks_of[row]) for t in rates}
