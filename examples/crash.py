"""A step that breaks in a Hugging Face model is kept, and done again in another process.

pip install 'gradlab-diagnostics[transformers]'
python examples/crash.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import gradlab

folder = f"{tempfile.mkdtemp()}/crash"
sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 64, "n_positions": 16}
config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation="eager")

torch.manual_seed(0)
model = GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

with (
    gradlab.emulated_fp16(),  # a GPU's FP16 on any CPU
    gradlab.attach(model, optimizer, scaler=scaler, every=10, keep=folder),
):
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 100.0 if step == 7 else 1e-3  # a slip in the schedule
        tokens = torch.randint(64, (8, 16))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(input_ids=tokens, labels=tokens).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

# From here on, in any process: a model of the same architecture, with whatever weights.
model = GPT2LMHeadModel(config)
again = gradlab.replay(folder, model)
print(again)
print(again.run.table("overflows")[["site", "direction", "kind"]].head(3))
for precision in ("bf16", "fp32"):
    print(gradlab.replay(folder, model, loss=lambda out, _: out.loss, precision=precision))
