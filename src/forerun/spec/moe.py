"""`ExpertRun`: how experts are chosen, placed and kept while a replica runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forerun.spec.base import Spec

#: how tokens spread over the experts of a device: those a batch wakes, and the tokens of each
DISTRIBUTIONS = r"uniform|balanced|power_law_\d+(\.\d+)?"
#: AIConfigurator takes requests to choose by a power law (its sdk's `workload_distribution`) and
#: measures kernels with exponents of 1.01 and 1.2 (its tables).  Of these and uniform, this one is
#: nearest to published runs, of every mixture at the median (docs/background/costs.md)
TYPICAL = "power_law_1.2"


class Routing(Spec):
    """Which experts tokens choose, and how that changes in time.

    A weight of each expert and layer, drawn once: `uniform` all alike, `zipf` rank**-skew in an
    order of each layer's own, `dirichlet` with concentration 1/skew, `table` as a file gives them.
    Its logarithm wanders by `drift` (standard deviation) with the correlation time
    `correlation_s`.  `affinity` is the share of tokens whose next layer's expert follows from this
    layer's; the others choose independently.
    """

    kind: Literal["uniform", "zipf", "dirichlet", "table"] = "uniform"
    skew: float = Field(default=0.0, ge=0, le=20)
    table: str | None = None  # CSV: a line a layer (or one for all), a weight an expert
    drift: float = Field(default=0.0, ge=0, le=10)
    correlation_s: float = Field(default=600.0, gt=0)
    affinity: float = Field(default=0.0, ge=0, le=1)


class Offload(Spec):
    """Experts kept outside the devices' memory: a share stays there as a cache.

    `misses` says what happens to an expert that is not there: its weights are fetched, the host
    computes it, or whichever is sooner in that step.  The host's memory is that of the catalog.
    """

    in_hbm: float = Field(default=1.0, ge=0, le=1)  # share of each layer's experts
    host: str = "epyc-9654"  # a catalog name: its memory rate and its arithmetic
    tier: Literal["dram", "nvme"] = "dram"  # where the others are
    nvme_bytes_per_s: float | None = Field(default=None, gt=0)  # of a host, all drives together
    cache: Literal["lru", "lfu"] = "lru"
    misses: Literal["fetch", "cpu", "best"] = "fetch"
    prefetch: int = Field(default=0, ge=0)  # next experts guessed for each expert of a token


class ExpertRun(Spec):
    """Experts at run time.  As it stands here nothing changes."""

    routing: Routing = Routing()
    placement: str = "linear"  # a file in sim/moe/placements
    rebalance_s: float | None = Field(default=None, gt=0)  # None: experts stay where they are
    window_s: float = Field(default=10.0, gt=0)  # between two looks at who chooses what
    #: of a step's tokens over the experts of one device: uniform, balanced, power_law_<exponent>
    distribution: str = Field(default=TYPICAL, pattern=f"^({DISTRIBUTIONS})$")
    #: tokens go on from the device of their last experts (their context is everywhere), not home
    tokens_stay: bool = False
    link: str | None = None  # that experts move by when rebalanced; the device's own when absent
    offload: Offload | None = None
