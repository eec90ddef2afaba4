"""The networks that both libraries explain, in float32, in evaluation mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class CNN(nn.Module):
    """Two convolutions and two linear layers with functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.fc1 = nn.Linear(32 * 8 * 8, 256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = x.view(-1, 32 * 8 * 8)
        return self.fc2(torch.relu(self.fc1(x)))


class TwoInputs(nn.Module):
    """Two inputs that multiply, a gate for each example, and a number for all."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 12), nn.Linear(3, 12)
        self.mixed = nn.Linear(12, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor, gate: Tensor | None = None, power: float = 1.0) -> Tensor:
        h = torch.tanh(self.left(a)) * torch.tanh(self.right(b))
        h = h if gate is None else h * gate
        return self.out(nn.functional.softplus(self.mixed(h))) * power


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        h += x
        return self.relu(h)


class Residual(nn.Module):
    """In-place residual additions, batch normalisation, an in-place activation used twice, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.block1, self.block2 = Block(6), Block(6)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(torch.max_pool2d(self.block1(self.stem(x)), 2))
        return self.fc(self.pool(x).flatten(1))


class Text(nn.Module):
    """Token numbers, an embedding, and the mean over the tokens that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.hidden, self.out = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens != 0).unsqueeze(-1).float()
        mean = (self.embedding(tokens) * there).sum(1) / there.sum(1).clamp_min(1)
        return self.out(torch.relu(self.hidden(mean)))


def frozen(model: nn.Module) -> nn.Module:
    """Evaluation mode, with running statistics that are not those of a fresh layer."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return model.eval().requires_grad_(False)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def cnn() -> nn.Module:
    torch.manual_seed(0)
    return frozen(CNN())


@pytest.fixture(scope="session")
def two() -> nn.Module:
    torch.manual_seed(0)
    return frozen(TwoInputs())


@pytest.fixture(scope="session")
def residual() -> nn.Module:
    torch.manual_seed(0)
    return frozen(Residual())


@pytest.fixture(scope="session")
def text() -> nn.Module:
    torch.manual_seed(0)
    return frozen(Text())


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """(4, 1, 12, 12), not negative, as images are."""
    return rand(4, 1, 12, 12, seed=2).abs()


@pytest.fixture(scope="session")
def photos() -> Tensor:
    """(3, 3, 10, 10)."""
    return rand(3, 3, 10, 10, seed=3)


@pytest.fixture(scope="session")
def pair() -> tuple[Tensor, Tensor]:
    """(4, 5) and (4, 3)."""
    return rand(4, 5, seed=4), rand(4, 3, seed=5)


@pytest.fixture(scope="session")
def gate() -> Tensor:
    """(4, 1)."""
    return rand(4, 1, seed=6)


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    """(3, 6), padded with 0."""
    return torch.tensor([[4, 8, 15, 16, 23, 42], [7, 7, 3, 0, 0, 0], [1, 49, 0, 0, 0, 0]])
