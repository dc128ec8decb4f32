"""The built-in loop's record is the one that `attach` makes of the same steps."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

import gradlab
from gradlab.config import PrecisionConfig, RecordConfig, RunConfig
from gradlab.data.corpus import load_corpus
from gradlab.probe_names import PROBES
from gradlab.training.loop import step_batches, train
from gradlab.training.step import make_learner, training_step

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("events", ["exact", "skipped", "sampled"])
def test_the_built_in_loop_records_what_attach_does(make_config: Make, events: Any) -> None:
    """The same steps by a stranger's loop, with the same probes by hand: the same rows."""
    record = RecordConfig(probes=tuple(PROBES), every=3, events=events)
    config = make_config(
        steps=8, record=record, precision=PrecisionConfig(name="fp16", initial_loss_scale=2.0**40)
    )
    run = train(config)
    assert run.table("steps")["skipped"].any()
    assert (run.table("grad_norms")["step"] % 3 != 0).any() == (events != "sampled")

    device = torch.device("cpu")
    corpus = load_corpus(config.data, seq_len=config.model.max_seq_len, vocab_size=256)
    learner = make_learner(config, device)
    probes = [getattr(gradlab.probes, p.kind)(**p.arguments) for p in PROBES.values()]
    attached = gradlab.attach(
        learner.model,
        learner.optimizer,
        scaler=learner.scaler,
        probes=probes,
        every=3,
        events=events,
    )
    with attached as recording, learner.precision.arithmetic():
        for step in range(config.steps):
            batches = step_batches(config, corpus, device, step)
            training_step(
                learner, batches, config.lr(step), note=lambda shown: recording.loss(shown.loss)
            )
    others = recording.run()
    assert set(run.tables) == set(others.tables)
    assert run.info["probes"] == [*others.info["probes"]]
    for name in run.tables:
        mine, theirs = (made.table(name) for made in (run, others))
        for told in ("seconds", "tokens", "grad_norm") if name == "steps" else ():
            del mine[told], theirs[told]
        pd.testing.assert_frame_equal(mine, theirs)
