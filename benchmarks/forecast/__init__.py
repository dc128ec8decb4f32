"""How early an overflow is foreseen, and how often in vain, beside what others watch.

    python -m benchmarks.forecast --folder studies/forecast

Trains small models in emulated FP16 (nano with 3 layers, one thread): for each seed and
architecture a ramp of the learning rate until the run breaks, and a constant rate, 0.01 or 0.05, at
which it lasts. What is there already is kept. A signal warns where it passes its threshold: the
lowest that gives false alarms in no more than 5 % of the steady runs of the first seeds. What is
printed is of the others, `--held-out` and up:

    warned         breaks with a warning 30 steps before or earlier
    lead           steps from the first warning to the break, or to an overflow of the forward pass
                   that was seen before it; median and range
    false alarms   steady runs with a warning

--quick runs it in a minute, on models too small to mean anything.
"""
