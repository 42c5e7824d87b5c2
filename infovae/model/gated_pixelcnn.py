"""The authors' decoder p(x|z) = prod_ij p(x_ij | x_<ij, z): a gated PixelCNN, with its fast sampler.

After van den Oord et al. 2016 ("Conditional Image Generation with PixelCNN Decoders", section 2), in two stacks: a
vertical one that sees the rows above a pixel and a horizontal one that also sees the pixels to its left. As in
`pixelcnn`, the kernels cover exactly the causal context, so none of the arithmetic is masked away and there is no blind
spot. Every layer ends in a gate, tanh(a + V z) * sigmoid(b + W z), where a and b are the halves of its pre-activations.
As in the authors' code the horizontal stack reads the vertical one after its gate, and a ReLU layer precedes the logit.

DEVIATION: in the authors' code the vertical stack reads the pixels to the left too and does not see far to the upper
right, a mask switches the first horizontal layer off, and the 1x1 convolutions between the stacks and after each
horizontal gate have a ReLU, where those of van den Oord are linear. The weights start larger than theirs (Xavier),
under which the activations of the vertical stack shrink by a factor of about 50,000 through 12 layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infovae.model.networks import Decoder, Float32Linear, dtype_of

FIRST_REACH = 3
"""How many pixels the first layer's 7x7 window reaches in each direction."""


class GatedPixelCNN(Decoder):
    """Bernoulli pixels, each conditioned on its causal window and, in both gates of every layer, on z.

    The pixel (i, j) sees the columns j - R to j + R of the rows i - R to i - 1, and the columns j - R to j - 1 of its
    own row, where R is `receptive_radius` = n_layers + 2.

    Parameters
    ----------
    latent_dim : int
        0 for a decoder that is not conditioned on anything; z is then (n, 0).
    n_channels : int
        Maps after each gate, c in the shapes below.
    """

    vertical: Sequence[nn.Conv2d]
    horizontal: Sequence[nn.Conv2d]
    from_vertical: Sequence[nn.Conv2d]
    after_gate: Sequence[nn.Conv2d]

    def __init__(self, latent_dim: int, n_channels: int, n_layers: int) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        self.n_layers, self.n_channels, self.receptive_radius = n_layers, n_channels, n_layers - 1 + FIRST_REACH
        c, reach = n_channels, FIRST_REACH
        further = range(n_layers - 1)
        first = nn.Conv2d(1, 2 * c, (reach, 2 * reach + 1), bias=False)
        vertical = (nn.Conv2d(c, 2 * c, (2, 3), padding=(0, 1), bias=False) for _ in further)
        self.vertical = nn.ModuleList([first, *vertical])  # type: ignore[assignment]
        horizontal = (nn.Conv2d(c, 2 * c, (1, 2), bias=False) for _ in further)
        self.horizontal = nn.ModuleList([nn.Conv2d(1, 2 * c, (1, reach), bias=False), *horizontal])  # type: ignore[assignment]
        self.from_vertical = nn.ModuleList(nn.Conv2d(c, 2 * c, 1, bias=False) for _ in range(n_layers))  # type: ignore[assignment]
        self.after_gate = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(n_layers))  # type: ignore[assignment]
        self.biases = nn.Parameter(torch.zeros(n_layers, 2, 2 * c))
        self.from_z = Float32Linear(latent_dim, n_layers * 2 * 2 * c, bias=False) if latent_dim else None
        self.hidden = nn.Conv2d(c, c, 1)
        self.to_logit = nn.Conv2d(c, 1, 1)
        # tanh(a) * sigmoid(b) is a / 2 for small a and b: with this gain a signal survives the vertical stack
        for conv in (*self.vertical, *self.horizontal, *self.from_vertical):
            nn.init.normal_(conv.weight, std=2 / conv.weight[0].numel() ** 0.5)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the logit of every pixel given the pixels before it: x (n, 1, H, W), z (n, d) -> (n, 1, H, W).

        The activations and logits have the precision of the weights, whatever that of x and z.
        """
        reach = FIRST_REACH
        x = x.to(dtype_of(self))
        # Inputs are padded on the causal side only. Padding both sides would mean cropping pre-activations, whose
        # gradient is slower than the copy that padding makes, or carrying one row or column more in every layer.
        v, h = F.pad(x, (reach, reach, reach, -1)), F.pad(x, (reach, -1))
        for layer, (shift_v, shift_h) in enumerate(self._shifts(z, x.dtype)):
            v = _gate(self.vertical[layer](F.pad(v, (0, 0, 1, 0)) if layer else v), shift_v)
            out = self.horizontal[layer](F.pad(h, (1, 0)) if layer else h)
            out = self.after_gate[layer](_gate(out.add_(self.from_vertical[layer](v)), shift_h))
            h = out.add_(h) if layer else out
        return self.to_logit(self.hidden(h).relu_())

    @torch.no_grad()
    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw x ~ p(x|z), see `Decoder.sample`: the pixels that calling `forward` once for each of them would give.

        Every activation is computed once: the vertical stack row by row from the cached row above, the horizontal
        stack pixel by pixel from the cached pixel to the left.
        """
        n, _, height, width = uniforms.shape
        c, reach = self.n_channels, FIRST_REACH
        shifts = self._shifts(z, dtype_of(self))
        layers = self._pixel_layers([shift_h for _, shift_h in shifts])
        hidden, to_logit = _affine(self.hidden), _affine(self.to_logit)
        # image with a margin of zeros above, left and right, so that every window is a plain slice
        canvas = z.new_zeros(n, 1, height + reach, width + 2 * reach, dtype=dtype_of(self))
        above = [canvas.new_zeros(n, c, 1, width) for _ in layers]
        # Of every layer one row, h v h v ... h: its input h at the pixel before, the vertical stack's output v at this
        # pixel, its input h at this pixel, and so on. The three that a pixel reads lie side by side.
        rows = [canvas.new_zeros(n, 2 * width + 1, c) for _ in layers]
        thresholds = torch.logit(uniforms[:, 0].to(z.dtype))  # u < sigmoid(logit)  <=>  logit(u) < logit
        for i in range(height):
            v = canvas[:, :, i : i + reach]
            for layer, conv in enumerate(self.vertical):
                read = torch.cat([above[layer], v], dim=2) if layer else v
                above[layer], v = v, _gate(conv(read), shifts[layer][0])
                rows[layer][:, 1::2] = v[:, :, 0].transpose(1, 2)
            pixels = canvas[:, 0, i + reach]  # a view: pixel j stands at column j + reach
            for j in range(width):
                h = _pixel_layer(torch.cat([pixels[:, j : j + reach], rows[0][:, 2 * j + 1]], dim=1), *layers[0])
                for row, further in zip(rows[1:], layers[1:], strict=True):
                    row[:, 2 * j + 2] = h
                    h += _pixel_layer(row[:, 2 * j : 2 * j + 3].flatten(1), *further)
                logit = torch.addmm(to_logit[0], torch.addmm(hidden[0], h, hidden[1]).relu_(), to_logit[1])
                pixels[:, j + reach] = thresholds[:, i, j] < logit[:, 0]
        return canvas[:, :, reach:, reach : reach + width].to(z.dtype).contiguous()

    def _shifts(self, z: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return what z and the biases add to each layer's pre-activations: n_layers pairs of (n, 2 c).

        The first of a pair is for the vertical stack, the second for the horizontal one.
        """
        shifts = self.biases.expand(len(z), -1, -1, -1)
        if self.from_z is not None:
            shifts = shifts + self.from_z(z).unflatten(1, self.biases.shape)
        return [(pair[:, 0], pair[:, 1]) for pair in shifts.to(dtype).unbind(1)]

    def _pixel_layers(self, shifts: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return each horizontal layer as two products, before and after the gate: bias, weight, bias, weight.

        The first reads (h to the left, v, h here), (n, 3 c), and in the first layer (pixels to the left, v).
        """
        layers = []
        for layer, shift in enumerate(shifts):
            taps = [tap[:, :, 0] for tap in self.horizontal[layer].weight.unbind(3)]
            taps.insert(1 if layer else len(taps), self.from_vertical[layer].weight[:, :, 0, 0])
            layers.append((shift, torch.cat(taps, dim=1).T, *_affine(self.after_gate[layer])))
        return layers


def _gate(pre: Tensor, shift: Tensor) -> Tensor:
    """Return tanh(a + shift_a) * sigmoid(b + shift_b), (n, c, H, W), from (n, 2 c, H, W) and (n, 2 c)."""
    a, b = pre.chunk(2, dim=1)
    shift_a, shift_b = shift[..., None, None].chunk(2, dim=1)
    return torch.tanh(a + shift_a) * torch.sigmoid(b + shift_b)  # the sums are new tensors, faster than the halves


def _pixel_layer(read: Tensor, bias: Tensor, weight: Tensor, bias_after: Tensor, weight_after: Tensor) -> Tensor:
    """Return the output (n, c) of one of `_pixel_layers` for what it reads."""
    a, b = torch.addmm(bias, read, weight).chunk(2, dim=1)
    return torch.addmm(bias_after, torch.tanh(a) * torch.sigmoid(b), weight_after)


def _affine(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return the bias (c_out,) and weight (c_in, c_out) of a 1x1 convolution."""
    assert conv.bias is not None
    return conv.bias, conv.weight[:, :, 0, 0].T
