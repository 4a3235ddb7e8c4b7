"""Prefix blocks of prompts that begin with images: the images are part of what a block holds.

As in vLLM, whose block hashes take in the hashes of the images that a block reaches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.spec.requests import Requests

BLOCK_TOKENS = 16  # where neither the trace nor the engines say how large a block is


def mixed(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """One number for two, in 63 bits.  Source of the mixing: splitmix64."""
    with np.errstate(over="ignore"):
        x = (np.asarray(a).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.asarray(b).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def with_blocks(requests: Requests, block_tokens: int = BLOCK_TOKENS) -> Requests:
    """The requests with names for blocks of their images and text together.

    A prompt is images, then text.  Block b ends at token e = (b + 1) H.  Its name is made of the
    images that begin before e, in their order, and of the text's own block that holds the last
    token of its text: two prompts share b if they begin with the same images and their texts have
    the same blocks so far.  Names end where an image has none, or the text's do.
    Blocks of prompts without images stay as they are.
    """
    n, tokens, isl = requests.n_items, requests.item_tokens, requests.isl
    if n is None or tokens is None or not n.any():
        return requests
    named, text = requests.item_names, requests.block_hashes
    if named is None and text is None:
        return requests
    size = requests.hash_tokens if text is not None else block_tokens
    at = np.concatenate([[0], np.cumsum(n)])
    hashes: list[np.ndarray] = []
    for i, count in enumerate(n.tolist()):
        own = np.zeros(0, dtype=np.int64)
        if text is not None and requests.block_starts is not None:
            own = text[requests.block_starts[i] : requests.block_starts[i + 1]]
        if count and named is not None:
            names = named[at[i] : at[i] + count]
            hashes.append(_of_prompt(names, int(tokens[i]), own, int(isl[i]), size))
        else:
            hashes.append(own if not count else own[:0])
    lengths = np.array([len(one) for one in hashes], dtype=np.int64)
    return replace(
        requests,
        block_hashes=np.concatenate(hashes),
        block_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        hash_tokens=size,
    )


def _of_prompt(names: np.ndarray, tokens: int, text: np.ndarray, isl: int, size: int) -> np.ndarray:
    """Names of the whole blocks of one prompt, as many as are known; int64.

    names : of its images, of so many `tokens` each.  text : its text's blocks by name, each of
    which says all text before it too.
    """
    known = int(np.argmin(names >= 0)) if (names < 0).any() else len(names)
    shown = len(names) * tokens
    end = size * np.arange(1, isl // size + 1, dtype=np.int64)
    last = -(-np.minimum(end, shown) // tokens)  # images that begin before the end
    words = -(-np.maximum(end - shown, 0) // size)  # blocks of text that reach it
    upto = int(np.searchsorted(last > known, True)) if (last > known).any() else len(end)
    if (words > len(text)).any():
        upto = min(upto, int(np.argmax(words > len(text))))
    chain = np.zeros(known + 1, dtype=np.int64)
    chain[0] = tokens
    for k in range(known):
        chain[k + 1] = mixed(chain[k : k + 1], int(names[k]))[0]
    out = mixed(chain[last[:upto]], end[:upto])
    said = words[:upto]
    return np.where(said > 0, mixed(out, np.append(text, 0)[np.maximum(said, 1) - 1]), out)
