"""Where does a vision transformer look, and which method tells it best?

    python examples/vision_transformer.py [--steps 300] [--out vision-transformer.png]

Nothing is downloaded: a small ViT with random weights learns handwritten digits. Five methods explain its decisions;
each is judged by how fast the score falls when what it marks is removed, beside marks made at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification

import torchwhy as why
from torchwhy.data import Dataset, digits


def learned(data: Dataset, steps: int) -> ViTForImageClassification:
    """A transformer with patches of 3 x 3 pixels: 16 tokens, and that of the class in front."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=12,
        patch_size=3,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        some = torch.randint(len(data.labels), (64,))
        loss = torch.nn.functional.cross_entropy(model(data.inputs[some]).logits, data.labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main(steps: int, out: Path) -> dict[str, float]:
    """Print a table, draw the explanations of the best method, and give the score of each; lower is better."""
    train_set, test_set = digits()
    model = learned(train_set, steps)
    images, labels = test_set.inputs[:16], test_set.labels[:16]
    right = (model(images).logits.argmax(1) == labels).double().mean()
    print(f"right: {right:.0%}\n")
    methods = {
        "GradCAM": why.GradCAM(model, upsample="nearest"),  # at the last layer, on the grid of its tokens
        "LayerCAM": why.LayerCAM(model, upsample="nearest"),
        "AttentionRollout": why.AttentionRollout(model),
        "TransformerRelevance": why.TransformerRelevance(model),
        "AttnLRP": why.LRP(model, composite="AttnLRP"),
    }
    deletion = why.metrics.Deletion(model, positions=3, controls=("random",))
    found, made = {}, {}
    for name, method in methods.items():
        made[name] = method.explain(images)
        score = deletion.score(made[name].values, images)
        found[name] = score.mean
        print(f"{name:21}{score.mean:7.2f}   at random {float(score.controls['random'].mean()):7.2f}")
    best = min(found, key=lambda name: found[name])
    made[best].plot(4).savefig(out)
    print(f"\n{best}: {out}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--out", type=Path, default=Path("vision-transformer.png"), help="the picture")
    args = parser.parse_args()
    main(args.steps, args.out)
