"""A Pre-LN block as articles print it, made a language model, and what probes say of it.

python examples/article_block.py
"""

import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import AttentionEntropy, GradientNorms, HiddenStates


class Block(nn.Module):
    """x = x + MHA(LN(x)); x = x + FFN(LN(x)), sequence first, with no mask anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attn = nn.MultiheadAttention(32, 4)
        self.ffn = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 32))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn(h, h, h)[0]
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


torch.manual_seed(0)
embed, blocks = nn.Embedding(64, 32), [Block() for _ in range(6)]
model = nn.Sequential(embed, *blocks, nn.LayerNorm(32), nn.Linear(32, 64))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
kinds = [GradientNorms(), HiddenStates(), AttentionEntropy()]
with gradlab.attach(model, optimizer, probes=kinds, every=10) as probes:
    for _ in range(41):
        tokens = torch.randint(64, (17, 8))
        logits = model(tokens[:-1]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, tokens[1:].flatten())
        probes.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
print(gradlab.inspect(probes.run()))

# Tokens look more alike block after block, as each attends to all about equally: to those to come
# too, which no probe knows to be wrong. One backward pass shows it.
x = embed(tokens[:-1]).detach().requires_grad_()
model[1:](x)[0].sum().backward()
seen = x.grad.abs().sum((1, 2)).count_nonzero()
print(f"\nwhat comes after the first token depends on {seen} tokens: this attention is not causal")
