"""Row types of what requests meet: replicas, their settings, lanes, ports, tenants."""

from __future__ import annotations

import numpy as np

#: one engine with its devices.  Between events it is a formula: the fields up to `n_blocks` only
#: change at events, those from `n_steps` on describe the leap in progress.
REPLICA = np.dtype(
    [
        ("place", "i8"),  # in the agenda
        ("pool", "i8"),
        ("n_running", "i8"),
        ("n_decode", "i8"),
        ("n_reading", "i8"),  # decoders that read one cached token more in each step ...
        ("n_taking", "i8"),  # ... and those that keep one more
        ("n_picking", "i8"),  # decoders that pick what they read out of what they keep ...
        ("n_scored", "i8"),  # ... of them those that keep one more in each step
        ("scored", "i8"),  # tokens that they keep, at the start of the leap in progress
        ("n_chunks", "i8"),
        ("n_waiting", "i8"),
        ("queue", "i8"),  # root of the waiting queue; with queues by tenant who is next
        ("run_head", "i8"),
        ("run_tail", "i8"),
        ("chunk_head", "i8"),
        ("chunk_tail", "i8"),
        ("n_fresh", "i8"),  # joined the decoders since the last decode step
        ("n_gaps", "i8"),  # entries in the stack of longest gaps
        ("n_aborted", "i8"),  # running requests to be dropped at the next boundary
        ("accepts", "i8"),  # 1: routers may choose it
        ("ready_head", "i8"),  # requests whose KV has come, linked by chunk_next
        ("ready_tail", "i8"),
        ("n_orders", "i8"),  # commands that wait for its next boundary
        ("next_pool", "i8"),  # whose costs and role it takes on at its next boundary
        ("n_parked", "i8"),  # requests that wait here for models that are not loaded ...
        ("n_apart", "i8"),  # ... and for adapters
        ("free_ps", "i8"),  # no step begins before: weights are being loaded
        ("n_to_move", "i8"),  # decoding requests to be given away at its next boundary
        ("n_away", "i8"),  # requests that hold blocks here and do not run here: KV comes or goes
        ("n_coming", "i8"),  # of them and of those ready: whose KV comes or came from lower tiers
        ("n_blocks", "i8"),  # in use at the start of the leap in progress
        ("admissions", "i8"),
        ("decoded", "i8"),  # decode steps completed
        ("decoded_ps", "i8"),  # when the last of them ended
        ("ended_ps", "i8"),  # when its last step ended
        ("n_steps", "i8"),  # of the leap in progress; 0 when idle
        ("start_ps", "i8"),
        ("first_ps", "i8"),
        ("slope_ps", "i8"),
        ("ctx", "i8"),  # cached tokens of the decoders at the start
        ("past", "i8"),  # tokens before the chunks at the start
        ("chunk", "i8"),  # tokens of all chunks in each step
        ("left_waiting", "i8"),  # n_waiting when the batch was formed
        ("in_step", "i8"),  # decoders that the leap advances (0 or n_decode)
        ("n_seqs", "i8"),  # sampled in each step
        ("n_draft", "i8"),  # proposed tokens that the step verifies
        ("lookahead", "i8"),  # blocks kept for them until they are accepted or not
        ("partner", "i8"),  # the other lane on the same devices; -1 when it has them to itself
        ("memory", "i8"),  # the replica whose blocks and store it uses: itself, or that one
        ("row", "i8"),  # of the costs of the leap under way
        ("depth", "i8"),  # passes of the draft, or ControlNets, in the step ...
        ("draft_tokens", "i8"),  # ... and the tokens computed in them
        ("encoding", "i8"),  # units in the step, when it is one of the encoder
        ("has_encoded", "i8"),  # 1: the last step was one of the encoder
        ("n_adapters", "i8"),  # different ones in each step ...
        ("n_adapted", "i8"),  # ... and the tokens computed with one
        ("n_tune", "i8"),  # tuning tokens in each step ...
        ("tune_added_ps", "i8"),  # ... and the time they add to it
        ("last_tenant", "i8"),  # whose queue was the last to become empty; -1 none yet
        ("album", "i8"),  # where it looks for embeddings before it encodes; -1: nowhere
        ("n_encoding", "i8"),  # items in the step, when it is one of the encoder ...
        ("n_missed", "i8"),  # ... and those of them that are computed
        ("denoised", "i8"),  # tokens of a step that denoises, beyond one for each decoder
        ("showing", "i8"),  # tokens of those whose latents become pixels in the step, if it is one
        ("show_head", "i8"),  # requests that wait for that, or are in it, linked by chunk_next
        ("tied", "i8"),  # 1: it may wait for others who wait for it, see `knots`
        ("branch_ps", "i8"),  # that ControlNets compute in each step that denoises ...
        ("branch_added_ps", "i8"),  # ... and by how much longer it is for them
    ],
    align=True,
)

#: settings and table sizes of one pool
ENGINE = np.dtype(
    [
        ("max_seqs", "i8"),
        ("max_tokens", "i8"),
        ("max_len", "i8"),
        ("n_blocks", "i8"),
        ("block_tokens", "i8"),
        ("watermark", "i8"),  # blocks kept free at admission
        ("reserve", "i8"),  # one of RESERVE
        ("host_step_ps", "i8"),
        ("eager_ps", "i8"),  # least time of a step with chunks, without host terms
        ("host_seq_ps", "i8"),
        ("every_step", "i8"),  # 1: the batch policy looks at what changes inside a leap
        ("max_leap", "i8"),  # 1 steps through everything
        ("mixed_num", "i8"),  # Vidur: several chunks are one chunk of root-sum-square length ...
        ("mixed_den", "i8"),  # ... times num/den; 0 adds the chunks up
        ("mixed_row", "i8"),  # row of the decode tables for a step that also computes chunks
        ("mixed_cross_ps", "i8"),  # in such a step, per decoding request and token of its chunks
        ("role", "i8"),  # one of ROLE
        ("kv_token_bytes", "i8"),  # of KV, all devices of a replica together
        ("streamed", "i8"),  # 1: layers of KV leave while later ones are computed
        ("n_layers", "i8"),
        ("speed", "i8"),  # relative to the fastest pool, in thousandths
        ("keeps", "i8"),  # cached tokens of a request at most, cut after each step; NO_CAP
        ("reads", "i8"),  # of them read by a decoding request at most
        ("picks", "i8"),  # 1: picking what is read takes time: `pick_ps` a token kept, and ...
        ("pick_step_ps", "i8"),  # ... this in each step
        ("anywhere", "i8"),  # 1: KV of a block is used wherever it stands in a prompt ...
        ("again", "f8"),  # ... and this share of its tokens is computed again
        ("swap", "i8"),  # 1: what a preempted request had computed goes to the first tier
        ("draft_most", "i8"),  # tokens in a row proposed for a request; 0: it does not speculate
        ("draft_priced", "i8"),  # 1: its `speculate` policy wants to know what steps would take
        ("draft_row", "i8"),  # of the draft's tables; -1 when no device drafts
        ("draft_apart", "i8"),  # 1: the draft has devices of its own
        ("draft_step_ps", "i8"),  # host time of a pass of the draft ...
        ("draft_seq_ps", "i8"),  # ... and in each step for every request that is drafted for
        ("draft_trip_ps", "i8"),  # to the draft's devices and back
        ("draft_tokens", "i8"),  # most a pass of the draft computes
        ("verify_row", "i8"),  # of the decode tables: 1, 2, 4, .. queries a request; -1 none
        ("draft_verify_row", "i8"),  # the same, of the draft
        ("model", "i8"),
        ("n_resident", "i8"),  # models whose weights a replica keeps at a time
        ("load_ps", "i8"),  # all weights, from where they are kept
        ("load_bytes", "i8"),
        ("encoder_row", "i8"),  # by whose costs it encodes in front of the model; -1: it does not
        ("every_turn", "i8"),  # 1: the turn policy looks at what changes inside a leap
        ("region", "i8"),
        ("max_adapters", "i8"),  # different ones in a batch at most; 0: there are none
        ("n_slots", "i8"),  # adapters that a replica has memory for
        ("host_slots", "i8"),  # ... and its host; 0: all of them
        ("in_step", "i8"),  # 1: a step waits for the adapters it needs; else they come beside steps
        ("in_order", "i8"),  # 1: nobody overtakes a request that waits for its adapter
        ("gathered", "i8"),  # 1: a step reads an adapter for each of its tokens, not once
        ("adapter_launch_ps", "i8"),  # of all kernels that a step with adapters adds
        ("rank_ps", "i8"),  # to read one rank of an adapter, all its modules
        ("adapted_ps", "i8"),  # to read and write what a token brings and takes
        ("rank_flop_ps", "i8"),  # to compute one token with one rank
        ("tunes", "i8"),  # 1: there is a backlog of tuning tokens ...
        ("tune_grain", "i8"),  # ... of which a step takes a multiple of so many
        ("beside", "i8"),  # row of a lane's costs while the other lane is in a step
        ("switch_ps", "i8"),  # that a lane stands still for when its share changes
        ("fair", "i8"),  # 1: a queue a tenant, and the order policy is asked again ...
        ("every_order", "i8"),  # ... 1: of what changes inside a leap beside counters
        ("paged", "i8"),  # 1: adapters take blocks of the KV cache, and have no slots of their own
        ("leaves", "i8"),  # one of LEAVES
        ("adapter_room", "i8"),  # blocks of the largest adapter
        ("early_ps", "i8"),  # requests start so long before their adapter is there
        ("denoises", "i8"),  # 1: requests compute all their tokens in each step ...
        ("shows_row", "i8"),  # ... and become pixels by the costs of this row; -1: nobody prices it
        ("branch_row", "i8"),  # of a ControlNet's costs; -1: there is none
        ("n_branches", "i8"),
        ("branch_devices", "i8"),  # that compute nothing else; 0: the denoiser's compute them
        ("branch_blocks", "i8"),  # each of which gives something that the denoiser adds ...
        ("residual_ps", "i8"),  # ... and that takes so long to send, a token; ...
        ("latent_ps", "i8"),  # ... so long a token's latents on their way there
        ("branch_trip_ps", "i8"),
        ("branch_ahead", "f8"),  # share of the denoiser's time when it adds the first block's ...
        ("branch_each", "f8"),  # ... and from there to the next
        ("branch_at", "i8"),  # where in `net_free_ps` its devices are, which replicas share; -1 not
        ("share", "i8"),  # which shares of the devices two lanes have
    ],
    align=True,
)

#: tokens of a request where nothing caps them: as many as 32 bits hold
NO_CAP = 2**31 - 1

RESERVE = {"chunk": 0, "prompt": 1, "full": 2}

#: what a replica is for: everything, prompts only, answers to prompts computed elsewhere, or the
#: images, video and audio of prompts
ROLE = {"both": 0, "prefill": 1, "decode": 2, "encode": 3}

#: what a replica has encoded
ENCODES = np.dtype(
    [
        ("n_items", "i8"),  # images, pairs of frames, stretches of audio ...
        ("n_units", "i8"),  # ... and what of them was computed
        ("busy_ps", "i8"),  # of the encoder's steps
        ("n_asked", "i8"),  # items that were looked for where embeddings are kept ...
        ("n_found", "i8"),  # ... and found, ...
        ("spared_ps", "i8"),  # ... which steps would have taken so much longer without
        ("read_ps", "i8"),  # until what was found was read, beside what else the step did
        ("n_shown", "i8"),  # latents that became pixels ...
        ("shown_tokens", "i8"),  # ... what of them was computed in each step before ...
        ("show_ps", "i8"),  # ... and how long that took
    ],
    align=True,
)

#: what ControlNets did on a replica
BRANCHED = np.dtype(
    [
        ("n_steps", "i8"),  # with some
        ("busy_ps", "i8"),  # that they computed, on whatever devices ...
        ("added_ps", "i8"),  # ... and by how much steps were longer for it
    ],
    align=True,
)

#: a tenant of the whole fleet: what a token counts for it, in millionths over its weight, and when
#: its first tokens are due after sending (NEVER when not said)
TENANT = np.dtype([("in_cost", "i8"), ("out_cost", "i8"), ("ttft_ps", "i8")], align=True)

#: a tenant at a replica
LINE = np.dtype(
    [
        ("head", "i8"),  # root of its queue; -1 when empty
        ("n", "i8"),  # who wait there
        ("n_decode", "i8"),  # its decoders
        ("served", "i8"),  # counted, without what these add: out_cost for each and decode step
    ],
    align=True,
)

#: weights that came to a replica
LOADS = np.dtype(
    [
        ("n", "i8"),  # times that it took up another model
        ("n_cold", "i8"),  # of them with weights to load
        ("load_ps", "i8"),  # in which it gave nothing
        ("drain_ps", "i8"),  # from the choice to the last answer of the model before
        ("bytes", "f8"),
        ("chosen_ps", "i8"),  # when the model that it drains for was chosen
        ("admitted", "i8"),  # `admissions` of the replica at its last turn
    ],
    align=True,
)

#: fine-tuning of a replica
TUNED = np.dtype(
    [
        ("left", "i8"),  # tokens of the backlog
        ("n_tokens", "i8"),  # that were trained on
        ("alone_ps", "i8"),  # in steps that computed nothing else
        ("beside_ps", "i8"),  # added to the others
    ],
    align=True,
)

#: a replica as one of two lanes on the same devices, and as it is alone
LANE = np.dtype(
    [
        ("beside", "i8"),  # 1: it counts with a busy partner
        ("other_first_ps", "i8"),  # first_ps of the leap if that were the other way round ...
        ("other_slope_ps", "i8"),
        ("turned", "i8"),  # 1: it has come to be the other way round in the last step
        ("stretch_ps", "i8"),  # so much longer does that last step take than the leap says
        ("touched", "i8"),  # 1: at this boundary it took blocks of its partner, or gave some back
        ("alone_ps", "i8"),  # what all steps so far would have taken alone
    ],
    align=True,
)

#: one direction of a connection; its transfers share it equally
PORT = np.dtype(
    [
        ("bytes_per_ps", "f8"),
        ("full_bytes_per_ps", "f8"),  # when nothing degrades it
        ("latency_ps", "i8"),
        ("n", "i8"),  # transfers under way
        ("free_ps", "i8"),  # when it was last in use
        ("bytes", "f8"),  # moved or being moved
        ("n_moved", "i8"),
    ],
    align=True,
)
