"""Faults as rows."""

from gradlab.probes.faults import Fault, fault_rows
from gradlab.runs.schema import arrow_table


def test_a_fault_is_a_row_of_its_table() -> None:
    faults = [
        Fault(3, "gradient", "blocks.2.fc1.weight", "absent", numel=6),
        Fault(4, "buffer", "bn.running_mean", "nan", rank=1, order=0, count=2, numel=4),
    ]
    rows = arrow_table("faults", fault_rows(faults)).to_pylist()
    assert [row["layer"] for row in rows] == [2, None]
    assert [row["op"] for row in rows] == ["fc1", "running_mean"]
    for fault, row in zip(faults, rows, strict=True):
        assert {name: row[name] for name in vars(fault)} == vars(fault)
