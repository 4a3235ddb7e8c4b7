"""The value that `score` gives: every figure of a run, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forerun.metrics import models, power, responses, tenants
from forerun.metrics.figure import Figure
from forerun.metrics.goodput import Failing
from forerun.metrics.stats import Quantiles
from forerun.metrics.utilisation import Utilisation
from forerun.metrics.workflows import Workflows


@dataclass(frozen=True)
class Counts:
    """How the requests that arrived in the window ended, and their tokens."""

    n: int
    finished: int
    rejected: int
    aborted: int
    unfinished: int
    failed: int  # their replica went away, and they were not sent again
    preemptions: int
    retries: int  # requests sent again because a replica went away
    recomputed_tokens: int
    lost_tokens: int  # computed for requests that failed
    input_tokens: int  # of requests that finished in the window
    output_tokens: int  # produced in the window (whole run) or by requests that finished in it
    cancelled: int = 0  # never sent: what they waited for gave no answer


@dataclass(frozen=True, eq=False)
class Metrics:
    """What happened, how well, and what it took.  Rates are per second of `duration_s`."""

    start_s: float
    end_s: float
    duration_s: float
    n_devices: int
    counts: Counts
    ttft_s: Quantiles
    tpot_s: Quantiles
    itl_s: Quantiles | None  # None when the log kept no steps
    e2el_s: Quantiles
    queue_s: Quantiles
    requests_per_s: Figure
    output_tokens_per_s: Figure
    total_tokens_per_s: Figure
    output_tokens_per_s_per_device: Figure
    attainment: Figure
    goodput_per_s: Figure
    slo_met: bool | None  # None without a bound, or without a request
    failing: tuple[Failing, ...]
    busy: Figure
    hfu: Figure
    mfu: Figure
    mbu: Figure
    link_bytes_per_s: Figure
    kv_peak: Figure
    kv_mean: Figure
    batch_mean: Figure
    kv_hit: Figure
    kv_moved_bytes_per_s: Figure
    kv_hit_below: Figure
    kv_read_bytes_per_s: Figure
    kv_written_bytes_per_s: Figure
    kv_fetch_s: Figure
    kv_wait_s: Figure
    kv_wait_p99_s: Figure
    items_encoded: Figure
    items_per_s: Figure
    encoding: Figure
    embeddings_moved_bytes_per_s: Figure
    embedding_hit: Figure
    encoder_saved_s: Figure
    images_per_s: Figure  # of a diffusion model, else None as all of these
    frames_per_s: Figure
    denoising_step_s: Figure
    showing: Figure
    controlnets: Figure
    controlnets_added: Figure
    controlnet_hit: Figure
    controlnet_loads: Figure
    controlnet_wait_s: Figure
    energy_j_per_image: Figure
    usd_per_image: Figure
    energy_j_per_frame: Figure
    usd_per_frame: Figure
    frame_p50_s: Figure  # of video streams, else None as all of these
    frame_p99_s: Figure
    frames_in_time: Figure
    good_frames_per_s: Figure
    uneven_p99_s: Figure
    stream_fps: Figure
    response_hit: Figure
    response_wrong: Figure
    response_missed: Figure
    response_explored: Figure
    turns: Figure
    weights_loaded_bytes: Figure
    loading: Figure
    draining: Figure
    adapter_hit: Figure
    adapter_loads: Figure
    adapter_bytes: Figure
    adapter_wait_s: Figure
    adapters_mean: Figure
    tuned_tokens: Figure
    tuned_tokens_per_s: Figure
    tuning_alone: Figure
    tuning_beside: Figure
    prompts_busy: Figure  # of two lanes on the same devices; None where there are none
    answers_busy: Figure
    lanes_overlap: Figure
    prompts_slowdown: Figure
    answers_slowdown: Figure
    share_switches: Figure
    by_model: tuple[models.OfModel, ...]  # empty where there is one model only
    jain: Figure
    service_gap_tokens_per_s: Figure
    by_tenant: tuple[tenants.OfTenant, ...]  # empty where the case names none
    by_class: tuple[tenants.OfTenant, ...]
    by_category: tuple[responses.OfCategory, ...]  # empty without a response cache
    energy_j: Figure
    power_w: Figure
    energy_j_per_output_token: Figure
    row_mean_w: Figure  # of a deployment that says something of power, else None as all of these
    row_p99_w: Figure
    row_peak_w: Figure
    over_budget_s: Figure
    over_budget_longest_s: Figure
    over_budget_w: Figure
    slowed_s: Figure
    power_by_pool: tuple[power.OfPool, ...]  # empty where nothing is said of power
    usd: Figure
    usd_per_hour: Figure
    usd_per_million_output_tokens: Figure
    usd_per_million_tokens: Figure
    gco2e: Figure
    gco2e_per_million_output_tokens: Figure
    replicas_mean: Figure  # the fleet: None when all of it was there all the time
    replicas_peak: Figure
    device_hours: Figure
    cold_share: Figure
    availability: Figure
    lost_s: Figure
    by_replica: Utilisation
    model_low: float
    model_high: float
    cost_sources: Mapping[str, float]  # share of a typical step's time by where its cost is from
    notes: tuple[str, ...]
    workflows: Workflows | None = None  # None when requests stand alone

    @property
    def binding(self) -> str | None:
        """The SLO term that the most finished requests miss; None when all meet all."""
        return self.failing[0].term if self.failing and self.failing[0].share > 0 else None


def model_band(metrics: Metrics, value: float | None) -> tuple[float, float] | None:
    """The 80 % band of the cost model around a latency, to first order; None for no value."""
    if value is None:
        return None
    return value * metrics.model_low, value * metrics.model_high
