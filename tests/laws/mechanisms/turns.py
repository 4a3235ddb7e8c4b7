"""Conversations that go on after the answer."""

from __future__ import annotations

import dataclasses

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.traces._turns import after_answer
from mechanisms import Mechanism
from mechanisms.sending import sessions


def turns(requests: Requests) -> Requests:
    if requests.successors is not None:
        return requests
    if requests.session is None:
        requests = sessions(requests)
    took = np.random.default_rng(9).uniform(0, 0.3, len(requests))
    return after_answer(dataclasses.replace(requests, took_s=took), token_s=0.01, trace="drawn")


MECHANISMS = [Mechanism("turns after answers", column=turns)]
