"""Run the hard cases of control and print a digest of each log, with or without the compiler."""

import hashlib

from control import drive, hard_cases, scaled
from fleets import sharing
from plain_python import digest
from powered import hard_cases as powered_cases
from sharing_devices import LINK, devices
from test_lane_control_laws import FAULTS, RULES
from test_share_control_laws import shared

if __name__ == "__main__":
    for name, pools, row, faults in powered_cases():
        if "split" in name or "faults" in name:
            log = drive(sharing(1, 20, isl=40), pools, faults=faults, power=row, seed=1).log()
            print(name, digest(log), log.meta["control"]["power"]["changes"])
    for name, pools, faults in hard_cases():
        log = drive(sharing(1, 20, isl=40), pools, faults=faults, cold_s=0.05, seed=1).log()
        spans = hashlib.sha256(log.spans.tobytes()).hexdigest()[:16]
        print(name, digest(log), spans)
    for name, rule in RULES.items():
        for pools in (
            scaled(devices()["two"], **rule),
            scaled(shared(2, bytes_per_s=LINK), **rule),
        ):
            log = drive(sharing(1, 20, isl=40), pools, faults=FAULTS["all"], seed=1).log()
            print("two lanes", name, digest(log), log.meta["lanes"])
