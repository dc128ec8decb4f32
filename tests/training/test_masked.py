"""A masked model's run: its losses against a plain loop's, and that it comes again to the bit."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import gradlab
from gradlab.analyses.findings import findings
from gradlab.config import DataConfig, PrecisionConfig, RecordConfig, RunConfig, StabilityConfig
from gradlab.data import load_corpus, train_batch, validation_batches
from gradlab.errors import GradlabError
from gradlab.models.loss import UNCHOSEN
from gradlab.pages.overview import runs_overview
from gradlab.runs.tokenizer_file import TOKENIZER_FILE, kept_tokenizer
from gradlab.settings import OneRun, train_line
from gradlab.training.loop import train
from gradlab.training.progress import Progress
from gradlab.training.step import make_learner, training_step

Make = Callable[..., RunConfig]

MASKED = {"objective": "masked", "n_layers": 1}


def plain_loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    losses = [
        math.log(sum(map(math.exp, row))) - row[target]
        for row, target in zip(
            logits.flatten(0, 1).tolist(), targets.flatten().tolist(), strict=True
        )
        if target != UNCHOSEN
    ]
    return sum(losses) / len(losses)


def test_losses_are_a_plain_loops_cross_entropy_over_the_chosen(make_config: Make) -> None:
    config = make_config(model=MASKED, steps=1, val_every=1, val_batches=2, accumulation=2)
    config = config.replace(precision=PrecisionConfig(name="fp32"))
    run = train(config)
    seq_len = config.model.max_seq_len
    corpus = load_corpus(config.data, seq_len=seq_len, vocab_size=257, objective="masked")
    shape = {"batch_size": config.batch_size, "seq_len": seq_len, "masking": corpus.masking}
    learner = make_learner(config, torch.device("cpu"))
    micros = [train_batch(corpus.train, seed=0, step=0, micro=m, **shape) for m in range(2)]
    losses = [plain_loss(learner.model(x), y) for x, y in micros]
    steps = run.table("steps")
    assert steps["loss"][0] == pytest.approx(sum(losses) / 2, rel=1e-5)
    training_step(learner, micros, config.lr(0))
    batches = validation_batches(corpus.val, count=2, **shape)
    after = [plain_loss(learner.model(x), y) for x, y in batches]
    assert steps["val_loss"][0] == pytest.approx(sum(after) / 2, rel=1e-5)
    assert run.info["corpus"]["mask_id"] == 256
    counted = torch.from_numpy(corpus.train.astype("int64")).bincount() / corpus.train.size
    entropy = float(torch.special.entr(counted.double()).sum())
    assert run.info["unigram_entropy"] == pytest.approx(entropy)


@pytest.mark.parametrize("tokenizer", [None, "bpe"])
def test_stopped_and_resumed_it_ends_the_same_to_the_bit(
    make_config: Make, tmp_path: Path, tokenizer: str | None
) -> None:
    if tokenizer:
        pytest.importorskip("tokenizers")
    base = make_config(model={**MASKED, **({"vocab_size": 270} if tokenizer else {})})
    config = base.replace(
        steps=12,
        val_every=5,
        data=base.data.replace(tokenizer=tokenizer),
        precision=PrecisionConfig(name="fp16"),
        stability=StabilityConfig(margin=1e9),
        record=RecordConfig(probes=("headroom", "scores", "entropy"), every=4, checkpoint_every=5),
    )
    whole = train(config, tmp_path / "whole")

    def stop(news: Progress) -> None:
        if news.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=stop)
    again = train(config, tmp_path / "parts", resume=True)
    assert again.verdict == whole.verdict
    for name in whole.tables:
        one, other = (
            run.table(name).drop(columns="seconds", errors="ignore") for run in (whole, again)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (kept_tokenizer(again) is None) == (tokenizer is None)
    replayed = gradlab.replay(again.path, from_step=0, out=tmp_path / "replay")
    assert replayed.is_same, replayed.sentence
    assert kept_tokenizer(replayed.run) == kept_tokenizer(whole)


def test_scores_and_entropy_are_over_all_pairs(make_config: Make) -> None:
    record = RecordConfig(probes=("headroom", "scores", "entropy"), every=1)
    fp32 = PrecisionConfig(name="fp32")
    config = make_config(model=MASKED, steps=1, record=record, precision=fp32)
    run = train(config)
    seq_len = config.model.max_seq_len
    corpus = load_corpus(config.data, seq_len=seq_len, vocab_size=257, objective="masked")
    inputs, _ = train_batch(
        corpus.train, seed=0, step=0, batch_size=config.batch_size, seq_len=seq_len,
        masking=corpus.masking,
    )  # fmt: skip
    model = make_learner(config, torch.device("cpu")).model
    seen: list[torch.Tensor] = []
    model.blocks[0].attention.scores.register_forward_hook(lambda _m, _i, out: seen.append(out))
    model(inputs)
    (scores,) = seen
    rows = run.table("scores")
    assert rows["max"].tolist() == scores.amax((0, 2, 3)).tolist()
    assert rows["max_abs"].tolist() == scores.abs().amax((0, 2, 3)).tolist()
    p = scores.double().softmax(-1)
    expected = (-(p * p.log()).sum(-1) / math.log(seq_len)).mean((0, 2))
    assert run.table("entropy")["entropy"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    headroom = run.table("headroom").set_index(["site", "direction"])["max_abs"]
    assert headroom["blocks.0.attention.scores", "forward"] == scores.abs().max().item()


def test_a_tokenizer_that_was_changed_is_refused_and_one_that_is_gone_made_again(
    make_config: Make, tmp_path: Path
) -> None:
    pytest.importorskip("tokenizers")
    base = make_config(model={"vocab_size": 270, "n_layers": 1})
    config = base.replace(steps=2, data=base.data.replace(tokenizer="bpe"))
    run = train(config, tmp_path / "run")
    file = run.path / TOKENIZER_FILE
    info = json.loads((run.path / "run.json").read_text())
    file.write_bytes(file.read_bytes() + b" ")
    (run.path / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    with pytest.raises(GradlabError, match="is not the tokenizer that the run was begun with"):
        train(config, run.path, resume=True)
    file.unlink()
    train(config, run.path, resume=True)
    assert file.is_file()


def test_a_text_too_short_for_a_sequence_is_refused(make_config: Make, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("a" * 400)
    config = make_config(model=MASKED).replace(data=DataConfig(corpus=str(text), held_out=0.01))
    with pytest.raises(GradlabError, match=r"the validation part .* has 4 tokens, fewer than"):
        train(config)


def test_what_a_run_is_and_how_to_make_it_again_say_that_it_is_masked(make_config: Make) -> None:
    config = OneRun(model={"objective": "masked"}, steps=2, device="cpu").config()
    assert (config.model.objective, config.model.vocab_size) == ("masked", 257)
    assert config.named == "pre-ln, masked nano, fp32, seed 0"
    line = train_line(config)
    assert line is not None
    assert "--objective masked" in line
    assert "vocab" not in line
    assert OneRun.of(config).config() == config
    larger = OneRun(model={"objective": "masked", "vocab_size": 300}, device="cpu").config()
    assert larger.model.vocab_size == 300
    assert OneRun.of(larger).config() == larger
    run = train(make_config(model=MASKED, steps=2))
    assert findings(run)[0].sentence.startswith("pre-ln, masked tiny, fp16, seed 0")
    assert "masked" in repr(run)
    causal = train(make_config(steps=2))
    shown = runs_overview({"one": run, "other": causal}).table
    at = shown.headings.index("objective")
    assert [row[at].text for row in shown.rows] == ["masked", "causal"]
    assert "objective" not in runs_overview({"one": causal}).table.headings
