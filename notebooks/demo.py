"""What `make demo` does after the cube is built: train a small linear-nonlinear model for a few steps.

Usage: python notebooks/demo.py STORE
"""

import sys

import numpy as np
import torch

from strfcube import CubeDataset


class LN(torch.nn.Module):
    """One causal spectro-temporal receptive field a neuron, then a softplus: expected spikes per bin."""

    def __init__(self, bands: int, neurons: int, lags: int) -> None:
        super().__init__()
        self.strf = torch.nn.Conv2d(1, neurons, (bands, lags))
        torch.nn.init.zeros_(self.strf.weight)
        torch.nn.init.constant_(self.strf.bias, -2.0)

    def forward(self, stims: torch.Tensor) -> torch.Tensor:
        """From spectrograms (B, 1, F, T) to rates (B, N, T)."""
        past = torch.nn.functional.pad(stims, (self.strf.kernel_size[1] - 1, 0))
        return torch.nn.functional.softplus(self.strf(past).squeeze(2))


def poisson_loss(rates: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean Poisson loss over every bin of every repeat that was recorded."""
    responses, valid = batch["responses"], batch["valid_mask"]
    expected = rates[:, :, None].expand_as(responses)
    return torch.nn.functional.poisson_nll_loss(expected[valid], responses[valid], log_input=False)


def main(store: str, epochs: int = 8) -> None:
    """Train on all stimuli but every fourth, so that each kind is in both parts, and print the loss on both."""
    torch.manual_seed(0)
    everything = CubeDataset(store)
    is_test = np.arange(len(everything)) % 4 == 3
    train, test = everything.isel(stim=np.flatnonzero(~is_test)), everything.isel(stim=np.flatnonzero(is_test))
    loader = train.loader(batch_size=4, shuffle=True, seed=0)
    held_out = next(iter(test.loader(batch_size=4)))
    bands, neurons = held_out["stims"].shape[2], held_out["responses"].shape[1]
    print(f"{len(train)} stimuli to train on, {len(test)} to test on; {neurons} neurons, {bands} bands")

    model = LN(bands, neurons, lags=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            loss = poisson_loss(model(batch["stims"]), batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        with torch.no_grad():
            test_loss = poisson_loss(model(held_out["stims"]), held_out).item()
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}, held out {test_loss:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
