"""A run's model, exported and fine-tuned by Hugging Face's Trainer to tell lines of a CSV file.

pip install 'gradlab-diagnostics[transformers]'
python examples/finetune_classifier.py
"""

import csv
import random
import tempfile
from pathlib import Path

import torch
import transformers

import gradlab

folder = Path(tempfile.mkdtemp())
draw = random.Random(0)
verses = [f"a {draw.choice(['rose', 'thorn'])} is {draw.choice('abc')} rose" for _ in range(400)]
sums = [f"{draw.randrange(99)} + {draw.randrange(99)} = ?" for _ in range(400)]
(folder / "text.txt").write_text("\n".join(verses + sums))
lines = [*(f"{v},0" for v in verses[:40]), *(f"{s},1" for s in sums[:40])]
(folder / "lines.csv").write_text("\n".join(lines))

text, out = str(folder / "text.txt"), folder / "run"
run = gradlab.train("normformer", "nano-d32", corpus=text, steps=30, out=out, keep_weights=True)
exported = gradlab.export(run).folder

tokenizer = transformers.AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
model = transformers.AutoModelForSequenceClassification.from_pretrained(
    exported, num_labels=2, trust_remote_code=True
)
rows = csv.reader((folder / "lines.csv").read_text().splitlines())
arguments = transformers.TrainingArguments(
    output_dir=str(folder / "trainer"),
    max_steps=30,
    learning_rate=3e-3,
    report_to="none",
    save_strategy="no",
    use_cpu=True,
)
data = [{**tokenizer(line), "labels": int(label)} for line, label in rows]
transformers.Trainer(model, arguments, train_dataset=data, processing_class=tokenizer).train()

batch = tokenizer(["a thorn is c rose", "7 + 35 = ?"], return_tensors="pt", padding=True)
with torch.no_grad():
    print("verse, sum:", model.eval()(**batch).logits.argmax(-1).tolist())
