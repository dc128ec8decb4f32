"""Decoder-only transformers whose normalisations are switches.

`presets` names architectures and sizes, `build` makes a model from a config, `fairseq` loads a
checkpoint. The rest is one part of the model a file. Sites that a hook can reach are the outputs
of modules: a switched-off operation has no module.

Dtype rule, the same on every device: matrix products run in what `torch.autocast` says, else in
the weights' dtype; softmax, activation and norm statistics are computed in fp32 or wider; the
result of a softmax, an activation, a norm and a residual sum has the weights' dtype.
"""
