"""Which words of a prompt does a language model go by?

    python examples/language_model.py [--steps 400]

Nothing is downloaded: a small Llama with random weights learns for a moment that the second word comes again at the
end. Four methods are asked, in the same words, and each should find the second word.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import torchwhy as why

WORDS = ["(none)", "the", "cat", "dog", "bird", "sees", "hears", "and", "likes", "itself"]
LENGTH, SECOND = 6, 1


def sentences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prompts (count, LENGTH) of random words, and the word that comes next.

    Word 0 is none of them: it is what absent words are replaced by.
    """
    ids = torch.randint(1, len(WORDS), (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return ids, ids[:, SECOND]


def learned(steps: int) -> LlamaForCausalLM:
    """A model that has learned the rule."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        ids, following = sentences(64, seed=step)
        loss = torch.nn.functional.cross_entropy(model(ids).logits[:, -1], following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def shares(model: LlamaForCausalLM, ids: Tensor) -> dict[str, Tensor]:
    """One value for each word, by method."""
    target, embedding = why.Token(-1), "model.embed_tokens"  # the word the model itself wants next
    mask = why.masks.tokens(ids)
    return {
        "AttnLRP": why.LRP(model, composite="AttnLRP", at=embedding).attribute(ids, target=target).sum(2),
        "DeepLift": why.DeepLift(model, at=embedding).attribute(ids, target=target).sum(2),
        "TransformerRelevance": why.TransformerRelevance(model).attribute(ids, target=target),
        "ShapleyValues": why.ShapleyValues(model, feature_mask=mask).attribute(ids, target=target),
    }


def main(steps: int) -> dict[str, float]:
    """Print a table, and give how often each method finds the word that decides."""
    model = learned(steps)
    ids, following = sentences(8, seed=10_000)
    right = (model(ids).logits[:, -1].argmax(1) == following).double().mean()
    print(f"next word right: {right:.0%}\n")
    found = {}
    for name, values in shares(model, ids).items():
        found[name] = float((values.argmax(1) == SECOND).double().mean())
        told = "  ".join(f"{WORDS[i]} {v:+.2f}" for i, v in zip(ids[0].tolist(), values[0].tolist(), strict=True))
        print(f"{name:21}finds it in {found[name]:4.0%}   {told}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of training")
    main(parser.parse_args().steps)
