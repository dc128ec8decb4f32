"""What happened in a run, for a person: `gradlab inspect` as data."""

import pandas as pd

from gradlab.analyses.finding import Finding
from gradlab.analyses.findings_absent import absent_findings
from gradlab.analyses.findings_course import course_findings, nonfinite_losses, skipped_steps
from gradlab.analyses.findings_depth import (
    entropy_findings,
    state_depth_findings,
    vanishing_findings,
)
from gradlab.analyses.findings_faults import input_findings, state_findings
from gradlab.analyses.findings_forecast import forecast_findings
from gradlab.analyses.findings_gradients import mismatch_findings, nonfinite_gradients
from gradlab.analyses.findings_growth import growth_findings
from gradlab.analyses.findings_headroom import headroom_findings
from gradlab.analyses.findings_loop import (
    kept_findings,
    loop_findings,
    never_cleared,
    not_looked_at,
)
from gradlab.analyses.findings_optimizer import optimizer_findings
from gradlab.analyses.findings_overflow import overflow_findings
from gradlab.analyses.findings_scales import lost_updates, scale_findings
from gradlab.analyses.findings_scores import score_findings
from gradlab.analyses.findings_zeros import zero_findings
from gradlab.analyses.remedies import overflow_remedies
from gradlab.probe_names import PROBES, ProbeName
from gradlab.runs.reader import Run


def findings(run: Run, *, top: int = 5) -> list[Finding]:
    """What happened in a run, the most important first, and behind it what is so of every run.

    A run may be of any loop, unfinished, and lack any table: what cannot be told is left out, and
    the last finding names the probes that would have recorded it.

    Args:
        run: A run.
        top: Rows of the tables that list the worst of something.

    Raises:
        GradlabError: A recorded table is damaged.
    """
    tables: dict[str, pd.DataFrame] = {
        name: run.table(name)
        for name in run.tables
        if name in ("overflows", "faults", "forecasts") or name in PROBES
        if name not in run.info.get("own_tables", {})
    }
    steps = run.table("steps")
    headroom, grad_norms, faults = (tables.get(n) for n in ("headroom", "grad_norms", "faults"))
    course = course_findings(run, steps, faults)
    found: list[Finding] = []
    if "overflows" in tables:
        exact = run.info.get("events") == "exact"
        found += overflow_findings(
            steps, tables["overflows"], headroom, run.verdict, faults, exact=exact
        )
        if faults is None or never_cleared(faults).empty:  # else it is what helps
            found += overflow_remedies(tables["overflows"], steps, run.verdict)
    if faults is not None:
        found += input_findings(faults)
        found += state_findings(faults, steps, grad_norms, top=top)
        found += absent_findings(faults, grad_norms, headroom)
        found += zero_findings(faults, grad_norms, headroom)
    found += growth_findings(steps, headroom)
    if "forecasts" in tables:
        found += forecast_findings(tables["forecasts"], tables["headroom"], tables["overflows"])
    if "headroom" in tables:
        found += headroom_findings(tables["headroom"], top=top)
    found += _nonfinite(run, steps, tables, top)
    found += kept_findings(run)
    if "faults" in tables:
        found += loop_findings(tables["faults"])
    if "grad_norms" in tables:
        found += mismatch_findings(tables["grad_norms"], top=top)
        found += vanishing_findings(tables["grad_norms"], top=top)
    if "hidden" in tables:
        found += state_depth_findings(tables["hidden"], top=top)
    if "entropy" in tables:
        found += entropy_findings(tables["entropy"], top=top)
    if "scores" in tables:
        found += score_findings(tables["scores"], tables.get("headroom"), top=top)
    if "scales" in tables:
        found += scale_findings(tables["scales"], top=top)
        if grad_norms is not None:
            dtypes = run.info.get("narrow_scales", {})
            found += lost_updates(tables["scales"], grad_norms, steps, dtypes)
    if "optimizer" in tables:
        found += optimizer_findings(tables["optimizer"], top=top)
    facts = [finding for finding in found if finding.is_fact]
    found = [*course, *(finding for finding in found if not finding.is_fact)]
    looked = any(len(rows) for rows in tables.values())
    ended_well = run.status != "error" and not _broke(run)
    if looked and ended_well and all(finding.is_fact for finding in found):
        found.append(Finding("findings", "None: nothing that was looked at stands out."))
    return [*found, *not_looked_at(run), *facts, *_not_there(run, tables)]


def _broke(run: Run) -> bool:
    return run.verdict is not None and run.verdict.broke


def _nonfinite(
    run: Run, steps: pd.DataFrame, tables: dict[str, pd.DataFrame], top: int
) -> list[Finding]:
    gradients = tables.get("grad_norms")
    return [
        *nonfinite_losses(run, steps, tables.get("faults"), tables.get("headroom")),
        *nonfinite_gradients(steps, gradients, attached=run.attached, top=top),
        *skipped_steps(steps, tables.get("overflows"), top=top),
    ]


def _not_there(run: Run, tables: dict[str, pd.DataFrame]) -> list[Finding]:
    found = []
    empty = [name for name in PROBES if name in tables and tables[name].empty]
    if empty:
        found.append(Finding("no rows yet", f"Nothing was recorded in {', '.join(empty)}."))
    missing = {n: probe for n, probe in PROBES.items() if not _looked(run, n, tables)}
    if run.attached and {"grad_norms", "headroom"} <= tables.keys():
        missing.pop("scales", None)  # attach takes them by default, where a model has any
    if missing:
        how = "--probes all"
        if run.attached:
            first = next(iter(missing.values()))
            how = (
                f"gradlab.attach(…, probes=[gradlab.probes.{first.kind}(), …]), which names all "
                "that is to be recorded"
            )
        found.append(Finding("not recorded", f"{', '.join(missing)}; to have them: {how}."))
    losses = run.table("steps", ["loss"])["loss"]
    lost = "faults" in tables and (tables["faults"]["what"] == "loss").any()
    if run.attached and len(losses) and losses.isna().all() and not lost:
        found.append(
            Finding(
                "no loss",
                "It was not told: probes.loss(loss), called before the optimizer's step, records "
                "it, and what it did can be said.",
            )
        )
    return found


def _looked(run: Run, name: ProbeName, tables: dict[str, pd.DataFrame]) -> bool:
    """Whether a probe was there: it is named, or it alone can have filled a table that is."""
    if not run.attached:
        return name in run.config.record.probes
    own = PROBES[name].tables[0]
    alone = sum(own in other.tables for other in PROBES.values()) == 1
    return PROBES[name].kind in run.info.get("probes", ()) or (alone and own in tables)
