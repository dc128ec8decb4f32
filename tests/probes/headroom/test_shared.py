"""Looks of several threads at once, as backward passes on several GPUs make them."""

import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from gradlab.probes.headroom.rows import site_step
from gradlab.probes.headroom.seen import SharedSeen


def test_every_look_keeps_its_numbers() -> None:
    seen = SharedSeen(0)
    seen.begin(sampled=True, counting=True, bounding=False)
    numbers = range(1, 401)

    def look(number: int) -> None:
        x = torch.tensor([-number, number], dtype=torch.float32)
        seen.take((str(number), "backward", x.dtype, False, False), x, number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(look, numbers))
    finally:
        sys.setswitchinterval(before)
    reading = seen.reading([])
    assert reading is not None
    columns = {name: value.tolist() for name, value in reading.values.items()}
    step = site_step(0, {**reading.labels, **columns})
    found = {step.places[i].site: (step.low[i], step.high[i], step.entries[i]) for i in step.order}
    assert found == {str(n): (-n, n, n) for n in numbers}
    assert all(step.details[i].nonzero == 2 for i in step.order)
