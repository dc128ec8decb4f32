"""Hugging Face's Trainer with probes: one more callback.

pip install 'gradlab-diagnostics[transformers]'
python examples/huggingface_trainer.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import gradlab
from gradlab.integrations.huggingface import GradlabCallback

folder = tempfile.mkdtemp()
config = GPT2Config(
    n_layer=3, n_embd=32, n_head=4, vocab_size=64, n_positions=16, bos_token_id=0, eos_token_id=0
)
tokens = torch.randint(64, (64, 16), generator=torch.Generator().manual_seed(0))
arguments = TrainingArguments(
    output_dir=f"{folder}/trainer",
    max_steps=12,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    report_to="none",
    save_strategy="no",
    use_cpu=True,
)

# `with` notes how a training ended that raised; callbacks=[GradlabCallback(...)] does without.
with GradlabCallback(f"{folder}/run", every=4) as callback:
    Trainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[callback],
    ).train()

run = gradlab.load(f"{folder}/run")
print(run.table("steps")[["step", "lr", "loss"]].tail(3))
weights = run.table("grad_norms").query("op == 'fc2' and param.str.endswith('weight')")
print(weights.groupby("layer")["grad_l1"].mean())
