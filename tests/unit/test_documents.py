"""Documents before prompts: how they are drawn, and the names of their blocks."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from forerun.errors import SpecError
from forerun.spec.requests import chained
from forerun.spec.traces.draw import iter_requests, requests_of
from forerun.spec.workload import Traffic


def traffic(**documents):
    own = {"n": 50, "tokens": 64, "a_request": 5} | documents
    return Traffic.model_validate(
        {"rate_per_s": 5, "n_requests": 2000, "isl": 30, "osl": 10, "documents": own}
    )


def rows(requests):
    return requests.block_hashes.reshape(len(requests), -1)


def test_each_prompt_begins_with_different_documents_and_is_as_much_longer():
    requests = requests_of(traffic(), seed=3)
    assert (requests.isl == 30 + 5 * 64).all()
    assert requests.hash_tokens == 64
    assert all(len(set(row)) == 5 for row in rows(requests).tolist())
    assert (np.diff(requests.block_starts) == 5).all()


def test_the_first_document_comes_as_often_as_its_weight_says():
    first = rows(requests_of(traffic(skew=1.0), seed=3))[:, 0]
    weight = 1 / np.arange(1, 51)
    wanted = weight / weight.sum()
    share = np.bincount(first, minlength=50) / len(first)
    # four standard deviations of a share of 2000 draws
    assert (np.abs(share - wanted) < 4 * np.sqrt(wanted / 2000)).all()


def test_documents_change_no_arrival_and_no_answer():
    plain = requests_of(traffic().model_copy(update={"documents": None}), seed=3)
    with_documents = requests_of(traffic(), seed=3)
    np.testing.assert_array_equal(plain.arrival_s, with_documents.arrival_s)
    np.testing.assert_array_equal(plain.osl, with_documents.osl)


def test_pieces_hold_the_documents_of_the_whole():
    whole = rows(requests_of(traffic(), seed=3))
    pieces = [rows(part) for part in iter_requests(traffic(), seed=3, chunk=300)]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_more_documents_than_there_are_and_a_trace_with_blocks_are_sentences():
    with pytest.raises(ValidationError, match="different documents"):
        traffic(n=3)
    named = Traffic.model_validate(
        {"trace": "long_context", "n_requests": 10, "documents": {"n": 9, "a_request": 2}}
    )
    with pytest.raises(SpecError, match="already"):
        requests_of(named, seed=0)


def test_chained_names_are_equal_where_all_before_is_equal():
    starts = np.array([0, 3, 6, 8, 8])
    names = chained(np.array([1, 2, 3, 1, 2, 4, 2, 1]), starts)
    assert (names[:2] == names[3:5]).all()
    assert names[2] != names[5]
    assert len(set(names[[0, 1, 2, 5, 6, 7]].tolist())) == 6  # 2 first is not 2 after 1
    assert (names >= 0).all()
