"""How attention is spread: on one token, or over all alike."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.utils.hooks import RemovableHandle

from gradlab.probes.attention.bounds import FusedCall, masked, some_scores
from gradlab.probes.attention.calls import AttentionCalls, Caller
from gradlab.probes.cadence import Cadence
from gradlab.probes.engine.captured import Captured
from gradlab.probes.engine.compiled import CompiledLater
from gradlab.probes.probe import Columns, Probe, Reading, Step, Subject
from gradlab.probes.roles import role
from gradlab.probes.selection import Patterns, select
from gradlab.probes.unseen import Unseen


class AttentionEntropy(Probe):
    """−Σ p ln p of each query's attention, over ln(visible keys): the mean of a head.

    1 is uniform, 0 is all on one token. Queries that see one key alone have no entropy and are left
    out, as are entries that are masked: −inf, or half their dtype's minimum or less, or what was
    filled in with −10⁴ or less. Where `scaled_dot_product_attention` hides the scores they are
    computed aside, in fp32, with the biases of the mask: about once more the attention's forward
    pass. The model's own way of computing stays as it is.

    Of several passes in a step the first is looked at; passes without gradients are not. Steps off
    the cadence have no rows, events or not. What cannot be seen is what `AttentionScores` cannot
    see. A site is the innermost module that was being executed, in gradlab's own models the
    softmax; `head` is null where heads cannot be told apart.

    Args:
        at: Patterns over the names of modules.
        every: Cadence; None for that of `attach`.
    """

    table = "entropy"
    looks_inside = True

    def __init__(self, at: Patterns = "*", *, every: Cadence | None = None) -> None:
        self.every = every
        self._patterns = at

    def open(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Put hooks on the modules."""
        named = {type(subject.model).__name__: subject.model, **subject.modules}
        chosen = select(named, self._patterns, "modules")
        self._sites = {module: name for name, module in chosen.items()}
        self._compiled = CompiledLater(subject.model, _COMPILED)
        self._unseen = Unseen(_UNSEEN)
        self._captured = Captured(subject.model)
        self._calls = AttentionCalls(
            subject.model, self._looking, self._wanted, self._on_scores, self._on_fused
        )
        self.begin(0)
        yield from self._calls.install()

    def begin(self, step: int) -> None:
        """Start an empty record."""
        self._seen: dict[str, tuple[Tensor, bool]] = {}
        self._forward_seen = self._backward_seen = False

    def after_backward(self, changed: Mapping[str, nn.Parameter], loss_scale: Tensor) -> None:
        """A pass with gradients was there to be seen."""
        self._backward_seen = True

    def after_step(self) -> Reading | None:
        """A row for each site and head."""
        self._calls.reset()
        if self._backward_seen:
            self._compiled.look(hooks_called=self._forward_seen)
            self._unseen.look(seen=bool(self._seen) or not self._forward_seen)
        if not self._seen:
            return None
        labels = [
            (site, head if by_head else None)
            for site, (sums, by_head) in self._seen.items()
            for head in range(len(sums))
        ]
        found = [sums for sums, _ in self._seen.values()]
        values = torch.cat([sums.to(found[0].device) for sums in found])
        return Reading(
            dict(zip(("site", "head"), zip(*labels, strict=True), strict=True)),
            {"total": values[:, 0], "queries": values[:, 1]},
        )

    def joined(self, readings: Sequence[Columns]) -> Columns:
        """The mean over the queries of all processes."""
        sums: dict[tuple[str, int | None], list[float]] = {}
        for reading in readings:
            for site, head, *numbers in zip(*(reading[name] for name in _READ), strict=True):
                before = sums.get((site, head), [0.0, 0.0])
                sums[site, head] = [a + b for a, b in zip(before, numbers, strict=True)]
        rows = [(*place, *numbers) for place, numbers in sums.items()]
        return dict(zip(_READ, zip(*rows, strict=True), strict=True))

    def rows(self, step: Step, columns: Columns) -> Mapping[str, Columns]:
        """Means of sums."""
        found = zip(*(columns[name] for name in _READ), strict=True)
        rows = [
            (step.step, site, role(site)[0], head, total / queries)
            for site, head, total, queries in found
            if queries
        ]
        if not rows:
            return {}
        return {self.table: dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))}

    def _looking(self) -> bool:
        self._forward_seen = self._forward_seen or self.active
        return self.active

    def _wanted(self, module: nn.Module) -> bool:
        site = self._sites.get(module)
        wanted = self.active and site is not None and site not in self._seen
        # What torch.func's transforms compute with must not leave them.
        return wanted and peek_interpreter_stack() is None and not self._captured.now()

    def _on_scores(self, caller: Caller, scores: Tensor, masked: float) -> None:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        self._note(caller, entropies(wide.masked_fill(scores <= masked, -math.inf)))

    def _on_fused(self, caller: Caller, call: FusedCall) -> None:
        lead = torch.broadcast_shapes(call.q.shape[:-3], call.k.shape[:-3])
        shape = (lead[:-1].numel(), lead[-1], call.q.shape[-3], 2)
        sums = torch.zeros(shape, dtype=torch.float64, device=call.q.device)
        for some in some_scores(call):
            scores = some.scores
            if some.mask is not None:
                if some.mask.dtype is not torch.bool:
                    scores = scores + some.mask
                scores = scores.masked_fill(masked(some.mask), -math.inf)
            if some.later is not None:
                scores = scores.masked_fill(some.later, -math.inf)
            sums[some.batch] += entropies(scores)
        self._note(caller, sums.reshape(*lead[:-1], -1, 2))

    def _note(self, caller: Caller, sums: Tensor) -> None:
        self.saw_forward = True
        parts, by_head = caller.by_head(sums)
        self._seen[self._sites[caller.module]] = (parts.sum(0), by_head)


_READ = ("site", "head", "total", "queries")
_COLUMNS = ("step", "site", "layer", "head", "entropy")

_COMPILED = (
    "no attention entropy is recorded there. Attach AttentionEntropy to a model that is not "
    "compiled."
)

_UNSEEN = (
    "AttentionEntropy has seen no attention in a pass with gradients, neither a softmax over "
    "scores nor torch's scaled_dot_product_attention: nothing is recorded in entropy."
)


def entropies(scores: Tensor) -> Tensor:
    """Scores (..., T, S), −inf where masked → (..., 2): sum over queries, and their number.

    Of −Σ p ln p / ln(visible), float64, over the queries that see two keys or more.
    """
    probabilities = scores.softmax(-1)
    visible = (scores != -math.inf).sum(-1)
    several = visible > 1
    share = torch.special.entr(probabilities).sum(-1).double() / visible.double().log()
    total = torch.where(several, share, 0.0).sum(-1)
    return torch.stack([total, several.sum(-1).double()], dim=-1)
