"""UER-py's BERT (Zhao et al. 2019): its names to those of transformers, and its config to the config.json of transformers.

The toolkit is no longer maintained, and its checkpoints, many of them Chinese, are read by nothing else.
"""

import math
import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from torch import Tensor

from encoderkit.errors import DataError

MARK = "embedding.word.embedding.weight"
"""What a checkpoint of UER-py has and no other; older versions lack the second part of the name."""
_OLD_MARK = "embedding.word_embedding.weight"
_ROWS = 1
"""Rows of the segment embedding before the first text's: UER-py counts padding as segment 0."""

_EMBEDDINGS = {
    r"embedding\.(word|pos|position|seg|segment)(?:\.embedding|_embedding)\.weight": "bert.embeddings.{}_embeddings.weight",
    r"embedding\.layer_norm\.(gamma|beta|weight|bias)": "bert.embeddings.LayerNorm.{}",
}
_LAYER = {
    r"self_attn\.linear_layers\.(0|1|2)\.(weight|bias)": "attention.self.{}.{}",
    r"self_attn\.final_linear\.(weight|bias)": "attention.output.dense.{}",
    r"layer_norm_1\.(gamma|beta|weight|bias)": "attention.output.LayerNorm.{}",
    r"feed_forward\.linear_1\.(weight|bias)": "intermediate.dense.{}",
    r"feed_forward\.linear_2\.(weight|bias)": "output.dense.{}",
    r"layer_norm_2\.(gamma|beta|weight|bias)": "output.LayerNorm.{}",
}
_TARGET = {
    r"target\.(?:mlm\.|mlm_)?(?:mlm_)?linear_1\.(weight|bias)": "cls.predictions.transform.dense.{}",
    r"target\.(?:mlm\.)?layer_norm\.(gamma|beta|weight|bias)": "cls.predictions.transform.LayerNorm.{}",
    r"target\.(?:mlm\.|mlm_)?(?:mlm_)?linear_2\.(weight|bias)": "cls.predictions.decoder.{}",
    r"target\.(?:sp\.|nsp_)?(?:nsp_)?linear_1\.(weight|bias)": "bert.pooler.dense.{}",
    r"target\.(?:sp\.|nsp_)?(?:nsp_)?linear_2\.(weight|bias)": "cls.seq_relationship.{}",
}
_WORDS = {
    "word": "word",
    "pos": "position",
    "position": "position",
    "seg": "token_type",
    "segment": "token_type",
    "gamma": "weight",
    "beta": "bias",
    "0": "query",
    "1": "key",
    "2": "value",
}


def is_uer(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a BERT of UER-py."""
    return MARK in tensors or _OLD_MARK in tensors


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """UER-py's tensors under the names of transformers' BERT; what has no place there keeps its name.

    Its layer norm divides by the standard deviation of a sample (n - 1), torch's by that of a population: the difference
    goes into the weight of the norm, so that the outputs are UER-py's.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs = _renamed(name)
        if theirs == "cls.predictions.decoder.bias":
            theirs = "cls.predictions.bias"
        if theirs == "bert.embeddings.token_type_embeddings.weight":
            tensor = tensor[_ROWS:]
        if theirs.endswith("LayerNorm.weight"):
            tensor = tensor * math.sqrt(1 - 1 / len(tensor))
        result[theirs] = tensor
    return result


def _renamed(name: str) -> str:
    layer = re.fullmatch(r"encoder\.transformer\.(\d+)\.(.*)", name)
    tables = [(_LAYER, f"bert.encoder.layer.{layer[1]}.", layer[2])] if layer else [(_EMBEDDINGS, "", name), (_TARGET, "", name)]
    for table, before, rest in tables:
        for pattern, theirs in table.items():
            if found := re.fullmatch(pattern, rest):
                return before + theirs.format(*(_WORDS.get(group, group) for group in found.groups()))
    return name


def described(tensors: Mapping[str, Tensor], config: Mapping[str, Any], pad: int) -> dict[str, Any]:
    """The config.json of transformers for `renamed` tensors: sizes from the tensors, the rest from UER-py's `config`.

    Without a config there are dim / 64 heads and GELU, as in every BERT that Google and UER-py published.
    """
    if not isinstance(config, Mapping):
        raise DataError("holds no JSON object", fix="UER-py's own config, such as models/bert/base_config.json")
    legal = {"embedding": (["word", "pos", "seg"], "word_pos_seg"), "encoder": ("transformer",), "mask": ("fully_visible",)}
    for key, values in legal.items():
        if key in config and config[key] not in values:
            raise DataError(
                f"{key} is {config[key]}; only the BERTs of UER-py can be imported, in which it is {values[-1]}",
                fix="take a BERT of UER-py, or the same model in the form of transformers",
            )
    for key in ("layernorm_positioning", "feed_forward", "share_embedding", "relative_position_embedding"):
        if config.get(key) not in (None, False, "post", "dense"):
            fix = "take a BERT of UER-py, or the same model in the form of transformers"
            raise DataError(f"{key} is {config[key]}; only the BERTs of UER-py can be imported", fix=fix)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    masked = "cls.predictions.transform.dense.weight" in tensors
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if masked else "BertModel"],
        "vocab_size": len(words),
        "hidden_size": words.shape[1],
        "num_hidden_layers": next(i for i in count() if f"bert.encoder.layer.{i}.output.dense.weight" not in tensors),
        "num_attention_heads": config.get("heads_num") or max(1, words.shape[1] // 64),
        "intermediate_size": len(tensors["bert.encoder.layer.0.intermediate.dense.weight"]),
        "hidden_act": config.get("hidden_act", "gelu"),
        "hidden_dropout_prob": config.get("dropout", 0.1),
        "attention_probs_dropout_prob": config.get("dropout", 0.1),
        "max_position_embeddings": len(tensors["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["bert.embeddings.token_type_embeddings.weight"]),
        "layer_norm_eps": 1e-12,  # it adds 1e-6 to the deviation, not to the variance
        "pad_token_id": pad,
    }
