"""The run directory: `run.json` and one folder of Parquet parts a table. No torch here.

`writer` makes one, `memory` keeps the same records without a disk, `reader` gives either back
as a `Run`; `schema` has the tables' columns, `verdict` how a run ended.
"""
