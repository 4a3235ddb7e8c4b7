"""What the GPU libraries do alike: weights that no cache holds, launches between events, errors.

    time = (event after the last launch - event before the first) / launches

The queue is empty when the first event is recorded, so the time is that of the slower of kernel and
launch, as an eager program sees it.  Events are read after the device has passed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from forerun.errors import SpecError
from forerun.spec.device import Device

LAUNCHES = 10  # between two events, at least
SETS = 4  # of inputs that take turns, and least sets of weights
MOST_SETS = 64  # of weights; smaller ones are bound by their launch
#: weights of all sets over the last-level cache: a model's come from memory each time
OVER = 1.2
CACHE_BYTES = 2.0**26  # where the data sheet does not say
#: formats in the order in which engines prefer them
FORMATS = ("bf16", "fp16", "fp32")


def n_weights(weight_bytes: float, device: Device) -> int:
    """Sets of weights that together exceed the last-level cache, SETS to MOST_SETS."""
    wanted = OVER * (device.l2_bytes or CACHE_BYTES) / max(weight_bytes, 1.0)
    return int(min(max(-(-wanted // 1), SETS), MOST_SETS))


def format_of(device: Device) -> str:
    """The format that models run in there: the first of FORMATS on its data sheet.

    A V100 multiplies bf16 by emulation, at a rate no data sheet states.
    """
    return next((name for name in FORMATS if name in device.peak_flop_per_s), FORMATS[-1])


def between_events(
    runs: Sequence[Callable[[], Any]], event: Callable[[], Any],
    elapsed_ms: Callable[[Any, Any], float], wait: Callable[[Any], Any],
) -> float:  # fmt: skip
    """Seconds of one launch, every run launched as often as the others.

    event : makes one that takes the time; wait : returns when the device has passed an event.
    """
    rounds = -(-LAUNCHES // len(runs))
    start, end = event(), event()
    start.record()
    for _ in range(rounds):
        for run in runs:
            run()
    end.record()
    wait(end)
    return 1e-3 * elapsed_ms(start, end) / (rounds * len(runs))


@contextmanager
def told(where: str, *kinds: type[BaseException]) -> Iterator[None]:
    """Errors of a library as a sentence: memory that is full, kernels a build does not have.

    What was measured before stays in its file, and the same command goes on.
    """
    try:
        yield
    except kinds as error:
        lines = str(error).strip().splitlines()
        first = (lines[0] if lines else type(error).__name__)[:200]
        full = "memory" in type(error).__name__.lower() or "out of memory" in first.lower()
        what = "ran out of the GPU's memory" if full else f"fails here: {first}"
        fix = "end what else uses the GPU and go on" if full else "a build for this GPU and driver"
        raise SpecError.one(where, what, fix) from None
