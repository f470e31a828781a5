"""Change the chain of a checkpoint for further training, such as from LISA's one stage to CoReS' two."""

from dataclasses import replace

from cores_core.config import ChainConfig
from cores_core.model.build import Parts, with_vocabulary
from cores_core.model.refiner import TokenRefiner
from cores_core.model.weights.vocabulary import add_tokens
from cores_core.prompts import Context

REFINER = "refiner."
"""Name prefix of the refiner's tensors."""


def change_chain(parts: Parts, chain: ChainConfig, context: Context) -> Parts:
    """Change tokenizer and weights of a model, in place, to those of another chain.

    Adds missing chain tokens with new embedding rows, and adds or removes the refiner. New weights are drawn from
    torch's global generator.

    Returns:
        The parts with the new chain, context and vocabulary size.
    """
    config = replace(parts.config, chain=chain, context=context)
    parts = with_vocabulary(
        replace(parts, config=config), add_tokens(parts.tokenizer, parts.weights, config.prompt.chain)
    )
    has_refiner = any(name.startswith(REFINER) for name in parts.weights)
    wants_refiner = chain.refiner and chain.stages > 1
    if wants_refiner and not has_refiner:
        new = TokenRefiner(parts.prompt_width).state_dict()
        parts.weights.update({f"{REFINER}{name}": tensor for name, tensor in new.items()})
    for name in [name for name in parts.weights if name.startswith(REFINER) and not wants_refiner]:
        del parts.weights[name]
    return parts
