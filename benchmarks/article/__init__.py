"""What an article says of normalisation and depth, judged on models that train on a laptop.

    python -m benchmarks.article --folder studies/article

The article is "Transformer Normalization and Depth" (AI/ML Resources, NLP & LLMs). Trains the
studies of `studies` and the loop of examples/norms_off.py; what is there already is kept. Then
writes the tables that the claims are read from (`scans.csv`, `losses.csv`, `loops.csv`) and judges
them by the rule of `gradlab claims`: `claims.csv`, and a table on the screen.

--recorded trains nothing and judges by the tables that are in the folder. docs/article.md goes
through what came out.
"""
