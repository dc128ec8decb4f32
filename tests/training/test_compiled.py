"""Training with torch.compile: what is recorded is what the eager run records."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gradlab.config import PrecisionConfig, RecordConfig, RunConfig
from gradlab.errors import ConfigError, GradlabError
from gradlab.probes.headroom.compiled import CAN_LOOK_INSIDE
from gradlab.runs.reader import Run
from gradlab.training.loop import train

Make = Callable[..., RunConfig]

pytestmark = [
    pytest.mark.skipif(not CAN_LOOK_INSIDE, reason="needs torch 2.13"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def small(make_config: Make, **fields: object) -> RunConfig:
    return make_config(arch="normformer", model={"n_layers": 1}, steps=3, **fields)


@pytest.mark.long
def test_compiled_and_eager_overflow_at_the_same_sites(make_config: Make) -> None:
    # A loss scale that no gradient survives, so that steps are skipped on every processor.
    config = small(make_config, precision=PrecisionConfig(name="fp16", initial_loss_scale=2.0**24))

    def places(run: Run, table: str, *columns: str) -> set[tuple[object, ...]]:
        # Which of two independent operations comes first is the compiler's to choose.
        return set(run.table(table)[["step", *columns]].itertuples(index=False, name=None))

    eager, compiled = train(config), train(config.replace(compile=True))
    assert len(eager.table("overflows"))
    for table, columns in {
        "overflows": ("site", "direction", "kind", "producer", "skipped"),
        "headroom": ("site", "direction"),
    }.items():
        there, here = places(eager, table, *columns), places(compiled, table, *columns)
        assert there <= here
        # Of what is not finite nothing tells that a module passes on what a part of it gave.
        for _, site, *_ in here - there:
            assert any(str(part).startswith(f"{site}.") for _, part, *_ in there)
    scales = ("loss_scale", "skipped")
    assert places(compiled, "steps", *scales) == places(eager, "steps", *scales)
    assert compiled.table("steps")["loss"].to_numpy() == pytest.approx(
        eager.table("steps")["loss"].to_numpy(), rel=1e-3
    )


def test_a_probe_that_cannot_see_inside_is_refused(make_config: Make) -> None:
    config = small(make_config, compile=True, record=RecordConfig(probes=("scores",)))
    with pytest.raises(ConfigError, match="AttentionScores cannot see inside a compiled model"):
        train(config)


@pytest.mark.slow
def test_without_a_compiler_one_sentence_says_so_and_the_record_can_be_read(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    # Of a shape that no other test has compiled: what is in the compiler's cache needs none.
    config = make_config(
        model={"n_layers": 1, "max_seq_len": 13, "d_ff": 26},
        compile=True,
        record=RecordConfig(probes=()),
    )
    with pytest.raises(GradlabError, match=r"torch\.compile failed"):
        train(config, tmp_path / "run")
    assert "torch.compile failed" in (tmp_path / "run" / "run.json").read_text()
