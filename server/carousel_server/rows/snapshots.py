"""From rows to snapshots and back: everything that a session is, between two steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from carousel_models import StateSpec
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView, OpenSpec, StateBytes

from .slab import Slab
from .snapshot import Snapshot
from .table import SessionTable
from .tokens import RECENT_TOKENS, Tokens
from .window import Window, invalid_rows

_MOST_ALTERNATIVES = 32
"""As many as a request may ask for: a snapshot comes from outside."""


class Snapshots:
    """Takes and fills rows. Used on the engine's thread only."""

    def __init__(
        self,
        model: ModelView,
        table: SessionTable,
        slab: Slab,
        window: Window,
        tokens: Tokens,
    ) -> None:
        self._model = model
        self._table = table
        self._slab = slab
        self._window = window
        self._tokens = tokens
        self._layout = slab.layout()

    def take(self, rows: Sequence[int]) -> list[Snapshot]:
        """Rows as they are now; steps that wait are not part of them. One copy from the device."""
        at = torch.as_tensor(rows, dtype=torch.int64, device=self._slab.device)
        states = self._slab.take(at)
        return [
            self._snapshot(row, {name: array[i, ...] for name, array in states.items()})
            for i, row in enumerate(rows)
        ]

    def fill(self, row: int, snapshot: Snapshot) -> None:
        """Makes a fresh row go on where a snapshot stands, which has been checked."""
        table = self._table
        self._slab.restore(row, snapshot.state)
        for cursor in (table.applied, table.received, table.begun_applied):
            cursor[row] = snapshot.applied
        table.ack[row] = snapshot.ack
        table.attach_id[row] = snapshot.attach_id
        table.initial[row] = self._model.initial_index(snapshot.initial)
        if snapshot.applied > snapshot.ack:
            rows, firsts = np.asarray([row]), np.asarray([snapshot.ack + 1])
            never, resets = np.full(1, np.inf), None
            if snapshot.resets:
                steps = snapshot.ack + 1 + np.arange(len(snapshot.kept_inputs))
                resets = np.isin(steps, snapshot.resets)[None]
            inputs = snapshot.kept_inputs[None]
            self._window.write_inputs(rows, firsts, inputs, never, resets=resets)
            kept = snapshot.kept_outputs[None]
            self._window.outputs[self._window.at(rows, firsts, kept.shape[1])] = kept
        self._tokens.restore(row, snapshot)

    def draft(self, spec: OpenSpec) -> Snapshot:
        """A session that has not begun, with its initial state."""
        model = self._model
        row = self._slab.initial_row(model.initial_index(spec.initial))
        state = self._slab.take(torch.tensor([row], device=self._slab.device))
        begun = {name: array[0, ...] for name, array in state.items()} | self._arrays(spec.state)
        return Snapshot(
            model=model.name,
            fingerprint=model.fingerprint,
            epoch=0,
            applied=0,
            ack=0,
            seed=spec.seed or 0,
            next_token=-1,
            idle_ttl_s=spec.idle_ttl_s or 1.0,
            state=begun,
            recent_tokens=(),
            kept_inputs=np.empty((0, model.input_row_bytes), np.uint8),
            kept_outputs=np.empty((0, model.output_row_bytes), np.uint8),
            execution_class=model.execution_class,
            initial=spec.initial,
        )

    def put(self, row: int, state: StateBytes) -> None:
        """Sets some states of a row, whose names and sizes have been checked."""
        self._slab.restore(row, self._arrays(state))

    def _arrays(self, state: StateBytes) -> dict[str, np.ndarray]:
        return {
            name: np.frombuffer(data, self._layout[name][1]).reshape(self._layout[name][0])
            for name, data in state
        }

    def check_fits(self, snapshot: Snapshot) -> None:
        """Refuses a snapshot of other weights, or one that does not fit the settings.

        Raises:
            CarouselError: FINGERPRINT_MISMATCH or SNAPSHOT_INVALID.
        """
        model = self._model
        if snapshot.fingerprint != model.fingerprint:
            raise CarouselError(
                "FINGERPRINT_MISMATCH",
                f"the snapshot belongs to weights {snapshot.fingerprint[:12]}… of model "
                f"{snapshot.model!r}; model {model.name!r} has {model.fingerprint[:12]}…",
                field="snapshot",
            )
        layout = {name: (a.shape, a.dtype.str) for name, a in snapshot.state.items()}
        fits = (
            layout == self._layout
            and snapshot.initial in ("", *model.initials)
            and snapshot.applied - snapshot.ack <= self._window.steps
            and snapshot.kept_inputs.shape[1] == model.input_row_bytes
            and snapshot.kept_outputs.shape[1] == model.output_row_bytes
            and snapshot.next_token < max(model.input_tokens, 1)
            and all(0 <= token < model.input_tokens for token in snapshot.recent_tokens)
            and invalid_rows(model, snapshot.kept_inputs) is None
            and (snapshot.generation is None or self._generation_fits(snapshot))
            and all(map(_is_proper, snapshot.state.values()))
        )
        if not fits:
            raise CarouselError(
                "SNAPSHOT_INVALID",
                "its tensors, window or tokens do not fit this model and its settings",
                field="snapshot",
            )
        self._check_finite(snapshot)

    def _check_finite(self, snapshot: Snapshot) -> None:
        """Refuses what no session can hold: a NaN or an infinity in its state, or in a kept output."""
        bad = [
            s.name for s in self._slab.specs if s.finite and not _finite(s, snapshot.state[s.name])
        ]
        if bad:
            raise _not_finite(f"state {bad[0]!r}")
        at = 0
        for field in self._model.outputs:
            size = field.row_bytes
            kept = snapshot.kept_outputs[:, at : at + size]
            if (
                field.dtype == "<f4"
                and not np.isfinite(np.ascontiguousarray(kept).view("<f4")).all()
            ):
                raise _not_finite(f"a kept output {field.name!r}")
            at += size

    def _generation_fits(self, snapshot: Snapshot) -> bool:
        """Its tokens are the model's, and as many as its cursors say."""
        run, drawn_tokens = snapshot.generation, self._model.drawn_tokens
        assert run is not None
        drawn = max(snapshot.applied - run.base - run.prompt_tokens + 1, 0)
        fed = np.asarray([max(run.carry, 0), *run.context], np.int64)
        return bool(
            self._model.generative
            and snapshot.applied >= run.base
            and len(run.ids) == drawn
            and run.alternative_ids.shape[1] <= _MOST_ALTERNATIVES
            and (run.alternative_ids < drawn_tokens).all()
            and ((run.ids >= 0) & (run.ids < drawn_tokens)).all()
            and ((fed >= 0) & (fed < self._model.input_tokens)).all()
        )

    def _snapshot(self, row: int, state: dict[str, np.ndarray]) -> Snapshot:
        table = self._table
        applied, ack = int(table.applied[row]), int(table.ack[row])
        log = self._tokens.logs.get(row)
        at = np.asarray([row]), np.asarray([ack + 1])
        resets = self._window.resets_in(*at, applied - ack)
        return Snapshot(
            model=self._model.name,
            fingerprint=self._model.fingerprint,
            epoch=int(table.epoch[row]),
            applied=applied,
            ack=ack,
            seed=int(table.seed[row]),
            next_token=int(self._tokens.next_token[row]),
            idle_ttl_s=float(table.idle_ttl_s[row]),
            state=state,
            recent_tokens=tuple(self._tokens.last(row, RECENT_TOKENS)),
            kept_inputs=self._window.inputs[self._window.at(*at, applied - ack)][0],
            kept_outputs=self._window.outputs[self._window.at(*at, applied - ack)][0],
            attach_id=int(table.attach_id[row]),
            execution_class=self._model.execution_class,
            initial=("", *self._model.initials)[table.initial[row]],
            resets=() if resets is None else tuple((np.flatnonzero(resets[0]) + ack + 1).tolist()),
            generation=None if log is None else log.to_snapshot(),
        )


def _is_proper(array: np.ndarray) -> bool:
    """False for an array of bool whose bytes are not all 0 or 1, which NumPy and torch do not check."""
    return array.dtype != np.bool_ or bool((array.view(np.uint8) <= 1).all())


def _finite(spec: StateSpec, array: np.ndarray) -> bool:
    """True if a float state, as a snapshot has it, holds finite numbers only."""
    if spec.dtype == torch.bfloat16:  # as uint16: the exponent of what is not finite is all ones
        return bool(((array & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


def _not_finite(what: str) -> CarouselError:
    message = f"{what} holds a NaN or an infinity: export the session again before it was spoilt"
    return CarouselError("SNAPSHOT_INVALID", message, field="snapshot")
