"""So many replicas from each time of `schedule` on, over again every `repeat_s`."""


def scheduled(pool, rule, memory):
    time_s = pool.time_s % rule.repeat_s if rule.repeat_s else pool.time_s
    rows = sorted(rule.schedule, key=lambda row: row.at_s)
    past = [row.replicas for row in rows if row.at_s <= time_s]
    if past:
        return past[-1]
    return rows[-1].replicas if rule.repeat_s else pool.wanted
