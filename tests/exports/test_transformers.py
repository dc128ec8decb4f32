"""Exported folders in transformers itself, against gradlab's own model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import gradlab
from gradlab.errors import GradlabError
from gradlab.models.presets import ABLATIONS, ARCHITECTURES

transformers = pytest.importorskip("transformers")

Keep = Callable[..., tuple[Path, Any]]

# Each switch that no architecture by name turns on.
SWITCHES: dict[str, dict[str, Any]] = {
    "output": {"head_scale": "output"},
    "both-scalar": {"res_scale": "both-scalar"},
    "scalenorm": {"norm": "scalenorm"},
    "stochastic_depth": {"stochastic_depth": 0.5, "dropout": 0.5},
    "geglu": {"activation": "geglu"},
    "relu2": {"activation": "relu2"},
    "caps": {"score_cap": 2.0, "logit_cap": 3.0},
    "learned": {"positions": "learned"},
    "sdpa": {"attention": "sdpa"},
    "gpt2": {"init": "gpt2"},
}


def auto(name: str, folder: Path, **options: Any) -> Any:
    return getattr(transformers, name).from_pretrained(folder, trust_remote_code=True, **options)


def exported(run: Path, **options: Any) -> Path:
    return gradlab.export(run, out=run.parent / "exported", **options).folder


def padded(rows: list[Tensor], places: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Rows with their tokens at the places given and a token that is not theirs elsewhere."""
    tokens = torch.full((len(rows), length), 7)
    mask = torch.zeros_like(tokens)
    for i, (row, at) in enumerate(zip(rows, places, strict=True)):
        tokens[i, at], mask[i, at] = row, 1
    return tokens, mask


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *ABLATIONS])
def test_every_architecture_has_the_same_logits(keep: Keep, tokens: Tensor, arch: str) -> None:
    run, model = keep(arch)
    loaded = auto("AutoModelForCausalLM", exported(run))
    torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_has_the_same_logits(keep: Keep, tokens: Tensor, name: str) -> None:
    run, model = keep("pre-ln", **SWITCHES[name])
    loaded = auto("AutoModelForCausalLM", exported(run))
    torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=0, atol=1e-5)


MASKED: list[dict[str, Any]] = [{}, {"attention": "sdpa", "positions": "learned"}]


@pytest.mark.parametrize("model", MASKED, ids=str)
def test_a_masked_model_has_the_same_logits_and_loss(
    keep: Keep, tokens: Tensor, model: dict[str, Any]
) -> None:
    run, own = keep("normformer", objective="masked", **model)
    loaded = auto("AutoModelForMaskedLM", exported(run))
    labels = torch.full_like(tokens, -100)
    labels[:, 2:4] = tokens[:, 2:4]
    tokens[:, 2] = 256
    out = loaded(tokens, labels=labels)
    torch.testing.assert_close(out.logits, own(tokens), rtol=0, atol=1e-5)
    chosen = own(tokens)[:, 2:4].log_softmax(-1).gather(-1, labels[:, 2:4, None])
    torch.testing.assert_close(out.loss, -chosen.mean())
    assert not torch.equal(loaded(tokens[:, :5]).logits, out.logits[:, :5])  # it sees what follows


def test_a_class_for_another_objective_is_refused(keep: Keep) -> None:
    causal, _ = keep(name="causal")
    masked, _ = keep(name="masked", objective="masked")
    with pytest.raises(GradlabError, match="load it by AutoModelForCausalLM"):
        auto("AutoModelForMaskedLM", gradlab.export(causal).folder)
    with pytest.raises(GradlabError, match="load it by AutoModelForMaskedLM"):
        auto("AutoModelForCausalLM", gradlab.export(masked).folder)


@pytest.mark.parametrize("norm", ["layernorm", "batchnorm"])
def test_fp16_weights_stay_fp16(keep: Keep, tokens: Tensor, norm: str) -> None:
    run, model = keep("normformer", precision="fp16-pure", norm=norm)
    loaded = auto("AutoModelForCausalLM", exported(run))
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    assert torch.equal(loaded(tokens).logits, model(tokens))


PLACES = {
    "right": [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2]],
    "left": [[1, 2, 3, 4, 5, 6, 7], [5, 6, 7]],
    "between": [[0, 1, 2, 4, 5, 6, 7], [1, 3, 6]],
}


PADDED: list[dict[str, Any]] = [
    {},
    {"attention": "sdpa", "positions": "learned"},
    {"objective": "masked"},
    {"objective": "masked", "attention": "sdpa", "placement": "hybrid", "score_cap": None},
    {"objective": "masked", "placement": "post", "score_cap": 2.0},
    {"objective": "masked", "placement": "none", "attn_out_norm": True, "ffn_out_norm": True},
]


@pytest.mark.parametrize("model", PADDED, ids=str)
def test_padding_changes_nothing(keep: Keep, tokens: Tensor, model: dict[str, Any]) -> None:
    run, own = keep("normformer", **model)
    folder = exported(run)
    causal = own.config.is_causal
    loaded = auto(f"AutoModelFor{'Causal' if causal else 'Masked'}LM", folder)
    classifier = auto("AutoModelForSequenceClassification", folder, num_labels=3)
    for places in PLACES.values():
        rows = [tokens[i, : len(at)] for i, at in enumerate(places)]
        batch, mask = padded(rows, places, 8)
        together = loaded(input_ids=batch, attention_mask=mask).logits
        classes = classifier(input_ids=batch, attention_mask=mask).logits
        for i, (row, at) in enumerate(zip(rows, places, strict=True)):
            torch.testing.assert_close(together[i, at], own(row[None])[0], rtol=0, atol=1e-5)
            states = own.states(row[None])[0]
            of_text = states[-1] if causal else states.mean(0)
            alone = of_text @ classifier.score.weight.T
            torch.testing.assert_close(classes[i], alone, rtol=0, atol=1e-5)
            unpadded = classifier(input_ids=row[None]).logits[0]
            torch.testing.assert_close(unpadded, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [{}, {"objective": "masked"}, {"placement": "post"}], ids=str)
def test_states_and_attentions_are_those_of_each_text_alone(
    keep: Keep, tokens: Tensor, model: dict[str, Any]
) -> None:
    run, own = keep("normformer", **model)
    loaded = auto(f"AutoModelFor{'Causal' if own.config.is_causal else 'Masked'}LM", exported(run))
    rows = [tokens[i, : len(at)] for i, at in enumerate(PLACES["between"])]
    batch, mask = padded(rows, PLACES["between"], 8)
    asked = {"output_hidden_states": True, "output_attentions": True}
    together = loaded(batch, attention_mask=mask, **asked)
    assert len(together.hidden_states) == own.config.n_layers + 1
    assert len(together.attentions) == own.config.n_layers
    for i, (row, at) in enumerate(zip(rows, PLACES["between"], strict=True)):
        streams, probabilities = own_layers(own, row[None])
        alone = loaded(row[None], **asked)
        for all_of_it, alone_of_it, expected in zip(
            together.hidden_states, alone.hidden_states, streams, strict=True
        ):
            torch.testing.assert_close(alone_of_it, expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(all_of_it[i, at], expected[0], rtol=0, atol=1e-5)
        for all_of_it, alone_of_it, expected in zip(
            together.attentions, alone.attentions, probabilities, strict=True
        ):
            torch.testing.assert_close(alone_of_it, expected, rtol=0, atol=1e-6)
            there = all_of_it[i][:, at][:, :, at]
            torch.testing.assert_close(there, expected[0], rtol=0, atol=1e-5)
    assert not any(module._forward_hooks for module in loaded.modules())
    assert not any(module._forward_pre_hooks for module in loaded.modules())


def own_layers(model: Any, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """By hand the stream before each block and after the final norm, and all probabilities."""
    x = model.config.d_model**0.5 * model.embed(tokens) + model.positions(tokens.shape[1])
    streams, probabilities = [], []
    for block in model.blocks:
        streams.append(x)
        attention = block.attention
        given = x if model.config.placement == "post" else block.attn_norm(x)
        q, k = (
            linear(given).view(*x.shape[:2], attention.n_heads, -1).transpose(1, 2)
            for linear in (attention.q, attention.k)
        )
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
        if model.config.is_causal:
            scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
        probabilities.append(scores.softmax(-1))
        x = block(x)
    streams.append(x if model.final_norm is None else model.final_norm(x))
    return streams, probabilities


def test_what_is_asked_for_by_config_or_of_generate_is_given(keep: Keep, tokens: Tensor) -> None:
    folder = exported(keep()[0])
    loaded = auto("AutoModelForCausalLM", folder, output_hidden_states=True)
    assert len(loaded(tokens).hidden_states) == 3
    assert loaded(tokens, output_hidden_states=False).hidden_states is None
    made = loaded.generate(
        tokens, max_new_tokens=2, return_dict_in_generate=True,
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    assert [len(of_token) for of_token in made.hidden_states] == [3, 3]
    assert made.attentions[1][0].shape == (3, 2, 10, 10)
    classifier = auto("AutoModelForSequenceClassification", folder, num_labels=2)
    assert len(classifier(tokens, output_hidden_states=True).hidden_states) == 3


def test_what_a_model_cannot_take_or_show_is_refused(keep: Keep, tokens: Tensor) -> None:
    folder = exported(keep(attention="sdpa")[0])
    loaded = auto("AutoModelForCausalLM", folder)
    for name, value in {
        "inputs_embeds": torch.zeros(3, 9, 16),
        "position_ids": torch.arange(9)[None],
        "past_key_values": [(tokens, tokens)],
    }.items():
        with pytest.raises(GradlabError, match=f"takes no {name}: give its tokens' input_ids"):
            loaded(tokens, **{name: value})
        with pytest.raises(GradlabError, match=f"takes no {name}"):
            loaded(**{name: value})
    with pytest.raises(GradlabError, match="needs input_ids"):
        loaded()
    with pytest.raises(GradlabError, match="output_attentions: the kernel of attention = 'sdpa'"):
        loaded(tokens, output_attentions=True)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    config.model["attention"] = "materialised"
    seen = auto("AutoModelForCausalLM", folder, config=config)(tokens, output_attentions=True)
    torch.testing.assert_close(seen.logits, loaded(tokens).logits, rtol=0, atol=1e-5)
    assert len(seen.attentions) == 2


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_row_of_padding_alone_leaves_the_others(
    keep: Keep, tokens: Tensor, objective: str
) -> None:
    run, own = keep(objective=objective)
    mask = torch.ones_like(tokens)
    mask[1] = 0
    name = f"AutoModelFor{objective.capitalize()}LM"
    logits = auto(name, exported(run))(tokens, attention_mask=mask).logits
    torch.testing.assert_close(logits[::2], own(tokens)[::2], rtol=0, atol=1e-5)
    assert logits.isfinite().all()


def test_a_mask_of_another_shape_is_refused(keep: Keep, tokens: Tensor) -> None:
    loaded = auto("AutoModelForCausalLM", exported(keep()[0]))
    with pytest.raises(GradlabError, match=r"attention_mask is \(3, 8\), the input_ids are"):
        loaded(tokens, attention_mask=torch.ones(3, 8))
    with pytest.raises(GradlabError, match="longer than the model's max_seq_len = 12"):
        loaded(tokens.repeat(1, 2))


def test_the_loss_is_that_of_the_next_tokens(keep: Keep, tokens: Tensor) -> None:
    run, own = keep()
    loaded = auto("AutoModelForCausalLM", exported(run))
    labels = tokens.clone()
    labels[0, :4] = -100
    losses = -own(tokens).log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    counted = torch.cat([losses[0, 3:], losses[1], losses[2]])
    torch.testing.assert_close(loaded(tokens, labels=labels).loss, counted.mean())
    share = loaded(tokens, labels=labels, num_items_in_batch=100).loss
    torch.testing.assert_close(share, counted.sum() / 100)
    assert torch.equal(loaded(tokens, labels=labels, return_dict=False)[1], own(tokens))


def test_a_classifier_learns_and_is_saved_with_its_code(keep: Keep, tokens: Tensor) -> None:
    run, _ = keep("normformer", dropout=0.1)
    folder = exported(run)
    model = auto("AutoModelForSequenceClassification", folder, num_labels=2)
    labels = torch.tensor([0, 1, 1])
    out = model(tokens, labels=labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(3):
        model(tokens, labels=labels).loss.backward()
        optimizer.step()
    saved = run.parent / "fine-tuned"
    model.eval().save_pretrained(saved)
    shutil.rmtree(folder)
    again = auto("AutoModelForSequenceClassification", saved)
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert not torch.equal(again(tokens).logits, out.logits)
    # What it had learned before is there for its other uses, too.
    states = model.model.states(tokens)
    assert torch.equal(
        auto("AutoModelForCausalLM", saved)(tokens).logits, model.model.logits(states)
    )


def test_numbers_and_several_labels_have_the_losses_of_transformers(
    keep: Keep, tokens: Tensor
) -> None:
    folder = exported(keep()[0])
    one = auto("AutoModelForSequenceClassification", folder, num_labels=1)
    numbers = torch.tensor([0.5, -1.0, 2.0])
    out = one(tokens, labels=numbers)
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - numbers).square().mean())
    several = auto("AutoModelForSequenceClassification", folder, num_labels=4)
    labels = torch.eye(4)[:3]
    out = several(tokens, labels=labels)
    chances = out.logits.sigmoid()
    by_hand = -(labels * chances.log() + (1 - labels) * (1 - chances).log()).mean()
    torch.testing.assert_close(out.loss, by_hand)


@pytest.mark.parametrize("cache", [None, True])
def test_what_is_generated_is_what_the_model_says_next(keep: Keep, cache: bool | None) -> None:
    run, own = keep()
    folder = exported(run)
    model = auto("AutoModelForCausalLM", folder)
    tokenizer = auto("AutoTokenizer", folder)
    texts = ["ab", "nabla"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    made = model.generate(
        **batch, max_new_tokens=5, do_sample=False, eos_token_id=None, use_cache=cache
    )
    for text, row in zip(texts, made, strict=True):
        tokens = torch.tensor([[*text.encode()]])
        for _ in range(5):
            tokens = torch.cat([tokens, own(tokens)[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(row[-tokens.shape[1] :], tokens[0])


def test_the_class_by_its_name_runs_no_code_of_the_folder(keep: Keep, tokens: Tensor) -> None:
    from gradlab.integrations.modeling_gradlab import GradlabForCausalLM

    run, own = keep()
    folder = exported(run)
    (folder / "modeling_gradlab.py").write_text("raise SystemExit('ran')")
    model = GradlabForCausalLM.from_pretrained(folder)
    assert torch.equal(model(tokens).logits, own(tokens))
    model.save_pretrained(run.parent / "again")  # which puts the right file beside the weights
    again = auto("AutoModelForCausalLM", run.parent / "again")
    assert torch.equal(again(tokens).logits, own(tokens))


def test_a_larger_vocabulary_is_saved(keep: Keep, tokens: Tensor) -> None:
    run, own = keep()
    model = auto("AutoModelForCausalLM", exported(run))
    model.resize_token_embeddings(260, mean_resizing=False)
    torch.testing.assert_close(model(tokens).logits[..., :256], own(tokens), rtol=0, atol=1e-5)
    model.save_pretrained(run.parent / "larger")
    larger = auto("AutoModelForCausalLM", run.parent / "larger")
    assert larger(tokens).logits.shape == (3, 9, 260)
    assert torch.equal(larger(tokens).logits, model(tokens).logits)


def test_a_model_of_the_config_alone_starts_as_gradlabs(keep: Keep, tokens: Tensor) -> None:
    run, own = keep()
    config = transformers.AutoConfig.from_pretrained(exported(run), trust_remote_code=True)
    assert config.max_position_embeddings == own.config.max_seq_len
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    torch.manual_seed(3)
    made = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
    torch.manual_seed(3)
    assert torch.equal(made(tokens).logits, gradlab.build_model(own.config).eval()(tokens))


def test_a_switch_of_a_newer_gradlab_is_refused(keep: Keep) -> None:
    from gradlab.integrations.modeling_gradlab import GradlabConfig, GradlabForCausalLM

    fields = keep()[1].config.model_dump()
    with pytest.raises(GradlabError, match="unknown key of ModelConfig 'later'"):
        GradlabForCausalLM(GradlabConfig(model={**fields, "later": True}))
