"""Audio encoders of models that hear: Whisper's, with a projector into the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from forerun.spec.hf_fields import Fields
from forerun.spec.model import Audio

#: by model_type: positions that become a token, whether as their mean, whether longer sound is
#: several windows, widths inside the projector (None: the decoder's).  Sources: modeling and
#: processing files of transformers (`Qwen2AudioMultiModalProjector`, `VoxtralProcessor`).
_KNOWN: dict[str, tuple[int, bool, bool, tuple[int | None, ...]]] = {
    "qwen2_audio": (2, True, False, ()),
    "voxtral": (4, False, True, (None,)),
}


def audio(config: Mapping[str, Any], *, hidden: int, say: Callable[[str], None]) -> Audio | None:
    """The encoder that `audio_config` describes; None where there is none, or none that is known.

    hidden : the decoder's width, which the projector ends in.  What the file leaves out is as in
    Whisper large v3, which the configuration classes of these families take.
    """
    raw = config.get("audio_config")
    if not isinstance(raw, Mapping) or not raw:
        return None
    family = str(config.get("model_type") or "")
    if family not in _KNOWN:
        say(
            f"audio_config: the audio encoder of model_type {family!r} is not known to this "
            "reader; its weights and work are left out"
        )
        return None
    merge, pooled, chunked, widths = _KNOWN[family]
    f = Fields(raw, "audio_config")
    d = f.number("d_model", "hidden_size", default=1280)
    layers = f.number("encoder_layers", "num_hidden_layers", default=32)
    inter = f.number("encoder_ffn_dim", "intermediate_size", default=5120)
    mels = f.number("num_mel_bins", default=128)
    places = f.number("max_source_positions", default=1500)
    projector = tuple(hidden if width is None else width for width in widths)
    # convolutions of width 3, a position table, layers (no bias on keys), a last norm
    first = 3 * mels * d + d + 3 * d * d + d + places * d
    layer = 4 * d * d + 3 * d + 2 * d * inter + inter + d + 4 * d
    ends = (d if pooled else d * merge, *projector, hidden)
    bias = hidden if family == "qwen2_audio" else 0
    join = sum(a * b for a, b in pairwise(ends)) + bias
    return Audio(
        n_layers=layers,
        hidden=d,
        n_heads=f.number("encoder_attention_heads", "num_attention_heads", default=20),
        inter=inter,
        mels=mels,
        window_s=places / 50.0,
        merge=merge,
        pooled=pooled,
        chunked=chunked,
        projector=projector,
        params=None if f.problems else first + layers * layer + 2 * d + join,
    )
