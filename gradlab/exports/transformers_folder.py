"""A run's model as a folder that transformers loads: plain files, written without it."""

import importlib.util
from pathlib import Path

from gradlab.exports.tokenizer_files import TokenizerFiles, to_json, tokenizer_of
from gradlab.exports.trained import Trained
from gradlab.training.weights import WEIGHTS_FILE

MODELING = "modeling_gradlab"
"""The module of gradlab.integrations with the classes: its text goes beside the weights."""

CLASSES = {
    "AutoConfig": "GradlabConfig",
    "AutoModelForCausalLM": "GradlabForCausalLM",
    "AutoModelForMaskedLM": "GradlabForMaskedLM",
    "AutoModelForSequenceClassification": "GradlabForSequenceClassification",
}
"""What transformers looks for → the class that it finds."""


def transformers_files(trained: Trained) -> tuple[dict[str, bytes], list[str]]:
    """The files of the folder by name, and a sentence for what it lacks.

    The weights are the run's file as it is: these classes have its names.

    Raises:
        GradlabError: The run's tokenizer was changed.
    """
    model, notes = trained.config.model, []
    found = tokenizer_of(trained.run)
    if found is None:
        notes.append(
            "There is no tokenizer in it: the run has none that made the tokens of "
            f"{trained.config.data.corpus}."
        )
    tokenizer = found or TokenizerFiles({}, {})
    config = {
        "model_type": "gradlab",
        "architectures": [CLASSES[f"AutoModelFor{'Causal' if model.is_causal else 'Masked'}LM"]],
        "auto_map": {auto: f"{MODELING}.{name}" for auto, name in CLASSES.items()},
        "dtype": str(trained.model.embed.weight.dtype).removeprefix("torch."),
        "model": model.model_dump(mode="json"),
        **tokenizer.ids,
    }
    files = {
        "config.json": to_json(config),
        WEIGHTS_FILE: trained.weights,
        f"{MODELING}.py": _text_of_classes(),
        **tokenizer.files,
    }
    if model.is_causal:
        files["generation_config.json"] = to_json({**tokenizer.ids, "use_cache": False})
    return files, notes


def _text_of_classes() -> bytes:
    """Importing them would need transformers."""
    found = importlib.util.find_spec(f"gradlab.integrations.{MODELING}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_bytes()
