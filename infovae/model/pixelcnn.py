"""The autoregressive decoder p(x|z) = prod_ij p(x_ij | x_<ij, z), with its fast sampler (paper, section 5).

A PixelCNN after van den Oord et al. 2016 ("Conditional Image Generation with PixelCNN Decoders"), in two stacks: a
vertical one that sees the rows above a pixel and a horizontal one that sees the pixels to its left. The kernels cover
exactly the causal context, so none of the arithmetic is masked away and there is no blind spot.

DEVIATION: a small network of ReLU layers instead of gated residual blocks, and the horizontal stack reads the last
vertical layer instead of each, for the sake of speed on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infovae.model.networks import Decoder, Float32Linear, dtype_of, quarter


class PixelCNN(Decoder):
    """Bernoulli pixels, each conditioned on its causal window and, in every layer, on z.

    Parameters
    ----------
    latent_dim : int
        0 for a decoder that is not conditioned on anything; z is then (n, 0).
    receptive_radius : int
        The pixel (i, j) sees, in the rows i - radius to i - 1, the columns j - radius - n_layers to j + radius, and in
        its own row the columns j - radius to j - 1: radius (2 radius + 2 + n_layers) in all. The first layer's window
        reaches radius - n_layers pixels far; every further layer adds one.
    map_shape : (height, width) of the images, both divisible by 4, for a z that shifts every place by itself: a map of
        a quarter of the image's sides, each value for 4 x 4 pixels. None: one shift for all places, as in the paper.
    """

    vertical: Sequence[nn.Conv2d]
    horizontal: Sequence[nn.Conv2d]

    def __init__(
        self,
        latent_dim: int,
        n_channels: int,
        n_layers: int,
        receptive_radius: int,
        map_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        reach = receptive_radius - n_layers
        if reach < 1:
            raise ValueError(f"receptive_radius must exceed n_layers={n_layers}, got {receptive_radius}")
        self.reach, self.n_layers, self.n_channels = reach, n_layers, n_channels
        c = n_channels
        self.rows_above = nn.Conv2d(1, c, (reach, 2 * reach + 1))
        self.vertical = nn.ModuleList(nn.Conv2d(c, c, (2, 3), padding=1) for _ in range(n_layers))  # type: ignore[assignment]
        self.pixels_left = nn.Conv2d(1, c, (1, reach), bias=False)
        self.from_vertical = nn.Conv2d(c, c, 1)
        self.horizontal = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv2d(c, c, (1, 2), padding=(0, 1)) for _ in range(n_layers)
        )
        self.map_size = quarter(map_shape) if map_shape and latent_dim else (1, 1)
        n_shifts = 2 * (n_layers + 1) * c * self.map_size[0] * self.map_size[1]
        self.from_z = Float32Linear(latent_dim, n_shifts, bias=False) if latent_dim else None
        self.to_logit = nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the logit of every pixel given the pixels before it: x (n, 1, H, W), z (n, d) -> (n, 1, H, W)."""
        height, width = x.shape[2:]
        reach = self.reach
        x = x.to(dtype_of(self))
        for_v, for_h = self._shifts(z, x.dtype)
        # The columns of the first window become channels: a convolution of one channel is slow.
        windows = F.pad(x[:, 0], (reach, reach, reach, -1)).unfold(2, 2 * reach + 1, 1).contiguous().permute(0, 3, 1, 2)
        v = _add_and_relu_(F.conv2d(windows, self.rows_above.weight.transpose(1, 3).contiguous()), for_v[0])
        # Each further layer pads both sides and so adds a row below (vertical) or a column on the right (horizontal).
        # No pixel of the image reads them, and carrying them along is faster than cropping them in every layer.
        for conv, shift in zip(self.vertical, for_v[1:], strict=True):
            v = _add_and_relu_(F.conv2d(v, conv.weight, padding=1), shift)
        v = v.permute(0, 2, 3, 1)[:, :height].contiguous().permute(0, 3, 1, 2)
        left = self.pixels_left(F.pad(x, (reach, -1, 0, 0)))
        h = _add_and_relu_(F.conv2d(v, self.from_vertical.weight).add_(left), for_h[0])
        for conv, shift in zip(self.horizontal, for_h[1:], strict=True):
            h = _add_and_relu_(F.conv2d(h, conv.weight, padding=(0, 1)), shift)
        # a matrix product: on channels-last activations twice as fast as the convolution that it is
        logits = F.linear(h.permute(0, 2, 3, 1), self.to_logit.weight.flatten(1), self.to_logit.bias)
        return logits.permute(0, 3, 1, 2)[..., :width]

    @torch.no_grad()
    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw x ~ p(x|z), see `Decoder.sample`: the pixels that calling `forward` once for each of them would give.

        Every activation is computed once: the vertical stack row by row from the cached row above, the horizontal
        stack pixel by pixel from the cached pixel to the left.
        """
        n, _, height, width = uniforms.shape
        c, reach = self.n_channels, self.reach
        for_v, for_h = self._shifts(z, z.dtype)
        full = (n, c, height, width)
        for_v, for_h = ([shift.expand(full) for shift in shifts] for shifts in (for_v, for_h))
        # image with a margin of zeros above, left and right, so that every window is a plain slice
        canvas = z.new_zeros(n, 1, height + reach, width + 2 * reach)
        row_above = [z.new_zeros(n, c, 1, width) for _ in self.vertical]
        pixel_weights = self.pixels_left.weight[:, 0, 0].T.contiguous()  # (reach, c)
        taps = [
            (conv.weight[:, :, 0, 0].T.contiguous(), conv.weight[:, :, 0, 1].T.contiguous(), shift)
            for conv, shift in zip(self.horizontal, for_h[1:], strict=True)
        ]
        logit_weight = self.to_logit.weight[:, :, 0, 0].T
        # u < sigmoid(a + b)  <=>  logit(u) - b < a
        thresholds = torch.logit(uniforms[:, 0].to(z.dtype)) - _bias(self.to_logit)
        for i in range(height):
            v = F.conv2d(canvas[:, :, i : i + reach], self.rows_above.weight)
            v = F.relu_(v + for_v[0][:, :, i : i + 1])
            for layer, (conv, shift) in enumerate(zip(self.vertical, for_v[1:], strict=True)):
                both = torch.cat([row_above[layer], v], dim=2)
                row_above[layer] = v
                v = F.relu_(F.conv2d(both, conv.weight, padding=(0, 1)) + shift[:, :, i : i + 1])
            h = F.conv2d(v, self.from_vertical.weight) + for_h[0][:, :, i : i + 1]
            base = h[:, :, 0].permute(2, 0, 1).contiguous()
            row = canvas[:, 0, i + reach]  # a view: pixel j stands at column j + reach
            left = [z.new_zeros(n, c) for _ in taps]
            for j in range(width):
                h = F.relu_(torch.addmm(base[j], row[:, j : j + reach], pixel_weights))
                for layer, (weight_left, weight_here, shift) in enumerate(taps):
                    out = torch.addmm(shift[:, :, i, j], left[layer], weight_left).addmm_(h, weight_here)
                    left[layer], h = h, F.relu_(out)
                logit = (h @ logit_weight)[:, 0]
                row[:, j + reach] = (thresholds[:, i, j] < logit).to(z.dtype)
        return canvas[:, :, reach:, reach : reach + width].contiguous()

    def _shifts(self, z: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Return what z and the biases add to each layer's pre-activation, for either stack: n_layers + 1 tensors.

        (n, c, 1, 1), or with a map (n, c, H, W). A convolution without a bias has no gradient of it to sum: the sum
        over places that the shift needs anyway gives it too.
        """
        convs = (self.rows_above, *self.vertical, self.from_vertical, *self.horizontal)
        biases = torch.stack([_bias(conv) for conv in convs]).view(2, self.n_layers + 1, self.n_channels, 1, 1)
        if self.from_z is None:
            shifts = biases.expand(len(z), *biases.shape).to(dtype)
        else:
            shape = (2, self.n_layers + 1, self.n_channels, *self.map_size)
            shifts = (self.from_z(z).unflatten(1, shape) + biases).to(dtype)
        if self.map_size != (1, 1):  # channels last, as the activations are: adding other layouts to them is slow
            shifts = shifts.movedim(3, -1).contiguous().repeat_interleave(4, 3).repeat_interleave(4, 4).movedim(-1, 3)
        vertical, horizontal = shifts.unbind(1)
        return list(vertical.unbind(1)), list(horizontal.unbind(1))


def _add_and_relu_(activations: Tensor, shift: Tensor) -> Tensor:
    """Return relu(activations + shift), in the memory of the activations (n, c, H', W').

    The shift is (n, c, 1, 1), or (n, c, H, W) with H <= H', W <= W': no pixel reads the places beyond.
    """
    height, width = shift.shape[2:]
    if height == width == 1 and not torch.compiler.is_compiling():  # what is compiled lays its loops out by itself
        return _AddAndRelu.apply(activations, shift)
    (activations if height == width == 1 else activations[:, :, :height, :width]).add_(shift)
    return activations.relu_()


class _AddAndRelu(torch.autograd.Function):
    """relu(activations + shift) for a shift of (n, c, 1, 1), with the bits of the two operations.

    The shift is repeated along a row first: adding it place by place, of 16 channels each, is slow.
    """

    @staticmethod
    def forward(ctx: Any, activations: Tensor, shift: Tensor) -> Tensor:
        row = shift.expand(-1, -1, 1, activations.shape[3]).contiguous(memory_format=torch.channels_last)
        out = activations.add_(row).relu_()
        ctx.mark_dirty(activations)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (out,) = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], out, 0)
        return grad, grad.sum((2, 3), keepdim=True)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
