"""This machine's condition is sampled while a benchmark runs."""

import time

from sharp_mobile.bench.results import Condition
from sharp_mobile.bench.this_machine import Sampler, this_condition, this_device


def test_conditions_are_sampled_at_the_start_meanwhile_and_at_the_end() -> None:
    with Sampler(lambda at: Condition(at=at), period=0.01) as sampler:
        while len(sampler.taken) < 4:
            time.sleep(0.01)
        assert sampler.elapsed >= sampler.taken[-1].at
    times = [condition.at for condition in sampler.taken]
    assert times == sorted(times)
    assert len(times) >= 5
    with Sampler(lambda at: Condition(at=at), period=1000) as sampler:
        pass
    assert len(sampler.taken) == 2


def test_this_machine_is_one_that_a_results_file_can_hold() -> None:
    device = this_device()
    assert (device.kind, device.thermal) == ("host", None)
    assert device.performance_cores is None or 1 <= device.performance_cores <= device.cores
    assert len(this_condition(0.0).clocks_hz) in (0, device.cores)
