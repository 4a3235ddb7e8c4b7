"""Measurements of operators with known coefficients."""

import numpy as np

from forerun.calibrate.data import Data, gathered
from forerun.cost.families import family
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.measure.tables import Table

GEMM = dict(compute=0.72, stream=0.61, launch_s=4e-6)
ROWWISE = dict(stream=0.55, cached=3.0, fill=2.0, launch_s=5e-6)


def shapes_of(name, n, seed=0, **more):
    """n rows of a family with sizes spread over the decades."""
    rng = np.random.default_rng(seed)

    def size(low, high):
        return np.round(np.exp(rng.uniform(np.log(low), np.log(high), n)))

    given = dict(device="h100-sxm", runtime="vllm 0.24.0", dtype="bf16") | more
    if name == "gemm":
        given |= dict(op="gemm", m=size(1, 16384), n=size(256, 16384), k=size(256, 16384))
    elif name == "rowwise":
        given |= dict(op="norm", n_tokens=size(1, 65536), width=size(256, 16384))
    else:
        given |= dict(op="all_reduce", impl="nccl", n_gpus=rng.choice([2, 4, 8], n),
                      bytes=size(1e3, 1e9))  # fmt: skip
    return rows(n, **given)


def times_of(name, x, coefs, noise=0.0, seed=1):
    """A table of the family's own physics with these coefficients, and lognormal noise."""
    module = family(name)
    x = x.filled(module.DEFAULTS)
    known = {c.name: c.start for c in module.COEFS} | coefs
    time_s = module.physics(x, sheet(x), known)
    time_s = time_s * np.exp(noise * np.random.default_rng(seed).normal(size=x.n))
    return Table(x, time_s, f"synthetic {name} {seed}", "made here", "MIT")


def data_of(name, n=1200, coefs=None, noise=0.0, seed=0, **more) -> Data:
    coefs = {"gemm": GEMM, "rowwise": ROWWISE}.get(name, {}) if coefs is None else coefs
    (data,) = gathered([times_of(name, shapes_of(name, n, seed, **more), coefs, noise, seed + 1)])
    return data


def three_devices(n=300):
    """One family on three devices of three architectures, each with its own truth."""
    return gathered([
        times_of("rowwise", shapes_of("rowwise", n, seed, device=device), dict(stream=stream), 0.03)
        for seed, (device, stream) in enumerate(
            (("h100-sxm", 0.8), ("a100-sxm-80gb", 0.7), ("l4", 0.6))
        )
    ])[0]  # fmt: skip
