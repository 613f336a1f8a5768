"""The manifests of parts with weights: recurrent layers, chains of rows and convolutions. No torch."""

from __future__ import annotations

from math import prod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .cell_facts import Weight
from .layer_spec import MAX_LAYERS, LayerSpec, leaves_layers, states_of_layers
from .layer_weights import layer_weights, row_weights
from .parts import MAX_SIZE, Size
from .row_parts import MAX_PARTS, RowPart, leaves
from .stack_parts import CONTEXT, StackPart
from .states import MAX_STATE_ELEMENTS, StateDeclaration


class LayersPart(StackPart):
    """Built-in recurrent layers, one after the other, as in `stack`. All of them are causal."""

    kind: Literal["layers"] = "layers"
    layers: Annotated[tuple[LayerSpec, ...], Field(min_length=1, max_length=MAX_LAYERS)]

    @model_validator(mode="after")
    def _are_causal(self) -> Self:
        if not all(layer.causal for layer in self.layers):
            raise ValueError(
                f"part {self.name!r} has a layer that is not causal; only a `stack` without parts may"
            )
        return self

    def leaves(self, *widths: int) -> int:
        """Width of the last layer's rows.

        Raises:
            ValueError: a layer does not fit its input.
        """
        return leaves_layers(self.layers, sum(widths))

    def states(self, width: int = 0) -> tuple[StateDeclaration, ...]:  # noqa: ARG002 - as all have it
        """Those of the layers: "0.h", "0.c", "1.h" and so on."""
        return states_of_layers(self.layers)

    def weights(self, width: int) -> dict[str, Weight]:
        """Those of the layers: "0.forward.weight_ih" and so on."""
        return layer_weights(self.layers, width)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the layers."""
        return tuple(layer.cell for layer in self.layers)


class RowsPart(StackPart):
    """Parts that compute each row by itself: linear layers, activations, norms, scales and skips."""

    kind: Literal["rows"] = "rows"
    parts: Annotated[tuple[RowPart, ...], Field(min_length=1, max_length=MAX_PARTS)]

    def leaves(self, *widths: int) -> int:
        """Width of the last part's rows.

        Raises:
            ValueError: a part does not fit its input.
        """
        return leaves(self.parts, sum(widths))

    def weights(self, width: int) -> dict[str, Weight]:
        """Those of the parts: "0.weight", "0.bias" and so on."""
        return row_weights(self.parts, width)


class _Convolution(StackPart):
    """What both convolutions have: `channels` outputs of a window of `kernel` places, `dilation` apart.

    Input and output channels fall into `groups`, which are computed apart. The weight is that of nn.Conv1d,
    [channels, input channels / groups, kernel].
    """

    later: ClassVar[tuple[str, ...]] = ("dilation", "groups", "bias")

    channels: Size
    kernel: Size
    dilation: Size = 1
    groups: Size = 1
    bias: bool = True

    @property
    def reach(self) -> int:
        """Distance from the first place of a window to its last one."""
        return (self.kernel - 1) * self.dilation

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.channels % self.groups:
            raise ValueError(
                f"the {self.channels} channels of part {self.name!r} do not fall into {self.groups} groups"
            )
        if self.reach > MAX_SIZE:
            raise ValueError(f"the window of part {self.name!r} is longer than {MAX_SIZE}")
        return self

    def _weights(self, inputs: int) -> dict[str, Weight]:
        shape = (self.channels, inputs // self.groups, self.kernel)
        bias = {"bias": Weight((self.channels,))} if self.bias else {}
        return {"weight": Weight(shape, product=True), **bias}

    def _check_inputs(self, inputs: int) -> None:
        if inputs % self.groups:
            raise ValueError(f"its {inputs} input channels do not fall into {self.groups} groups")


class ConvPart(_Convolution):
    """A causal convolution over time: each number of a row is a channel.

    yₜ = b + Σⱼ W[:, :, j] xₛ with s = t − (kernel − 1 − j)·dilation, as nn.Conv1d with padding by
    (kernel − 1)·dilation zeros in front. The rows before are the state "context", the oldest first.
    """

    kind: Literal["conv"] = "conv"

    def leaves(self, *widths: int) -> int:
        """The channels.

        Raises:
            ValueError: the row does not fall into the groups, or there are too many numbers in a window.
        """
        width = sum(widths)
        self._check_inputs(width)
        if width * max(self.kernel, self.reach) > MAX_STATE_ELEMENTS:
            raise ValueError(
                f"its window has {width * self.kernel:,} numbers and its state {width * self.reach:,}, of at "
                f"most {MAX_STATE_ELEMENTS:,}; choose a smaller kernel or dilation"
            )
        return self.channels

    def states(self, width: int) -> tuple[StateDeclaration, ...]:
        """The rows before, which a later window reads."""
        shape = (self.reach, width)
        return (StateDeclaration(name=CONTEXT, shape=shape),) if self.reach else ()

    def weights(self, width: int) -> dict[str, Weight]:
        """Weight and bias."""
        return self._weights(width)


class RowConvPart(_Convolution):
    """A convolution inside each row, which is `inputs` channels of equal length, one after the other.

    It is nn.Conv1d over the places of a channel, with `padding` zeros at both ends and `stride`. The output
    row has the channels one after the other too.
    """

    later: ClassVar[tuple[str, ...]] = (*_Convolution.later, "stride", "padding")

    kind: Literal["row_conv"] = "row_conv"
    inputs: Size = 1
    stride: Size = 1
    padding: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0

    def places(self, width: int) -> int:
        """Places of each output channel for rows of `width`."""
        return (width // self.inputs + 2 * self.padding - self.reach - 1) // self.stride + 1

    def leaves(self, *widths: int) -> int:
        """Channels times places.

        Raises:
            ValueError: the row does not fall into the channels or groups, or is shorter than the window.
        """
        width = sum(widths)
        if width % self.inputs:
            raise ValueError(f"rows of {width} do not fall into {self.inputs} channels")
        self._check_inputs(self.inputs)
        places = self.places(width)
        if places < 1:
            raise ValueError(
                f"its window of {self.reach + 1} places is longer than a channel of {width // self.inputs} "
                f"with {self.padding} of padding"
            )
        if prod((places, self.inputs, self.kernel)) > MAX_STATE_ELEMENTS:
            raise ValueError("its windows have too many numbers; choose a greater stride")
        return self.channels * places

    def weights(self, width: int) -> dict[str, Weight]:  # noqa: ARG002 - as all have it
        """Weight and bias."""
        return self._weights(self.inputs)
