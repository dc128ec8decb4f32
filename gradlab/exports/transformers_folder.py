"""A run's model as a folder that transformers loads: plain files, written without it."""

import importlib.util
from pathlib import Path
from typing import Any

from gradlab.data.token_files import is_token_corpus
from gradlab.exports.tokenizer_files import NUL, byte_tokenizer, to_json
from gradlab.exports.trained import Trained
from gradlab.training.weights import WEIGHTS_FILE

MODELING = "modeling_gradlab"
"""The module of gradlab.integrations with the classes: its text goes beside the weights."""

CLASSES = {
    "AutoConfig": "GradlabConfig",
    "AutoModelForCausalLM": "GradlabForCausalLM",
    "AutoModelForSequenceClassification": "GradlabForSequenceClassification",
}
"""What transformers looks for → the class that it finds."""

_ROLES = ("pad_token_id", "bos_token_id", "eos_token_id")


def transformers_files(trained: Trained) -> tuple[dict[str, bytes], list[str]]:
    """The files of the folder by name, and a sentence for what it lacks.

    The weights are the run's file as it is: these classes have its names.
    """
    model, notes = trained.config.model, []
    config: dict[str, Any] = {
        "model_type": "gradlab",
        "architectures": [CLASSES["AutoModelForCausalLM"]],
        "auto_map": {auto: f"{MODELING}.{name}" for auto, name in CLASSES.items()},
        "dtype": str(trained.model.embed.weight.dtype).removeprefix("torch."),
        "model": model.model_dump(mode="json"),
    }
    files = {WEIGHTS_FILE: trained.weights, f"{MODELING}.py": _text_of_classes()}
    generation: dict[str, Any] = {"use_cache": False}
    if trained.config.data.tokenizer is None and not is_token_corpus(trained.config.data.corpus):
        ids = dict.fromkeys(_ROLES, NUL)
        config, generation = {**config, **ids}, {**generation, **ids}
        files |= byte_tokenizer(model.max_seq_len)
    else:
        notes.append(
            f"There is no tokenizer in it: the run has none that made the tokens of "
            f"{trained.config.data.corpus}."
        )
    files["config.json"] = to_json(config)
    files["generation_config.json"] = to_json(generation)
    return files, notes


def _text_of_classes() -> bytes:
    """Importing them would need transformers."""
    found = importlib.util.find_spec(f"gradlab.integrations.{MODELING}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_bytes()
