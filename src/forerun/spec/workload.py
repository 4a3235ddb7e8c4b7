"""`Traffic`: requests as they come: a trace, or arrivals and lengths drawn from a description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from forerun.spec.adapters import AdapterTraffic
from forerun.spec.base import Spec


class Lengths(Spec):
    """A distribution of token counts."""

    kind: Literal["fixed", "uniform", "lognormal", "geometric"] = "fixed"
    mean: float = Field(ge=1)
    cv: float = Field(default=0.0, ge=0)  # coefficient of variation, lognormal only
    low: int = Field(default=1, ge=1)
    high: int = Field(default=1_048_576, ge=1)


class Delay(Spec):
    """A distribution of times: of thinking, or of a tool that is called."""

    kind: Literal["fixed", "exponential", "lognormal"] = "fixed"
    mean_s: float = Field(ge=0)
    cv: float = Field(default=0.0, ge=0)  # coefficient of variation, lognormal only


class Node(Spec):
    """A kind of request in a workflow: whom it waits for, how long it is, how often it is sent.

    It is sent when all of `after` have ended, `delay` later.  `copies` are sent side by side, and
    those after them wait for all; with `each`, that many for each copy of another node, after that
    copy alone.  `repeat` sends one after another, each after the one before.
    With `extends` its prompt begins with another node's whole prompt and answer, and `isl` counts
    what it adds; repeated, each extends the one before (`extends` its own name: from the second).
    The first `system` tokens of `isl` are the same in all requests of this node.
    """

    after: tuple[str, ...] = ()
    each: str | None = None
    isl: Lengths
    osl: Lengths
    copies: Lengths = Lengths(mean=1)
    repeat: Lengths = Lengths(mean=1)
    delay: Delay = Delay(mean_s=0)
    extends: str | None = None
    system: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key in ("isl", "osl", "copies", "repeat"):
            if isinstance(data.get(key), (int, float)):
                data[key] = {"kind": "fixed", "mean": data[key]}
        if isinstance(data.get("after"), str):
            data["after"] = [data["after"]]
        if isinstance(data.get("delay"), (int, float, str)):
            data["delay"] = {"mean_s": data["delay"]}
        return data


class Workflow(Spec):
    """Requests that cause requests: a graph of nodes, drawn anew for each workflow that arrives.

    `on_failure` says what becomes of those that wait for a request that gave no answer.
    Prompts are compared in blocks of `block_tokens`, where `extends` or `system` makes them alike.
    """

    nodes: dict[str, Node]
    deadline_s: float | None = Field(default=None, gt=0)  # from arrival to the last answer
    on_failure: Literal["cancel", "go_on"] = "cancel"
    block_tokens: int = Field(default=64, ge=1)


class Documents(Spec):
    """Documents that requests retrieve: each prompt begins with some of them, all of one length.

    Popular ones come more often: document d is drawn with weight 1 / (d + 1) ** skew.
    """

    n: int = Field(ge=1)
    tokens: int = Field(default=512, ge=1)  # of a document
    a_request: int = Field(ge=1)  # different ones
    skew: float = Field(default=1.0, ge=0)  # Zipf's exponent; 0: all as often

    @model_validator(mode="after")
    def _enough(self) -> Documents:
        if self.a_request > self.n:
            raise ValueError(f"a request has {self.a_request} different documents of {self.n}")
        return self


class Media(Spec):
    """What prompts show: images, or a video, before the text that `isl` (or the trace) counts.

    `share` of the requests have some: `n` images each, or `seconds` of video at `fps` frames a
    second.  They are `size` pixels, one or several sizes with their weights; the model says how
    many patches and tokens that is, or `patches` and `tokens` of an item say it.  `audio` is
    sound in place of pictures: n pieces, each so many seconds long.

    With `distinct` prompts show some of so many images (videos, pieces of sound) of each size, the
    k-th with weight 1 / (k + 1) ** skew: prefix caching and caches of embeddings know them again.
    """

    share: float = Field(default=1.0, gt=0, le=1)
    n: Lengths = Lengths(mean=1)
    seconds: Lengths | None = None
    fps: float = Field(default=2.0, gt=0)
    audio: Lengths | None = None
    distinct: int | None = Field(default=None, ge=1, le=1_000_000)
    skew: float = Field(default=1.0, ge=0)  # Zipf's exponent; 0: all as often
    size: dict[str, float] = {}  # {"1280x720": 0.7, "336x336": 0.3}
    patches: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key in ("n", "seconds", "audio"):
            if isinstance(data.get(key), (int, float)):
                data[key] = {"kind": "fixed", "mean": data[key]}
        if isinstance(data.get("size"), str):
            data["size"] = {data["size"]: 1.0}
        return data

    @model_validator(mode="after")
    def _sized(self) -> Media:
        if (self.patches is None) != (self.tokens is None):
            raise ValueError("patches and tokens of an item are given together")
        if self.audio is not None and (self.size or self.patches or self.seconds):
            raise ValueError("audio is sound alone: drop size, seconds, patches and tokens")
        if not self.size and self.patches is None and self.audio is None:
            raise ValueError("gives neither a size, as in size: 1280x720, nor patches and tokens")
        check_sizes(self.size)
        return self


def check_sizes(sizes: dict[str, float]) -> None:
    """Raises ValueError for what is no size in pixels, and for a weight that is not above 0."""
    for name, weight in sizes.items():
        sides = name.split("x")
        if len(sides) != 2 or not all(s.isdigit() and int(s) > 0 for s in sides):
            raise ValueError(f"{name!r} is not a size in pixels, as in 1280x720")
        if weight <= 0:
            raise ValueError(f"{name} has the weight {weight:g}, which is not above 0")


class Stream(Spec):
    """Video that is made while it is watched: chunks of `frames`, at the pace of `fps`.

    The latents of the last `past_frames` frames stay, and each chunk's attend to them (a rolling
    cache).  Sources of the defaults: StreamDiffusionV2's repository (chunks of 4 frames, 6 latents
    of 4 frames each in the cache), at Wan 2.1's 16 frames a second.
    """

    fps: float = Field(default=16.0, gt=0)
    frames: int = Field(default=4, ge=1)  # of a chunk
    past_frames: int = Field(default=24, ge=0)
    seconds: Lengths = Lengths(mean=30)  # of a stream

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        if isinstance(data, dict) and isinstance(data.get("seconds"), (int, float)):
            data = {**data, "seconds": {"kind": "fixed", "mean": data["seconds"]}}
        return data


class Render(Spec):
    """Images or videos that requests ask a diffusion model for.

    They are `size` pixels, one or several sizes with their weights, and take `steps` of denoising;
    `frames` makes them videos.  With guidance each step runs twice, with and without the prompt.
    What is not said is as the model's maker runs it.  With `stream`, what arrives are streams
    (which `n_requests` and `rate_per_s` count), and each of their chunks is a request.
    """

    size: dict[str, float]  # {"1024x1024": 0.8, "2048x2048": 0.2}
    steps: Lengths | None = None
    frames: int | None = Field(default=None, ge=1)
    guided: bool | None = None
    stream: Stream | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("steps"), (int, float)):
            data["steps"] = {"kind": "fixed", "mean": data["steps"]}
        if isinstance(data.get("size"), str):
            data["size"] = {data["size"]: 1.0}
        return data

    @model_validator(mode="after")
    def _sized(self) -> Render:
        if not self.size:
            raise ValueError("gives no size, as in size: 1024x1024")
        check_sizes(self.size)
        return self


class Questions(Spec):
    """What the requests of one category ask, and in which words.

    Each of `topics` has `questions`, each question `wordings`.  Question q, in an order drawn at
    random, is asked with weight 1 / (q + 1) ** skew, in any of its wordings.  Embeddings lie around
    that of their question, questions around that of their topic, normally in `dimensions`: the
    cosine of two texts of one question is `paraphrase` on average, that of two questions of a topic
    `related`; topics are far apart.  A response cache sees cosines only.
    """

    category: str = "all"
    share: float = Field(default=1.0, gt=0)  # of the requests, relative to the other categories'
    topics: int = Field(default=1000, ge=1)
    questions: int = Field(default=4, ge=1)  # of a topic
    wordings: int = Field(default=4, ge=1)  # of a question
    skew: float = Field(default=1.0, ge=0)  # Zipf's exponent; 0: all as often
    paraphrase: float = Field(default=0.9, ge=0, le=1)
    related: float = Field(default=0.7, ge=-0.5, le=1)
    dimensions: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _nearer(self) -> Questions:
        if self.related > self.paraphrase:
            raise ValueError(
                f"related {self.related:g} is above paraphrase {self.paraphrase:g}: texts of one "
                "question are more alike than those of two"
            )
        return self


class Client(Spec):
    """How patient the senders of requests are, and what they do when it is over.

    Times count from the moment at which a request was sent (again).  After `hedge_s` without a
    first token (or answer, `hedge_by`) a second copy goes to another replica; the one that has it
    first counts, the other is dropped.  A request is sent again at most `retries` times, after
    `backoff_s`, then `backoff_factor` times as long, and so on; without "failure" in `retry_on`,
    the front sends again at once what a failed replica lost.
    """

    first_token_s: float | None = Field(default=None, gt=0)  # it gives up without a token by then
    give_up_s: float | None = Field(default=None, gt=0)  # or without the whole answer
    retries: int = Field(default=0, ge=0, le=100)
    retry_on: tuple[Literal["rejection", "timeout", "failure"], ...] = ("rejection",)
    backoff_s: float = Field(default=1.0, ge=0)
    backoff_factor: float = Field(default=2.0, ge=1, le=10)
    hedge_s: float | None = Field(default=None, gt=0)
    hedge_by: Literal["first_token", "answer"] = "answer"


class Traffic(Spec):
    """Who asks for what, when.

    `trace` is the name of a bundled workload or the path of a trace file; without it lengths come
    from `isl` and `osl`.  Open loop: arrivals follow `arrivals` at `rate_per_s`.  Closed loop:
    `concurrency` requests are always in flight, each client thinks for `think_s` between them.
    With `turns: after_answer`, a conversation's next request of a trace is sent as long after the
    simulated answer as it came after the recorded one; where its end is not recorded, that is taken
    to have come after `token_s` (an estimate: 50 tokens a second) a token.
    With a `workflow`, what arrives (and what `n_requests` and `concurrency` count) are workflows.
    """

    trace: str | None = None
    format: str | None = None  # of the trace file; detected when absent
    skip_bad: bool = False  # count malformed rows instead of refusing the file
    arrivals: (
        Literal["trace", "poisson", "gamma", "on_off", "diurnal", "uniform", "at_once"] | None
    ) = None
    rate_per_s: float | None = Field(default=None, gt=0)
    cv: float = Field(default=1.0, gt=0)  # of inter-arrival times, gamma only
    on_s: float = Field(default=10.0, gt=0)  # mean length of a burst, on_off only
    off_s: float = Field(default=30.0, gt=0)
    period_s: float = Field(default=86_400.0, gt=0)  # diurnal only
    ahead_s: float = 0.0  # diurnal: the wave stands there at the start
    swing: float = Field(default=0.5, ge=0, le=1)  # diurnal: rate varies by +-swing around its mean
    concurrency: int | None = Field(default=None, ge=1)
    think_s: float = Field(default=0.0, ge=0)
    turns: Literal["recorded", "after_answer"] = "recorded"  # of a trace's conversations
    token_s: float = Field(default=0.02, gt=0)  # of answers whose end the trace does not tell
    n_requests: int | None = Field(default=None, ge=1)
    duration_s: float | None = Field(default=None, gt=0)
    isl: Lengths | None = None
    osl: Lengths | None = None
    workflow: Workflow | None = None
    documents: Documents | None = None  # before the prompts that isl or the trace describe
    media: Media | None = None  # images or video before the text of the prompts
    render: Render | None = None  # images or video that requests ask a diffusion model for
    adapters: AdapterTraffic | None = None  # that requests name
    client: Client | None = None
    kept_tokens: Lengths | None = None  # caps of the requests' own, see `engine.kept_tokens` ...
    attended_tokens: Lengths | None = None  # ... and `engine.attended_tokens`
    questions: tuple[Questions, ...] = ()  # for a response cache; by category

    @model_serializer(mode="wrap")
    def _without_questions(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What says nothing of these reads (and hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        for name in ("questions", "kept_tokens", "attended_tokens", "media", "render"):
            if not getattr(self, name):
                data.pop(name, None)
        return data

    @model_validator(mode="before")
    @classmethod
    def _plain_lengths(cls, data):
        if isinstance(data, dict):
            for key in ("isl", "osl", "kept_tokens", "attended_tokens"):
                if isinstance(data.get(key), (int, float)):
                    data = {**data, key: {"kind": "fixed", "mean": data[key]}}
        return data
