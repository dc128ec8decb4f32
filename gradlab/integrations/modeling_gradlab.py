"""gradlab's models as classes of transformers.

`gradlab export --to transformers` puts this file beside the weights, and so does `save_pretrained`:
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` runs it. The model itself is
gradlab's own, with every switch that it has, so gradlab must be installed.

    from gradlab.integrations.modeling_gradlab import GradlabForCausalLM

    model = GradlabForCausalLM.from_pretrained(folder)

loads the same without running what lies in the folder.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

try:
    from gradlab import GradlabError, ModelConfig, build_model
    from gradlab.extra import needs_extra
except ImportError as error:  # transformers would name the package on PyPI that is another one
    raise ImportError(
        "this model needs gradlab: pip install 'gradlab-diagnostics[transformers]'."
    ) from error

with needs_extra("transformers", "gradlab.integrations.modeling_gradlab", "transformers"):
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import (
        CausalLMOutput,
        MaskedLMOutput,
        SequenceClassifierOutput,
    )
    from transformers.utils import can_return_tuple

_NOT_TAKEN = ("inputs_embeds", "position_ids", "past_key_values")
"""What changes what a model of transformers says, and has no meaning here."""


class GradlabConfig(PretrainedConfig):
    """A model of gradlab, under the names that transformers and its harnesses ask for.

    Args:
        model: The fields of `gradlab.ModelConfig`, as a run's `run.json` has them.
        kwargs: What every config of transformers has: labels, special tokens, dtype.
    """

    model_type = "gradlab"

    def __init__(self, model: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.model = dict(model or {})  # transformers makes an empty one to compare with
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int | None:
        """Token ids."""
        return self.model.get("vocab_size")

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.model["vocab_size"] = size  # by resize_token_embeddings

    @property
    def hidden_size(self) -> int | None:
        """Width of the residual stream."""
        return self.model.get("d_model")

    @property
    def num_hidden_layers(self) -> int | None:
        """Blocks."""
        return self.model.get("n_layers")

    @property
    def num_attention_heads(self) -> int | None:
        """Heads of each."""
        return self.model.get("n_heads")

    @property
    def max_position_embeddings(self) -> int | None:
        """Tokens of the longest sequence."""
        return self.model.get("max_seq_len")


class GradlabPreTrainedModel(PreTrainedModel):
    """What the classes below share: the model, and states of its tokens whatever the padding."""

    config_class = GradlabConfig
    base_model_prefix = "model"
    _keep_in_fp32_modules_strict = ["running_mean", "running_var"]  # noqa: RUF012

    def __init__(self, config: GradlabConfig) -> None:
        super().__init__(config)
        # In from_pretrained the default device is meta, and no values are drawn.
        self.model = build_model(ModelConfig(**config.model))

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, which are the output's too."""
        return self.model.embed

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace them."""
        self.model.embed = value

    def states(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: Any,
    ) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        """(B, T) → (B, T, d_model): each row as if its padding were not there, on either side.

        Positions count the tokens that are not padding; what is given of padding means nothing.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 where a token is padding.
            output_hidden_states: Whether to give the stream of all layers; None: as the config has.
            output_attentions: Whether to give all probabilities; None: as the config has.
            others: What models of transformers may be given: some of it these cannot take.

        Returns:
            The states; and what is asked for beside them. `hidden_states`: the stream before each
            block, and the states. `attentions`: of each block (B, n_heads, T, T), each row 1 in
            sum.

        Raises:
            GradlabError: The mask has another shape than the tokens, they are too long, or
                something is given or asked for that these models have not.
        """
        if given := [name for name in _NOT_TAKEN if others.get(name) is not None]:
            raise GradlabError(
                f"a model of gradlab takes no {given[0]}: give its tokens' input_ids."
            )
        if input_ids is None:
            raise GradlabError("a model of gradlab needs input_ids, the (B, T) ids of its tokens.")
        config, order, visible = self.config, None, None
        if attention_mask is not None:
            order, visible = self._tokens_first(input_ids, attention_mask)
        hidden = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        probable = config.output_attentions if output_attentions is None else output_attentions
        streams: list[Tensor] = []
        probabilities: list[Tensor] = []
        with ExitStack() as hooks:
            for block in self.model.blocks if hidden else ():
                hook = block.register_forward_pre_hook(lambda _, given: streams.append(given[0]))
                hooks.callback(hook.remove)
            for softmax in self._softmaxes() if probable else ():
                hook = softmax.register_forward_hook(lambda *seen: probabilities.append(seen[2]))
                hooks.callback(hook.remove)
            tokens = input_ids if order is None else input_ids.gather(1, order)
            streams.append(self.model.states(tokens, visible))
        if order is not None:
            at = order.argsort(dim=1)
            streams = [x.gather(1, at[..., None].expand_as(x)) for x in streams]
            probabilities = [
                x.gather(2, at[:, None, :, None].expand_as(x)).gather(
                    3, at[:, None, None].expand_as(x)
                )
                for x in probabilities
            ]
        more = {"hidden_states": tuple(streams)} if hidden else {}
        if probable:
            more["attentions"] = tuple(probabilities)
        return streams[-1], more

    def _tokens_first(
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T) where each row's tokens stand, then its padding; and what a masked model sees."""
        if attention_mask.shape != input_ids.shape:
            raise GradlabError(
                f"the attention_mask is {tuple(attention_mask.shape)}, the input_ids are "
                f"{tuple(input_ids.shape)}: give a 1 for each token and a 0 for each padding."
            )
        # Behind a row's tokens, padding has later positions, which a causal model does not see.
        order = (attention_mask == 0).long().argsort(dim=1, stable=True)
        if self.model.config.is_causal:
            return order, None
        visible = attention_mask.gather(1, order) != 0
        visible[:, 0] = True  # a row of padding alone has something to see, too
        return order, visible

    def _softmaxes(self) -> list[Any]:
        """Of each block, what gives its attention's probabilities."""
        if self.model.config.attention != "materialised":
            raise GradlabError(
                f"output_attentions: the kernel of attention = {self.model.config.attention!r} "
                "shows no probabilities. Leave it out, or load the model with the same weights and "
                "a config whose .model['attention'] is 'materialised'."
            )
        return [block.attention.softmax for block in self.model.blocks]

    def _init_weights(self, module: nn.Module) -> None:
        """Make what no file has: buffers, and the classifier of a model that had none."""
        if module is getattr(self, "score", None):
            nn.init.normal_(module.weight, std=0.02)
        elif list(module.buffers(recurse=False)):
            # As when it leaves the meta device: gradlab's modules make their buffers anew.
            module._apply(lambda x: x, recurse=False)


class GradlabForCausalLM(GradlabPreTrainedModel, GenerationMixin):
    """Next-token logits. There is no cache: `generate` reads the whole text for each token.

    Raises:
        GradlabError: The model was trained to fill in masks.
    """

    def __init__(self, config: GradlabConfig) -> None:
        super().__init__(config)
        if not self.model.config.is_causal:
            raise GradlabError(
                "the model was trained with objective = 'masked', and says no next token: load it "
                "by AutoModelForMaskedLM."
            )
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits, and with labels the loss.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 where a token is padding.
            labels: (B, T), the same tokens, with −100 where the loss leaves them out.
            kwargs: Of `states`, and of transformers' loss, as num_items_in_batch.
        """
        states, more = self.states(input_ids, attention_mask, **kwargs)
        logits = self.model.logits(states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutput(loss=loss, logits=logits, **more)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text so far, and what is asked for beside the logits."""
        asked = {name: kwargs.get(name) for name in ("output_hidden_states", "output_attentions")}
        return {"input_ids": input_ids, "attention_mask": attention_mask, **asked}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


class GradlabForMaskedLM(GradlabPreTrainedModel):
    """Logits of what stands behind each mask.

    Raises:
        GradlabError: The model was trained to say the next token.
    """

    def __init__(self, config: GradlabConfig) -> None:
        super().__init__(config)
        if self.model.config.is_causal:
            raise GradlabError(
                "the model was trained with objective = 'causal', and has no mask: load it by "
                "AutoModelForCausalLM."
            )
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits, and with labels the loss.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 where a token is padding.
            labels: (B, T), the tokens to find, with −100 where the loss leaves them out.
            kwargs: Of `states`, and of transformers' loss, as num_items_in_batch.
        """
        states, more = self.states(input_ids, attention_mask, **kwargs)
        logits = self.model.logits(states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, **more)


class GradlabForSequenceClassification(GradlabPreTrainedModel):
    """A linear map of the state of the whole text.

    It is the last token's in a causal model, which has seen the text, and the mean over the tokens
    in a masked one, whose training has no token for it.
    """

    def __init__(self, config: GradlabConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(self.model.config.d_model, config.num_labels, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, num_labels), and with labels the loss.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 where a token is padding.
            labels: (B,) classes, (B,) or (B, num_labels) numbers, as transformers has them.
            kwargs: Of `states`, and of transformers' loss, as num_items_in_batch.
        """
        states, more = self.states(input_ids, attention_mask, **kwargs)
        is_token = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if attention_mask is not None:
            is_token = attention_mask != 0
        logits = self.score(self._of_text(states, is_token))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
        return SequenceClassifierOutput(loss=loss, logits=logits, **more)

    def _of_text(self, states: Tensor, is_token: Tensor) -> Tensor:
        """(B, T, d_model) states → (B, d_model)."""
        if not self.model.config.is_causal:
            weights = is_token / is_token.sum(1, keepdim=True).clamp(min=1)
            return torch.einsum("btd,bt->bd", states, weights.to(states.dtype))
        places = torch.arange(states.shape[1], device=states.device)
        last = (places * is_token).argmax(1)
        return states[torch.arange(len(last), device=last.device), last]


# save_pretrained puts this file beside the weights that it writes.
GradlabConfig.register_for_auto_class()
GradlabForCausalLM.register_for_auto_class("AutoModelForCausalLM")
GradlabForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
GradlabForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
