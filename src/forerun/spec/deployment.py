"""`Deployment`: an answer.  What runs where, how it is split, and which policies decide."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from forerun.spec.adapters import Adapters
from forerun.spec.base import Spec
from forerun.spec.caches import EmbeddingCache, ResponseCache
from forerun.spec.control import Autoscale, ColdStart, Rebalance
from forerun.spec.dtype import Dtype
from forerun.spec.moe import ExpertRun
from forerun.spec.policy import Policy
from forerun.spec.power import PoolPower, RowPower
from forerun.spec.sm_share import SmShare
from forerun.spec.speculation import Speculation
from forerun.spec.tuning import Tuning

#: calibrations that are no file: the profile of the engine itself, and nothing at all
PROFILE, NO_CALIBRATION = "profile", "none"


OldKv = Literal["fp8", "int8", "int4", "int3", "int2"]


class KvPrecision(Spec):
    """KV that is kept in fewer bits once it is older than the last tokens.

    Each `group` elements of an integer format have a scale and a zero of two bytes each.  Sources:
    KIVI (Liu et al., ICML 2024: 2 bits, groups of 32, the last 128 tokens in full), KVQuant.
    """

    old: OldKv  # keys, and values unless they differ
    old_values: OldKv | None = None
    recent_tokens: int = Field(default=128, ge=0)  # in the cache's own format
    group: int = Field(default=32, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, data: Any) -> Any:
        """Also takes `int4` for `{old: int4}`."""
        return {"old": data} if isinstance(data, str) else data

    def bytes_of(self, dtype: OldKv) -> float:
        """Bytes an element takes, scales included."""
        if dtype == "fp8":
            return 1.0
        return int(dtype.removeprefix("int")) / 8 + 4 / self.group


class Engine(Spec):
    """One serving engine's settings, in vLLM's words.

    `reserve` says when KV blocks are taken: `chunk` as tokens are computed (vLLM V1), `prompt` the
    whole prompt at admission (vLLM V0), `full` prompt and maximal output at admission (Orca).
    Host terms add to every step and are not hidden behind the device.  A step with prompt tokens is
    no replayed graph: it takes at least the launches of all its kernels.
    A `runtime` that is given brings the profile that ships for it, unless a host term or a
    calibration is given too.
    """

    batch: Policy = Policy(name="chunked")  # chunked, prefill_first, decode_first, whole, static
    order: Policy = Policy(name="fcfs")
    admit: Policy = Policy(name="memory")
    preempt: Policy = Policy(name="last_admitted")
    speculate: Policy = Policy(name="fixed")  # with `speculation`: how many tokens are proposed
    speculation: Speculation | None = None
    turn: Policy = Policy(name="oldest_first")  # which of several models a replica runs next
    tune: Policy = Policy(name="idle_only")  # with `tuning`: tokens that a step may take
    tuning: Tuning | None = None  # a backlog for what steps leave
    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    max_step_s: float | None = Field(default=None, gt=0)  # of denoising; one alone may take more
    max_model_len: int | None = Field(default=None, ge=1)
    block_tokens: int = Field(default=16, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    watermark: float = Field(default=0.0, ge=0, lt=1)  # share of blocks kept free at admission
    reserve: Literal["chunk", "prompt", "full"] = "chunk"
    n_blocks: int | None = Field(default=None, ge=1)  # overrides what memory leaves
    kept_tokens: int | None = Field(default=None, ge=1)  # KV of a request, cut after each step
    attended_tokens: int | None = Field(default=None, ge=1)  # of them that a decode step reads
    attended_by: Literal["pages", "recent"] = "pages"  # which: by scores of pages, or the last ones
    page_tokens: int = Field(default=16, ge=1)  # of a page that is scored (Quest: 16)
    kv_precision: KvPrecision | None = None  # of older tokens' KV
    evict: Literal["lru", "fifo", "lfu"] = "lru"  # which prefix block nobody uses is dropped first
    preemption: Literal["recompute", "swap"] = "recompute"  # swap: KV waits in the first tier
    prefix_caching: bool = True  # prompts share what they begin with, where their blocks are known
    reuse: Literal["prefix", "anywhere"] = (
        "prefix"  # anywhere: from tiers, at any place in a prompt
    )
    recompute_share: float = Field(
        default=0.15, ge=0, le=1
    )  # of tokens reused anywhere (CacheBlend)
    host_step_s: float = Field(default=0.0, ge=0)  # scheduling and launch of one step
    host_seq_s: float = Field(default=0.0, ge=0)  # per sequence of an attention group in a step
    host_request_s: float = Field(default=0.0, ge=0)  # API server and tokenising, before queueing
    host_prompt_token_s: float = Field(default=0.0, ge=0)  # the same, per prompt token
    host_kernel_s: float = Field(default=0.0, ge=0)  # launch of a kernel where no graph is replayed
    runtime: str = "vllm"  # engine whose kernels run, with or without a version: "vllm 0.24.0"
    #: host terms and factors: a file of `forerun calibrate`, "profile" (of the runtime) or "none"
    calibration: str | None = None
    source: str = "default"

    @model_validator(mode="before")
    @classmethod
    def _named_engine(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("calibration") == NO_CALIBRATION:
            return data | {"calibration": None}
        if not data.get("runtime"):
            return data
        own = any(name == "calibration" or name.startswith("host_") for name in data)
        return data if own else data | {"calibration": PROFILE}

    @model_serializer(mode="wrap")
    def _without_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a calibration is to give is left out, so that it does when this is read again."""
        data: dict[str, Any] = plain(self)
        if self.speculation is None:
            data = {k: v for k, v in data.items() if k not in ("speculate", "speculation")}
        if self.tuning is None:
            data = {k: v for k, v in data.items() if k not in ("tune", "tuning")}
        for name in ("kv_precision", "max_step_s"):
            if getattr(self, name) is None:
                data.pop(name, None)
        if self.calibration is not None:
            said = self.model_fields_set
            data = {k: v for k, v in data.items() if not k.startswith("host_") or k in said}
        return data


class ControlNets(Spec):
    """Where replicas compute the ControlNets that requests use, and which of them they keep.

    `beside`: on the replica's devices, one after another, in the step.  `apart`: on `devices` more
    devices of each replica (they share the ControlNets in turn), at the same time as the denoiser,
    which waits for residuals that have not come over the `link` where it adds them.  `shared`: the
    same on `devices` for all replicas of the pool together, which compute what comes first first.

    All of them are there, unless `slots` says that a replica keeps so many: others come from its
    host by `host_link` when a request needs them, one after another, and the one used longest ago
    makes room.  With `host_slots` the host keeps so many; others come there by `far_link` first.
    """

    where: Literal["beside", "apart", "shared"] = "beside"
    devices: int = Field(default=1, ge=1)  # of a replica, or of the pool
    link: str | None = None  # of each device; its link to others of its kind when absent
    slots: int | None = Field(default=None, ge=1)  # beside: that a replica keeps; all when absent
    host_slots: int | None = Field(default=None, ge=1)  # that its host keeps; all when absent
    host_link: str | None = None  # from the host; the device's own when absent
    far_link: str | None = None  # from a disk or a store elsewhere to the host
    #: beside steps of others, from the moment a request is sent where a slot is free, or in the
    #: step that needs it
    load: Literal["beside", "in_step"] = "beside"

    @model_validator(mode="after")
    def _of_apart(self) -> ControlNets:
        if self.where == "beside" and (self.devices != 1 or self.link is not None):
            raise ValueError("beside the denoiser there are no devices or link: where: apart")
        if self.where != "beside" and self.slots is not None:
            raise ValueError(
                "devices of their own keep all ControlNets: slots are of where: beside"
            )
        said = sorted({"host_slots", "host_link", "far_link", "load"} & self.model_fields_set)
        if self.slots is None and said:
            raise ValueError(f"{', '.join(said)}: all ControlNets are there unless slots says less")
        if (self.host_slots is None) != (self.far_link is None):
            raise ValueError("host_slots and far_link belong together: what comes from where")
        if self.host_slots is not None and self.host_slots < (self.slots or 0):
            raise ValueError(f"host_slots is at least the number of slots, {self.slots}")
        return self

    @model_serializer(mode="wrap")
    def _without_slots(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where all are there this reads (and hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        if self.slots is None:
            for name in ("slots", "host_slots", "host_link", "far_link", "load"):
                data.pop(name, None)
        return data


class Pool(Spec):
    """Replicas of one kind: a device type, a parallel layout and an engine."""

    name: str = "main"
    device: str  # a catalog name
    replicas: int = Field(default=1, ge=1)
    tp: int = Field(default=1, ge=1)
    pp: int = Field(default=1, ge=1)
    dp: int = Field(default=1, ge=1)  # attention data parallelism inside a replica
    ep: int = Field(default=1, ge=1)  # experts are spread over this many devices
    redundant_experts: int = Field(default=0, ge=0)  # copies, so that all devices hold as many
    moe: ExpertRun | None = None  # who chooses which expert, and where experts are
    cp: int = Field(default=1, ge=1)
    dtype: Dtype | None = None  # weights; the checkpoint's own when absent
    kv_dtype: Dtype | None = None
    #: prompts, answers, or all of it; or the images, video and audio in prompts
    role: Literal["both", "prefill", "decode", "encode"] = "both"
    region: str | None = None  # one of the case's
    sm_share: SmShare | None = None  # prompts and answers on the same devices, with a share each
    link: str | None = None  # that KV leaves and comes by; the device's network when absent
    stream_kv: bool = False  # layers of KV leave while later ones are computed
    models: tuple[str, ...] = ()  # of the case's, that it serves; several take turns on a replica
    resident: int = Field(default=1, ge=1)  # models whose weights a replica keeps at a time
    weights_link: str | None = None  # that other weights come by; the link to the host when absent
    engine: Engine = Engine()
    autoscale: Autoscale | None = None  # else all replicas are there all the time
    cold_start: ColdStart = ColdStart()
    controlnets: ControlNets | None = None  # where those that requests for images use are computed
    power: PoolPower | None = None  # its devices' clock and cap, and whether it is slowed first

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, data):
        """Also takes `model: name` for the only one."""
        if isinstance(data, dict) and isinstance(data.get("model"), str) and "models" not in data:
            data = {k: v for k, v in data.items() if k != "model"} | {"models": (data["model"],)}
        return data

    @model_serializer(mode="wrap")
    def _without_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What says nothing of experts, power or shares reads (and hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        for name in ("moe", "power", "sm_share", "region", "controlnets"):
            if getattr(self, name) is None:
                data.pop(name, None)
        return data

    @property
    def drafts_on(self) -> tuple[str, int] | None:
        """The device that a draft has of its own, and how many of all replicas together."""
        said = self.engine.speculation
        if said is None or said.device is None or said.most == 0:
            return None
        return said.device, self.replicas * (said.tp or 1)

    @property
    def expert_loads(self) -> str:
        """How a step's tokens are distributed over the experts of a device."""
        return (self.moe or ExpertRun()).distribution

    @property
    def devices_per_replica(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def control_devices(self) -> int:
        """Devices of each replica, or of the pool, that compute ControlNets and nothing else."""
        said = self.controlnets
        return said.devices if said is not None and said.where != "beside" else 0

    @property
    def shares_controls(self) -> bool:
        """Whether all replicas use the same of them."""
        return self.controlnets is not None and self.controlnets.where == "shared"

    @property
    def n_devices(self) -> int:
        more = self.control_devices * (1 if self.shares_controls else self.replicas)
        return self.replicas * self.devices_per_replica + more


class KvTier(Spec):
    """A place for KV below the devices' memory: what they drop goes there and comes back from it.

    `bandwidth_bytes_per_s` is of one replica's way there, each direction; a `link` names one that
    each of its devices has.  Without either a replica goes by its network, and the tier is shared
    by the fleet.  A store that several share may have a rate of its own,
    `total_bandwidth_bytes_per_s`.  Sources of the parts: LMCache, Mooncake, vLLM's KV connectors.
    """

    tier: str  # dram, nvme, pool: a name for the answer
    capacity_bytes: float = Field(gt=0)  # of one store: of a replica's, a node's or the fleet's
    shared_by: Literal["replica", "node", "fleet"] = "replica"
    link: str | None = None  # a catalog name
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    total_bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    latency_s: float | None = Field(default=None, ge=0)  # the link's when absent
    devices_per_node: int = Field(default=8, ge=1)
    evict: Literal["lru", "fifo", "lfu"] = "lru"
    write: Literal["back", "through"] = "back"  # when memory drops a block, or when it is computed
    buffer_bytes: float = Field(
        default=5e9, ge=0
    )  # waiting to be written; more is lost (LMCache: 5 GB)


class Deployment(Spec):
    """What runs where, and who decides.

    One pool may be written flat: `{device: h100-sxm, tp: 2, replicas: 2, route: round_robin}`.
    """

    @model_validator(mode="before")
    @classmethod
    def _one_pool(cls, data):
        if isinstance(data, dict) and "pools" not in data and "device" in data:
            shared = {k: data[k] for k in data.keys() & cls.model_fields.keys()}
            data = shared | {"pools": [{k: v for k, v in data.items() if k not in shared}]}
        return data

    pools: tuple[Pool, ...]
    route: Policy = Policy(name="least_outstanding")
    place: Policy = Policy(name="least_outstanding")  # whose answers go on elsewhere, and where
    kv_tiers: tuple[KvTier, ...] = ()  # the nearest first
    fetch: Policy = Policy(name="always")  # what of a prompt is moved from them, not computed
    gate: Policy = Policy(name="everyone")  # who is let in at the front
    adapters: Adapters | None = None  # how replicas keep and run those that requests name
    rebalance: Rebalance | None = None  # else requests stay where the router sent them
    response_cache: ResponseCache | None = None  # answers given again, before the gate
    embedding_cache: EmbeddingCache | None = None  # of images, video and sound, by their names
    techniques: tuple[Policy, ...] = ()
    power: RowPower | None = None  # that pools share, and who keeps them within it

    @model_serializer(mode="wrap")
    def _without_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What moves nobody, keeps no answers or adapters, and says nothing of power, reads (and
        hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        for name in ("rebalance", "adapters", "response_cache", "embedding_cache", "power"):
            if getattr(self, name) is None:
                data.pop(name, None)
        return data

    @property
    def n_devices(self) -> int:
        return sum(pool.n_devices for pool in self.pools)
