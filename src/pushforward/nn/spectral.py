"""Spectral norms of a network's layers, for penalties on them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SpectralNorms"]


class SpectralNorms(nn.Module):
    """The largest singular value of each layer of a network, by power iteration: one step a call (Yoshida & Miyato 2017).

    A convolution's weight is taken as the matrix (out, in * height * width), as NVAE (section 3.2) and Miyato et al. (2018) do.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        self._layers = [m for m in net.modules() if isinstance(m, kinds)]  # in a list: the network has registered them
        for i, layer in enumerate(self._layers):
            self.register_buffer(f"u{i}", F.normalize(torch.randn(len(layer.weight)), dim=0))

    def forward(self) -> Tensor:
        """The sum of the norms, with its gradient; the iteration goes on only in training mode."""
        total = torch.zeros((), device=self._layers[0].weight.device, dtype=self._layers[0].weight.dtype)
        for i, layer in enumerate(self._layers):
            W, u = layer.weight.flatten(1), getattr(self, f"u{i}")
            with torch.no_grad():
                v = F.normalize(W.T @ u, dim=0)
                u = F.normalize(W @ v, dim=0)
                if self.training:
                    getattr(self, f"u{i}").copy_(u)
            total = total + u @ W @ v
        return total
