"""From runs to figures, cell by cell: open it in an editor that knows `# %%`, or run it whole.

python examples/run_to_figures.py
"""

# %% Train two small models on the same batches, and record what figures need
import gradlab
from gradlab.analyses.gradient_study import study_gradients, study_mismatch
from gradlab.analyses.headroom import tightest_by_layer
from gradlab.config import RecordConfig, RunConfig, ScheduleConfig
from gradlab.figures.gradients import gradient_by_layer
from gradlab.figures.headroom import headroom_to_break
from gradlab.figures.save import save
from gradlab.figures.style import figure_of

runs = [
    gradlab.train(
        RunConfig(
            arch=arch,
            size="small",
            model=gradlab.model_config(arch, "nano", d_model=32, d_ff=128, max_seq_len=32),
            schedule=ScheduleConfig(kind="constant", lr=1e-3, warmup_steps=10),
            steps=50,
            record=RecordConfig(probes=("headroom", "grad_norms", "scales"), every=2),
        ),
        f"{arch}-run",
    )
    for arch in ("pre-ln", "normformer")
]
runs[0]

# %% A run is tables; anything that reads Parquet reads them too
run = gradlab.load("normformer-run")
print(run.table("steps")[["step", "lr", "loss", "grad_norm"]].tail(3))

# %% Gradients by layer, and how unequal early and late layers are
gradients = study_gradients(runs, length=20)
print(study_mismatch(gradients).query("op == 'fc2'")[["arch", "window", "ratio", "slope"]])
axes = gradient_by_layer(gradients, op="fc2", window="late")

# %% Bits left before FP16 would overflow, at the tightest site of each layer
tightest = tightest_by_layer(run.table("headroom"), run.table("steps"))
road = headroom_to_break(tightest)

# %% To files, at the width of a paper's column
for name, drawn in (("gradients", axes), ("headroom", road)):
    print(*save(figure_of(drawn), name, ("png", "pdf", "svg")))
