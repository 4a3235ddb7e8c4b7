"""Power at run time: clocks and caps of a pool's devices, and what a row of them may draw.

Both are descriptions; `forerun.sim.power` carries them out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forerun.spec.base import Spec
from forerun.spec.policy import Policy


class PoolPower(Spec):
    """What the devices of a pool are told, for the whole run.

    A controller (`deployment.power`) only ever lowers the clock further.
    """

    clock_hz: float | None = Field(
        default=None, gt=0
    )  # of the cores; as the device will when absent
    cap_w: float | None = Field(default=None, gt=0)  # of one device
    priority: Literal["low", "high"] = "high"  # low: slowed before others of its row


class BudgetFrom(Spec):
    """From a time on, so many watts."""

    at_s: float = Field(ge=0)
    budget_w: float = Field(gt=0)


class CarbonFrom(Spec):
    """From a time on, so many grams a kilowatt hour of the grid."""

    at_s: float = Field(ge=0)
    intensity_gco2e_per_kwh: float = Field(ge=0)


class RowPower(Spec):
    """Pools that are fed together: a meter, a budget, and a policy that lowers clocks.

    Every `period_s` the policy sees the mean power of the last `window_s` that the meter knows of,
    which is `delay_s` old, and says at which of the `levels` each pool shall run; `act_s` later its
    devices do, from their next step on.  The lowest level is the brake, which works after
    `brake_s`.  The policy is asked once before the run, for what they begin with.  The budget is
    the least of those given: `budget_w`, that of `budgets` by time of day, what `gco2e_per_h`
    leaves at the `carbon` of the time.

    Delays as they stand are estimates, of the order that out-of-band control of servers has
    (seconds to tens of seconds; Patel et al., POLCA, ASPLOS 2024).
    """

    policy: Policy = Policy(name="watch")  # a file in sim/policies/power/
    pools: tuple[str, ...] = ()  # all when empty
    budget_w: float | None = Field(default=None, gt=0)
    budgets: tuple[BudgetFrom, ...] = ()
    gco2e_per_h: float | None = Field(default=None, gt=0)
    carbon: tuple[CarbonFrom, ...] = ()  # in place of the yearly mean of a region
    repeat_s: float | None = Field(default=None, gt=0)  # of `budgets` and `carbon`: 24 h
    other_w: float = Field(default=0.0, ge=0)  # hosts, fans, switches: drawn all the time
    #: clocks that the policy chooses from, shares of a device's highest; the first is 1
    levels: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
    period_s: float = Field(default=2.0, gt=0)
    window_s: float = Field(default=1.0, gt=0)
    delay_s: float = Field(default=2.0, ge=0)
    act_s: float = Field(default=5.0, ge=0)
    brake_s: float = Field(default=1.0, ge=0)
    trip_s: float | None = Field(default=None, gt=0)  # above the budget for so long: it trips
    ttft_s: float | None = Field(default=None, gt=0)  # slack: what a pool must keep to
    tpot_s: float | None = Field(default=None, gt=0)
