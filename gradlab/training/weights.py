"""A trained model's weights, in the folder of its run.

    model.safetensors

holds each tensor of the model under `model.` and its own name, in its own dtype. What is tied is
there once: logits have no weights of their own.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gradlab.errors import GradlabError, in_words
from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.transformer import Transformer
from gradlab.parallel.ranks import ALONE, Ranks
from gradlab.parallel.spread import whole
from gradlab.runs.files import read_regular, write_whole

WEIGHTS_FILE = "model.safetensors"

_PREFIX = "model."
_LARGEST = 1 << 42
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def save_weights(folder: Path, model: Transformer, ranks: Ranks = ALONE) -> None:
    """Write a model's weights into a folder. A collective call, if several processes train it.

    The first process writes. Of a model that is spread over them no process ever has more than its
    part and one parameter, which all of them put together for the first.

    Raises:
        GradlabError: They cannot be written.
    """
    tensors = {f"{_PREFIX}{name}": x for name, x in model.state_dict().items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    if ranks.is_first:
        write_whole(folder / WEIGHTS_FILE, _content(tensors))
        return
    for x in tensors.values():
        whole(x)


def _content(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """A safetensors file, a tensor at a time: safetensors itself would have all of them at once.

    Args:
        tensors: The wider come first, so that each begins at a multiple of its entries' size.
    """
    # Whose tensors they are: what other readers of such files ask for.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, x in tensors.items():
        begin, end = end, end + x.numel() * x.itemsize
        header[name] = {
            "dtype": _DTYPES[x.dtype],
            "shape": [*x.shape],
            "data_offsets": [begin, end],
        }
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    yield len(told).to_bytes(8, "little") + told
    for x in tensors.values():
        yield whole(x).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
    if shapes(model.state_dict()) != shapes(given):
        raise GradlabError(f"{WEIGHTS_FILE} has the weights of another model than the run's.")
    model = model.to_empty(device="cpu")
    model.load_state_dict(given)
    return model.eval()


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of each."""
    return {name: (x.shape, x.dtype) for name, x in tensors.items()}
