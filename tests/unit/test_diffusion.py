"""Diffusion models: what the catalog describes, what their stages count, what a case may ask."""

from __future__ import annotations

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.cost.table import grid
from forerun.errors import ForerunError, ShapeError, SpecError
from forerun.metrics import energy
from forerun.metrics.window import view
from forerun.ops.conv import Conv
from forerun.ops.diffusion import (
    lower_control,
    lower_denoiser,
    lower_first,
    lower_text,
    lower_vae,
)
from forerun.sim.diffusion import Asked, alone, stages
from forerun.spec.deployment import Pool

POOL = Pool(device="h100-sxm")
CASE = {
    "model": "z-image-turbo",
    "fleet": {"h100-sxm": 2},
    "traffic": {"rate_per_s": "0.5 req/s", "n_requests": 20, "render": {"size": "512x512"}},
    "deployment": {"device": "h100-sxm", "replicas": 2},
}


def answered(**changes):
    case = {**CASE, "traffic": {**CASE["traffic"], **changes.pop("traffic", {})}, **changes}
    return forerun.simulate(forerun.load(case), bootstrap=False)


@pytest.mark.parametrize("name", catalog.pipelines())
def test_a_denoiser_has_the_parameters_that_its_maker_states(name):
    model = catalog.model(name)
    counted = lower_denoiser(model, POOL, 1).params()
    # names round: FLUX.1's "12 billion" is 11.9, Wan's "1.3B" is 1.42
    assert counted == pytest.approx(model.published_params, rel=0.1)


@pytest.mark.parametrize(("name", "millions"), [("flux.1-dev", 49.55), ("wan2.1-t2v-1.3b", 73.3)])
def test_the_decoder_of_a_vae_has_the_parameters_of_its_weights(name, millions):
    # 49.5 M and 73.3 M: decoder tensors of the checkpoints of AutoencoderKL (16 channels), Wan-VAE
    assert lower_vae(catalog.model(name), POOL).params() == pytest.approx(millions * 1e6, rel=2e-3)


def test_latents_of_an_image_and_of_a_video_are_counted_as_patches():
    flux, wan = (catalog.model(n).diffusion for n in ("flux.1-dev", "wan2.1-t2v-14b"))
    assert flux.latents(1024, 1024) == 4096
    assert wan.latents(832, 480, 81) == 52 * 30 * 21
    with pytest.raises(SpecError, match="multiple of 16 pixels"):
        flux.latents(1000, 1024)
    with pytest.raises(SpecError, match="one and a multiple of 4"):
        wan.latents(832, 480, 80)


def test_a_convolution_counts_its_neighbours_once():
    counts = Conv(128, 64, 9, spread=4.0).counts(np.array([0.0, 10.0]))
    assert counts.flop.tolist() == [0.0, 2 * 10 * 4 * 9 * 64 * 128]
    assert counts.activation_bytes.tolist() == [0.0, 10 * 4 * (64 + 128) * 2]
    assert counts.weight_bytes[0] == 0.0


def test_tensor_parallelism_divides_heads_or_says_why_not():
    model = catalog.model("stable-diffusion-3.5-large")
    two = POOL.model_copy(update={"tp": 2})
    whole, half = (lower_denoiser(model, pool, 1).params() for pool in (POOL, two))
    assert whole / 2 < half < 0.7 * whole  # modulation and positions stay whole
    with pytest.raises(ShapeError, match="38 heads"):
        lower_denoiser(model, POOL.model_copy(update={"tp": 4}), 1)
    with pytest.raises(ShapeError, match="tensor parallelism only"):
        lower_text(model, POOL.model_copy(update={"pp": 2}))


def test_guidance_doubles_tokens_and_not_the_square_of_them():
    model, device = catalog.model("flux.1-dev"), catalog.device("h100-sxm")
    once, twice = (
        stages(model, POOL, device, Asked(k * 4608, k * 4608, k), apart=False)[0].table
        for k in (1, 2)
    )
    own, both = (
        np.interp(k * 4608, grid(table.max_tokens), table.time_s.prefill[:, 0])
        for k, table in ((1, once), (2, twice))
    )
    assert both == pytest.approx(2 * own, rel=0.01)
    assert own > 0.01


def test_text_encoders_apart_leave_their_memory_to_the_denoiser():
    model, device = catalog.model("flux.1-dev"), catalog.device("h100-sxm")
    asked = Asked(4608, 4608, 1)
    beside, apart = (stages(model, POOL, device, asked, apart=a)[0] for a in (False, True))
    text = alone(model, POOL, device)
    assert beside.weights_bytes == pytest.approx(apart.weights_bytes + text.weights_bytes)
    assert beside.n_blocks < apart.n_blocks


def test_an_answer_speaks_of_images_and_not_of_tokens():
    result = answered()
    m, text = result.metrics, str(result)
    assert m.images_per_s.value == pytest.approx(20 / m.duration_s)
    assert m.frames_per_s.value == m.images_per_s.value
    assert m.energy_j_per_image.value == pytest.approx(m.energy_j.value / 20)
    assert m.usd_per_image.value == pytest.approx(m.usd.value / 20)
    assert "per output token" not in text
    assert "first token" not in text
    assert "160 steps of denoising" in text


def test_energy_of_a_log_is_that_of_the_steps_of_its_table():
    result = answered(traffic={"rate_per_s": "0.05 req/s"})
    table, text, pixels = result.log.tables
    n = int(result.requests.isl[0])
    assert (result.requests.isl == n).all()
    alone = result.log.leaps[(result.log.leaps["pool"] == 0)]
    assert (alone["n_seqs"] == 1).all()
    joule = table.energy_j
    step = np.interp(n, np.arange(len(joule.tokens)), joule.tokens) if n <= 2048 else None
    assert step is not None
    step += joule.prefill[n, 0] + joule.seqs[1]
    shown = pixels.energy_j.prefill[n, 0]
    units = int(result.requests.item_units[0])
    read = text.energy_j.tokens[units] + text.energy_j.prefill[units, 0]
    idle = table.idle_w * 2 * result.metrics.duration_s
    expected = idle + 20 * (8 * step + shown + read)
    assert result.metrics.energy_j.value == pytest.approx(expected, rel=2e-3)


def test_a_step_that_is_limited_in_time_takes_so_many_tokens_and_no_less_than_one_request():
    pool = {"device": "h100-sxm", "replicas": 1}
    free, short, least = (
        answered(
            deployment={**pool, "engine": {"max_num_batched_tokens": 16384, **more}},
            traffic={"rate_per_s": "20 req/s"},
        )
        for more in ({}, {"max_step_s": "120 ms"}, {"max_step_s": "1 ms"})
    )
    longest = [r.log.leaps["first_ps"][r.log.leaps["n_seqs"] > 0].max() for r in (free, short)]
    assert longest[1] <= 120e9 < longest[0]
    assert short.log.leaps["n_seqs"].max() > 1
    assert least.log.leaps["n_seqs"].max() == 1
    with pytest.raises(SpecError, match="only steps of denoising"):
        answered(
            model="llama-3.1-8b",
            traffic={"render": None, "isl": 10, "osl": 10},
            deployment={**pool, "engine": {"max_step_s": "10 ms"}},
        )


def test_a_case_says_what_it_cannot_ask():
    wrong = [
        ({"traffic": {"isl": 100}}, "isl"),
        ({"traffic": {"render": {"size": "512"}}}, "not a size in pixels"),
        ({"traffic": {"render": {"size": "500x512"}}}, "multiple of 16"),
        ({"traffic": {"render": None, "isl": 10, "osl": 10}}, "makes images or video"),
        ({"model": "llama-3.1-8b"}, "no diffusion model"),
        ({"deployment": {"device": "h100-sxm", "replicas": 2, "dtype": "int8"}}, "int8"),
        ({"fleet": {"l4": 1}, "deployment": {"device": "l4"}}, "does not fit"),
    ]  # fmt: skip
    for changes, said in wrong:
        with pytest.raises(ForerunError, match=said):
            answered(**changes)


def test_a_deployment_that_is_not_given_is_the_smallest_that_fits():
    case = forerun.load({k: v for k, v in CASE.items() if k != "deployment"})
    result = forerun.simulate(case, bootstrap=False)
    assert result.deployment.pools[0].tp == 1
    assert result.deployment.pools[0].replicas == 2


# -- ControlNets ----------------------------------------------------------------------------------


def test_a_controlnet_is_six_of_the_denoisers_blocks_and_what_joins_them():
    # 340 M a block, six products of the width, and what enters
    flux = lower_control(catalog.model("flux.1-dev"), POOL, 1)
    trunk = lower_first(catalog.model("flux.1-dev"), POOL, 1)
    more = flux.params() - 6 * trunk.params() - 6 * 3072**2
    assert 0 < more < 0.05 * flux.params()
    assert flux.params() == pytest.approx(2.14e9, rel=0.05)


CONTROLLED = {
    "model": "flux.1-dev",
    "traffic": {"render": {"size": "512x512", "steps": 4, "controls": {"n": 3, "most": 2}}},
    "deployment": {"device": "h100-sxm", "controlnets": {"where": "apart"}},
}


def controlled(**changes):
    return answered(**{**CONTROLLED, "traffic": dict(CONTROLLED["traffic"]), **changes})


def test_devices_for_controlnets_are_counted_and_paid_for():
    apart = controlled()
    beside = controlled(deployment={"device": "h100-sxm", "controlnets": {"where": "beside"}})
    assert apart.metrics.n_devices == 2 * beside.metrics.n_devices
    assert apart.metrics.usd_per_hour.value == 2 * beside.metrics.usd_per_hour.value
    assert apart.metrics.controlnets_added.value < beside.metrics.controlnets_added.value
    assert beside.metrics.controlnets.value == beside.metrics.controlnets_added.value
    shared = controlled(fleet={"h100-sxm": 4}, deployment={
        "device": "h100-sxm", "replicas": 3, "controlnets": {"where": "shared"}})  # fmt: skip
    assert shared.metrics.n_devices == 4
    assert shared.metrics.usd_per_hour.value == pytest.approx(4 * beside.metrics.usd_per_hour.value)
    assert any("ControlNets" in line for line in apart.reasons)


def test_what_controlnets_draw_is_that_of_their_tokens_in_each_step():
    one = {"rate_per_s": "1 req/s", "n_requests": 1}

    def dynamic(n, where):
        render = {"size": "512x512", "steps": 4}
        how = {"device": "h100-sxm"}
        if n:
            render["controls"] = {"n": 1}
            how["controlnets"] = {"where": where}
        out = answered(model="flux.1-dev", traffic={**one, "render": render}, deployment=how)
        return energy.dynamic_j(view(out.log)), out.log

    trunk, _ = dynamic(0, "")
    for where in ("beside", "apart", "shared"):
        joule, log = dynamic(1, where)
        table, tokens = log.tables[0].branch, int(log.requests["isl"][0])
        j = table.energy_j
        step = j.tokens[tokens] + j.prefill[tokens, 0] + j.seqs[1]
        assert joule - trunk == pytest.approx(4 * step, rel=1e-6)
        # as much as their share of the time: a ControlNet is a part of the same blocks
        spent = log.branched["busy_ps"][0] / log.replicas["busy_ps"][0]
        assert (joule - trunk) / trunk == pytest.approx(spent, rel=0.6)


def test_a_row_of_power_counts_controlnets_and_slows_them():
    slowed = {"device": "h100-sxm", "replicas": 2, "controlnets": {"where": "beside"}}
    row = {"policy": "row_budget", "budget_w": "1 kW"}
    free = controlled(deployment=slowed)
    capped = controlled(deployment={**slowed, "power": row})
    assert capped.metrics.row_peak_w.value is not None
    assert capped.log.branched["busy_ps"].sum() >= free.log.branched["busy_ps"].sum()
    apart = {**slowed, "controlnets": {"where": "apart"}, "power": row}
    with pytest.raises(SpecError, match="not yet set with the denoiser's"):
        controlled(fleet={"h100-sxm": 4}, deployment=apart)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"deployment": {"device": "h100-sxm", "controlnets": {"where": "apart", "slots": 2}}},
            "devices of their own keep all ControlNets",
        ),
        (
            {"deployment": {"device": "h100-sxm", "controlnets": {"far_link": "ethernet-10g"}}},
            "all ControlNets are there unless slots says less",
        ),
        (
            {"deployment": {"device": "h100-sxm", "controlnets": {"slots": 1}}},
            "2 ControlNets at once, and replicas have slots for 1",
        ),
        (
            {
                "deployment": {
                    "device": "h100-sxm",
                    "controlnets": {"slots": 3, "host_slots": 2, "far_link": "ethernet-10g"},
                }
            },
            "host_slots is at least the number of slots, 3",
        ),
        (
            {
                "deployment": {
                    "device": "h100-sxm",
                    "controlnets": {"where": "shared"},
                    "autoscale": {"target": 2},
                }
            },
            "do not come and go with these",
        ),
        ({"deployment": {"device": "h100-sxm"}}, "nothing says where they are computed"),
        ({"model": "z-image-turbo"}, "no ControlNet of z-image-turbo is described"),
        ({"traffic": {"render": {"size": "512x512"}}}, "no request uses one"),
        ({"fleet": {"h100-sxm": 1}}, "2 x h100-sxm are used"),
        (
            {"deployment": {"device": "h100-sxm", "controlnets": {"link": "nvlink4"}}},
            "there are no devices or link",
        ),
        (
            {"traffic": {"render": {"size": "512x512", "controls": {"n": 1, "most": 2}}}},
            "up to 2 different ControlNets of 1",
        ),
        (
            {"traffic": {"render": {"size": "512x512", "controls": {"n": 20}}}},
            "20 ControlNets take",
        ),
    ],
)
def test_controlnets_that_cannot_be_are_told_in_a_sentence(changes, said):
    with pytest.raises(ForerunError, match=said):
        controlled(**changes)


def test_popular_controlnets_are_used_more_often_and_none_twice():
    case = {
        **CASE, **CONTROLLED,
        "traffic": {
            "rate_per_s": "1 req/s", "n_requests": 4000,
            "render": {"size": "512x512", "controls": {"n": 4, "most": 3, "share": 0.5}},
        },
    }  # fmt: skip
    used = forerun.api.requests(forerun.load(case)).controls
    again = forerun.api.requests(forerun.load(case)).controls
    np.testing.assert_array_equal(used, again)
    bits = (used[:, None] >> np.arange(4)) & 1
    many = bits.sum(axis=1)
    assert (many > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert np.bincount(many, minlength=4)[1:] == pytest.approx(4000 / 6, rel=0.15)
    assert (np.diff(bits.sum(axis=0)) < 0).all()


def test_adapters_of_images_that_are_made_have_slots_not_blocks_of_a_kv_cache():
    pool = {"device": "h100-sxm", "replicas": 1}
    with pytest.raises(SpecError, match="images that are made have none"):
        answered(
            deployment={"pools": [pool], "adapters": {"memory": "paged"}},
            traffic={"adapters": {"n": 4}},
        )
