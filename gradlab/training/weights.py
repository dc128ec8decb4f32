"""A trained model's weights, in the folder of its run.

    model.safetensors

holds each tensor of the model under `model.` and its own name, in its own dtype. What is tied is
there once: logits have no weights of their own.
"""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gradlab.errors import GradlabError, in_words
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.transformer import Transformer
from gradlab.runs.files import read_regular, write_whole

WEIGHTS_FILE = "model.safetensors"

_PREFIX = "model."
_LARGEST = 1 << 42


def save_weights(folder: Path, model: Transformer) -> None:
    """Write a model's weights into a folder.

    Raises:
        GradlabError: They cannot be written.
    """
    tensors = {f"{_PREFIX}{name}": x.cpu() for name, x in model.state_dict().items()}
    # Whose tensors they are: what other readers of such files ask for.
    write_whole(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, {"format": "pt"}))


def read_weights(folder: Path) -> bytes:
    """The file that `save_weights` wrote.

    Raises:
        FileNotFoundError: There is none.
        GradlabError: It cannot be read.
    """
    return read_regular(folder / WEIGHTS_FILE, at_most=_LARGEST)


def model_of(content: bytes, config: ModelConfig) -> Transformer:
    """The model whose weights a file has, on the CPU, in their dtype.

    Raises:
        GradlabError: The file is damaged, or has the weights of another model.
    """
    try:
        given = safetensors.torch.load(content)
    except SafetensorError as error:
        raise GradlabError(f"{WEIGHTS_FILE} is damaged ({in_words(error)}).") from error
    given = {name.removeprefix(_PREFIX): x for name, x in given.items()}
    model = build_model(config, device="meta")
    if "embed.weight" in given:
        model = model.to(given["embed.weight"].dtype)
    if _shapes(model.state_dict()) != _shapes(given):
        raise GradlabError(f"{WEIGHTS_FILE} has the weights of another model than the run's.")
    model = model.to_empty(device="cpu")
    model.load_state_dict(given)
    return model.eval()


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[object, object]]:
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}
