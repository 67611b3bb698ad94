"""Beam search as tensors, a step at a time and without looking at them: the answers that transformers' search gives.

    logits ─▶ log probabilities ─▶ nothing said twice, not too short, first and last token forced
           ─▶ the best 2 k of all beams
           ─▶ those that end: among the k best so far? ─▶ those that go on: the next beams

What is finished does not change any more, so a search may go on for some steps after its end, and nobody has to look
after each of them. One beam is greedy search. In shapes, b are pictures, k beams, n positions of the answer, v tokens.

Source: `GenerationMixin._beam_search` of transformers, whose scores and stopping rules these are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

_NEVER = -1e9
"""A score that no answer has."""

_KNOWN = frozenset(
    {
        *("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"),
        *("min_new_tokens", "min_length", "max_new_tokens", "max_length"),
        *("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
        *("temperature", "top_k", "top_p", "typical_p", "min_p"),  # which say nothing where nothing is drawn
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What a search keeps to.

    longest: an answer's tokens, with the one that starts it. shortest: without that one and the one that ends it.
    ends: tokens that end one. first, last: tokens that it must begin and, where it reaches the limit, end with.
    unrepeated: so many are not said twice, 0 allows it.
    """

    beams: int
    longest: int
    start: int
    ends: tuple[int, ...]
    shortest: int = 0
    first: int | None = None
    last: tuple[int, ...] = ()
    unrepeated: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    @classmethod
    def of(cls, config: Any) -> Rules | None:
        """Those of a GenerationConfig with `max_new_tokens`; None where it asks for something else, such as chance."""
        asked = {name for name, value in config.to_diff_dict().items() if value}
        if asked - _KNOWN or config.eos_token_id is None or config.decoder_start_token_id is None:
            return None
        beams = config.num_beams or 1
        return cls(
            beams=beams,
            longest=1 + config.max_new_tokens,
            start=config.decoder_start_token_id,
            ends=_several(config.eos_token_id),
            shortest=max(config.min_new_tokens or 0, (config.min_length or 0) - 1),
            first=config.forced_bos_token_id,
            last=_several(config.forced_eos_token_id),
            unrepeated=config.no_repeat_ngram_size or 0,
            length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
            early_stopping=True if beams == 1 else config.early_stopping or False,
        )


def _several(tokens: int | list[int] | None) -> tuple[int, ...]:
    return () if tokens is None else (tokens,) if isinstance(tokens, int) else tuple(tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class Beams:
    """A search under way. tokens: (b, k, n). scores: (b, k), best first. at: (1,), where the last token stands.

    rows: (b, k, n), in which row the decoder wrote each of a beam's tokens. ended, ended_scores, finished: (b, k, n),
    (b, k) and bool, (b, k): the best answers so far. open: bool, (b, 1), whether a better one may come.
    """

    tokens: Tensor
    scores: Tensor
    rows: Tensor
    ended: Tensor
    ended_scores: Tensor
    finished: Tensor
    open: Tensor
    at: Tensor

    @classmethod
    def empty(cls, pictures: int, beams: int, length: int, device: torch.device) -> Beams:
        long, few = (pictures, beams, length), (pictures, beams)
        tokens, rows, ended = (torch.zeros(long, dtype=torch.long, device=device) for _ in range(3))
        scores, ended_scores = (torch.zeros(few, device=device) for _ in range(2))
        finished = torch.zeros(few, dtype=torch.bool, device=device)
        is_open = torch.zeros((pictures, 1), dtype=torch.bool, device=device)
        at = torch.zeros(1, dtype=torch.long, device=device)
        return cls(tokens, scores, rows, ended, ended_scores, finished, is_open, at)

    def part(self, pictures: int) -> Beams:
        """Views of the first pictures; `at` is the same."""
        parts = {field.name: getattr(self, field.name)[:pictures] for field in dataclasses.fields(self)}
        return Beams(**{**parts, "at": self.at})

    def begin(self, start: int, asked: int) -> None:
        """asked: so many of the pictures are to be answered; the others are finished from the beginning."""
        self.tokens.fill_(start)
        self.ended.fill_(start)
        self.rows.zero_()
        self.scores.fill_(_NEVER)[:, 0] = 0
        self.ended_scores.fill_(_NEVER)
        self.finished.fill_(False)[asked:] = True
        self.open.fill_(True)[asked:] = False
        self.at.zero_()

    def take(self, other: Beams) -> None:
        """Everything of a search for shorter answers."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            (mine if mine.dim() < 3 else mine[..., : theirs.size(-1)]).copy_(theirs)

    def seen(self) -> Tensor:
        """Which tokens each beam comes from: bool, (b, k, n, k), a row's last token with its own."""
        _, beams, length = self.tokens.shape
        rows = torch.arange(beams, device=self.at.device)
        self.rows.index_copy_(2, self.at, rows.expand(len(self.rows), beams)[..., None])
        written = torch.arange(length, device=self.at.device) <= self.at
        return (self.rows[..., None] == rows) & written[:, None]


class Search:
    """The steps. Every one works on the device's tensors alone, in place, so that it can be recorded."""

    def __init__(self, rules: Rules, vocabulary: int, device: torch.device) -> None:
        self._rules, self._vocabulary = rules, vocabulary
        self._ends = torch.tensor(rules.ends, device=device)
        self._kept = max(2, 1 + len(rules.ends)) * rules.beams
        self._eligible = torch.arange(self._kept, device=device) < rules.beams
        penalties = [length**rules.length_penalty for length in range(1, rules.longest + 2)]  # also past the end
        self._penalties = torch.tensor(penalties, dtype=torch.float32, device=device)
        self._ending = torch.isin(torch.arange(vocabulary, device=device), self._ends)
        self._first = None if rules.first is None else self._only((rules.first,), device)
        self._last = self._only(rules.last, device) if rules.last else None

    def _only(self, tokens: tuple[int, ...], device: torch.device) -> Tensor:
        forced = torch.full((self._vocabulary,), -torch.inf, device=device)
        forced[list(tokens)] = 0
        return forced

    def step(self, logits: Tensor, beams: Beams) -> None:
        """Add a token to every beam. logits: (b, k, v), after the tokens at `at`."""
        log_probs = self._ruled(logits.float().log_softmax(-1), beams) + beams.scores[..., None]
        top, chosen = log_probs.flatten(1).topk(self._kept)
        parents, said = chosen // self._vocabulary, chosen % self._vocabulary
        tokens = _of(beams.tokens, parents).index_copy_(2, beams.at + 1, said[..., None])
        ending = (said[..., None] == self._ends).any(-1) | (beams.at + 2 >= self._rules.longest)
        self._end(tokens, top, ending & self._eligible, beams)
        running = top + ending.float() * _NEVER
        best = running.topk(self._rules.beams)[1]
        beams.tokens.copy_(_of(tokens, best))
        beams.scores.copy_(running.gather(1, best))
        beams.rows.copy_(_of(beams.rows, parents.gather(1, best)))
        self._close(beams)
        beams.at.add_(1)

    def done(self, beams: Beams) -> bool:
        """Whether no answer changes any more. Waits for the device."""
        closed = ~beams.open
        if self._rules.early_stopping is True:
            closed = closed | beams.finished.all(1, keepdim=True)
        return bool(closed.all())

    def _ruled(self, log_probs: Tensor, beams: Beams) -> Tensor:
        if self._rules.unrepeated:
            log_probs = _unrepeated(log_probs, beams, self._rules.unrepeated)
        if self._rules.shortest:
            log_probs = log_probs.masked_fill(self._ending & (beams.at < self._rules.shortest), -torch.inf)
        if self._first is not None:
            log_probs = torch.where(beams.at == 0, self._first, log_probs)
        if self._last is not None:
            log_probs = torch.where(beams.at == self._rules.longest - 2, self._last, log_probs)
        return log_probs

    def _end(self, tokens: Tensor, top: Tensor, ends: Tensor, beams: Beams) -> None:
        """Put what ends among the best answers, where it belongs there."""
        scores = top / self._penalties[beams.at]  # for one token more, without the one that starts
        if self._rules.early_stopping is True:
            scores = scores + beams.finished.all(1, keepdim=True).float() * _NEVER
        scores = scores + (~beams.open).float() * _NEVER + (~ends).float() * _NEVER
        scores, best = torch.cat((beams.ended_scores, scores), 1).topk(self._rules.beams)
        beams.ended.copy_(_of(torch.cat((beams.ended, tokens), 1), best))
        beams.finished.copy_(torch.cat((beams.finished, ends), 1).gather(1, best))
        beams.ended_scores.copy_(scores)

    def _close(self, beams: Beams) -> None:
        """Whether what goes on may still become better than what is finished."""
        rules = self._rules
        if rules.early_stopping == "never" and rules.length_penalty > 0:
            hoped = beams.scores[:, :1] / self._penalties[rules.longest - 2]
        else:
            hoped = beams.scores[:, :1] / self._penalties[beams.at]
        worst = beams.ended_scores.amin(1, keepdim=True).expand_as(beams.finished).masked_fill(~beams.finished, _NEVER)
        beams.open.logical_and_((hoped > worst).any(1, keepdim=True))


def _of(tensor: Tensor, chosen: Tensor) -> Tensor:
    """The beams that were chosen. tensor: (b, x, n). chosen: (b, y). Gives: (b, y, n)."""
    return tensor.gather(1, chosen[..., None].expand(-1, -1, tensor.size(2)))


def _unrepeated(log_probs: Tensor, beams: Beams, size: int) -> Tensor:
    """-inf for each token that would say `size` tokens a second time; as the arXiv paper 1705.04304 has it."""
    tokens, at = beams.tokens, beams.at
    if tokens.size(2) < size:
        return log_probs
    windows = tokens.unfold(2, size, 1)
    last = torch.arange(2 - size, 1, device=at.device) + at
    same = (windows[..., :-1] == tokens[..., last.clamp(min=0)][..., None, :]).all(-1)
    whole = torch.arange(size - 1, tokens.size(2), device=at.device) <= at
    least = torch.full_like(same, torch.inf, dtype=log_probs.dtype).masked_fill_(same & whole, -torch.inf)
    return log_probs.scatter_reduce(2, windows[..., -1], least, "amin")
