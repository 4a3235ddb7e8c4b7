"""Nothing is slowed: the row is metered, and the answer says when it was above its budget."""


def watch(row, rule, memory):
    return list(row.level)
