"""ConditionalVAE: adapter weights generated from a task vector.

Shao et al., "In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635; the variational
autoencoder: Kingma, Welling, ICLR 2014, arXiv 1312.6114.

    mu, v = Linear [E(w), c];    z = mu + exp(v / 2) eps;    w_hat = D([z, c])
    loss = mean (w_hat - w)^2 + 0.005 mean over rows of -1/2 sum(1 + v - mu^2 - exp(v))
    generate:  z ~ Normal(0, I), w_hat = D([z, c])

Symbols: w [row number], adapters as of weight_codec, padded by zeros to whole blocks; c [row cond]
the task vector; mu, v, z [row latent]. E: strided convolutions that halve w, BatchNorm, LeakyReLU;
D: the mirror, transposed, with ELU. Sizes are the authors' unless given.
Differs from the paper: c is centred and scaled by the tasks that were fitted, for hidden states of
one model have much in common; padding is not in the loss; batches of 16.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from taskgrove.errors import TaskgroveError

CHANNELS = (8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8)
KERNEL = 7


@dataclass(frozen=True)
class Sizes:
    """Settings, a line each."""

    channels: tuple[int, ...] = CHANNELS  # a block each, which halves w
    latent: int = 256
    hidden: int = 256  # numbers of E(w)
    kl_weight: float = 0.005


class ConditionalVAE(nn.Module):
    """E and D, and what c is centred by."""

    c_mean: Tensor
    c_scale: Tensor

    def __init__(self, numbers: int, cond: int, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.numbers, self.sizes = numbers, sizes or Sizes()
        channels, latent, hidden = self.sizes.channels, self.sizes.latent, self.sizes.hidden
        block = 2 ** len(channels)
        self.short = -(-numbers // block)  # numbers a channel in the middle
        self.padding = self.short * block - numbers
        self.last = channels[-1]
        middle = self.last * self.short
        self.encoder = nn.Sequential(
            *(_down(a, b) for a, b in zip((1, *channels[:-1]), channels, strict=True)),
            nn.Flatten(), nn.Linear(middle, hidden),
        )  # fmt: skip
        self.mu, self.v = (nn.Linear(hidden + cond, latent) for _ in range(2))
        self.start = nn.Linear(latent + cond, middle)
        back = channels[::-1]
        self.decoder = nn.Sequential(
            *(_up(a, b) for a, b in zip(back, (*back[1:], back[-1]), strict=True)),
            nn.Conv1d(back[-1], 1, KERNEL, padding=KERNEL // 2),
        )
        self.register_buffer("c_mean", torch.zeros(cond))
        self.register_buffer("c_scale", torch.ones(()))

    def forward(
        self, w: Float[Tensor, "row number"], c: Float[Tensor, "row cond"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """w_hat, mu, v."""
        c = self._centred(c)
        h = torch.cat([self.encoder(pad(w, (0, self.padding))[:, None]), c], 1)
        mu, v = self.mu(h), self.v(h)
        z = mu + torch.exp(v / 2) * torch.randn_like(mu)
        return self._decoded(z, c), mu, v

    def loss(self, w: Tensor, c: Tensor) -> Tensor:
        """See the top of this file."""
        w_hat, mu, v = self(w, c)
        kl = -0.5 * (1 + v - mu.square() - v.exp()).sum(1).mean()
        return (w_hat - w).square().mean() + self.sizes.kl_weight * kl

    @torch.no_grad()
    def generate(
        self, c: Float[Tensor, " cond"], n: int = 1, seed: int = 0
    ) -> Float[Tensor, "sample number"]:
        """n adapters of a task; the module must be in evaluation mode, as `fit` leaves it."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.sizes.latent, generator=generator).to(c)
        return self._decoded(z, self._centred(c.expand(n, -1)))

    def _centred(self, c: Tensor) -> Tensor:
        return (c - self.c_mean) / self.c_scale

    def _decoded(self, z: Tensor, c: Tensor) -> Tensor:
        x = self.start(torch.cat([z, c], 1)).unflatten(1, (self.last, self.short))
        return self.decoder(x)[:, 0, : self.numbers]


def fit(
    w: Float[Tensor, "row number"],
    c: Float[Tensor, "pair cond"],
    sizes: Sizes | None = None,
    *,
    steps: int = 2000,
    batch: int = 16,
    rate: float = 2e-4,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> ConditionalVAE:
    """A generator of all tasks' adapters by AdamW, the rate falling along a cosine to 0.

    The global random generator stays as it was. Raises TaskgroveError for rows that do not pair.
    """
    if len(w) != len(c) or len(w) < 2:
        raise TaskgroveError(
            f"{len(w)} adapters and {len(c)} task vectors: give one of each a checkpoint, and two"
            " checkpoints or more"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = ConditionalVAE(w.shape[1], c.shape[1], sizes)
        vae.c_mean.copy_(c.mean(0))
        spread = c.std(0, correction=0).square().mean().sqrt()
        vae.c_scale.copy_(spread if spread > 0 else torch.ones(()))
        adam = torch.optim.AdamW(vae.parameters(), lr=rate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for step in range(steps):
            some = torch.randperm(len(w))[:batch]
            adam.zero_grad()
            loss = vae.loss(w[some], c[some])
            loss.backward()
            adam.step()
            cosine.step()
            if progress is not None:
                progress(step + 1, float(loss.detach()))
    return vae.eval()


def size_in_bytes(module: nn.Module) -> int:
    """What a generator takes on disk, buffers included."""
    tensors: Sequence[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _down(a: int, b: int) -> nn.Module:
    conv = nn.Conv1d(a, b, KERNEL, stride=2, padding=KERNEL // 2)
    return nn.Sequential(conv, nn.BatchNorm1d(b), nn.LeakyReLU())


def _up(a: int, b: int) -> nn.Module:
    conv = nn.ConvTranspose1d(a, b, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1)
    return nn.Sequential(conv, nn.BatchNorm1d(b), nn.ELU())
