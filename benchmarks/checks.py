"""What checks cost: model evaluations of every method with its defaults, and what check="free" and "basic" add.

    python benchmarks/checks.py [--images 2]

On built-in digits and the built-in network, untrained, since nothing depends on its weights; at the input, or at the
layer that a method takes by itself. Evaluations are rows sent through the model, forward or backward, per image. "free"
adds 2 rows for a call, whatever the number of images: the first example beside its baseline. "basic" adds these and 12
rows for each image, whatever the method costs; its share of the explanation is what the last column says.
"""

from __future__ import annotations

import argparse
from typing import Literal

import torch

import torchwhy as why
from torchwhy.data import digits
from torchwhy.networks import ConvNet
from torchwhy.registry import methods

LIMIT = 0.3  # of the explanation's evaluations
NEEDS = {"GuidedGradCAM": {"layer": "conv2"}}


def cost(made: why.Method, images: torch.Tensor, check: Literal["free", "basic"]) -> tuple[int, int]:
    """Evaluations of the explanation, and of its checks."""
    background = images[:4] if made.facts.baselines == "set" else None
    record = made.explain(images, background, check=check).provenance
    return record["forward_rows"] + record["backward_rows"], record["check_rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What checks cost.")
    parser.add_argument("--images", type=int, default=2, help="explained together (2)")
    count = parser.parse_args().images
    torch.manual_seed(0)
    net, images = ConvNet().eval(), digits()[1].inputs[:count]
    print(f"{'per image':22}{'explanation':>12}{'free':>8}{'basic':>8}{'basic in %':>12}")
    within, refused = [], {}
    for name, cls in methods().items():
        given = net if cls.info.standalone else why.Saliency(net)
        try:
            made = cls(given, progress=False, **NEEDS.get(name, {}))
            (own, free), (_, basic) = (cost(made, images, level) for level in ("free", "basic"))
        except why.TorchwhyError as error:
            refused[name] = str(error)
            continue
        within += [name] if basic <= LIMIT * own else []
        print(
            f"{name:22}{own / count:12.1f}{free / count:8.2f}{basic / count:8.2f}{100 * basic / own:11.0f} %",
            flush=True,
        )
    print(f"basic is within {100 * LIMIT:.0f} % for {len(within)}: {', '.join(within)}")
    for name, reason in refused.items():
        print(f"{name}: {reason}")


if __name__ == "__main__":
    main()
