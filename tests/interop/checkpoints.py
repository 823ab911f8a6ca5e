"""Checkpoints as transformers writes them, small and with random weights, of every family that is imported."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from torch import nn

TEXTS = [
    "The films is goodly!",
    "电影好 the café",
    "un 😀 ａｂｃ e\u0301 a\tb\u200d\u0007c",
    "İstanbul Straße ﬁne ½ ㎏",
    "  leading and  double   spaces \n lines\r\n end  ",
    "한국어 문장, затем русский текст, και λίγα ελληνικά.",
    "👩‍👩‍👧 𝒳 naïve \u00ad soft\u2028sep \ufeff bom \x7f",
    "a_b-c/d (e) {g} 3rd £4.50 «q» ``d'' n't I'm",
    "नमस्ते दुनिया สวัสดีชาวโลก مرحبا",
    "Ω\u0323\u0307 Å Å \u1e9b\u0323 é",
    "ｶﾞｷﾞ 日本語の文章",
    "x" * 300,
]
"""Of many scripts, with emoji, full-width letters, combining marks, control characters and spaces of all kinds."""

UNIGRAM: dict[str, dict[str, Any]] = {
    "T5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "Albert": {
        "pad_id": 0, "unk_id": 1, "eos_id": -1, "bos_id": -1,
        "control_symbols": "[CLS],[SEP],[MASK]", "user_defined_symbols": "(,),-,.,£",
    },
    "XLNet": {"control_symbols": "<cls>,<sep>,<pad>,<mask>,<eod>", "user_defined_symbols": "<eop>,.,(,),-,£"},
    "XLMRoberta": {},
    "Camembert": {},
    "MT5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "user_defined_symbols": "▁<extra_id_1>,▁<extra_id_0>"},
    "DebertaV2": {
        "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3,
        "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]",
    },
}  # fmt: skip
"""How the authors of each family trained their tokenizers with sentencepiece."""


def sentencepiece_model(family: str) -> bytes:
    """A model of sentencepiece with the special pieces of the family's own."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:-1] * 3), model_writer=out, vocab_size=220, hard_vocab_limit=False,
        character_coverage=0.99, minloglevel=3, **UNIGRAM[family],
    )  # fmt: skip
    return out.getvalue()


def tokenizer_files(family: str, folder: Path, lowercase: bool = True) -> None:
    """The files of a tokenizer as the family's authors published theirs."""
    if family in UNIGRAM:
        name = {"DebertaV2": "spm.model", "XLMRoberta": "sentencepiece.bpe.model", "Camembert": "sentencepiece.bpe.model"}
        name = name.get(family, "spiece.model")
        (folder / name).write_bytes(sentencepiece_model(family))
        if family == "MT5":
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}', encoding="utf-8")
    elif family in ("Bert", "Electra"):
        letters = sorted({c for text in TEXTS for c in (text + text.lower()) if not c.isspace()})
        special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = ["the", "The", "film", "##ly", "good", "cafe", *letters, *(f"##{c}" for c in letters)]
        (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n", encoding="utf-8")
        described = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase}
        (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    elif family == "ModernBert":
        _modern(folder)
    else:
        special = ["<|endoftext|>"] if family == "GPT2" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        _byte_bpe(special).save_model(str(folder))


def _byte_bpe(special: list[str]) -> Any:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS * 3, vocab_size=330, special_tokens=special, show_progress=False)
    return trained


def _modern(folder: Path) -> None:
    """A tokenizer.json like the one of ModernBERT: byte-level, NFC, with runs of spaces and marks as pieces of their own."""
    from tokenizers import AddedToken, Tokenizer, normalizers, processors

    engine = Tokenizer.from_str(_byte_bpe(["|||IP_ADDRESS|||", "<|padding|>"]).to_str())
    engine.normalizer = normalizers.NFC()
    engine.add_tokens([AddedToken(" " * n, normalized=True) for n in range(4, 1, -1)])
    engine.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", AddedToken("[MASK]", lstrip=True)])
    ids = [(name, engine.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    engine.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ids)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=engine, **names).save_pretrained(folder)


SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "Bert": {
        "odd": {"hidden_size": 21, "num_attention_heads": 3, "type_vocab_size": 2, "hidden_act": "gelu_new"},
        "wide": {"hidden_size": 20, "num_attention_heads": 5, "type_vocab_size": 4, "intermediate_size": 33},
    },
    "Roberta": {
        "odd": {"hidden_size": 21, "num_attention_heads": 3, "type_vocab_size": 1},
        "wide": {"hidden_size": 28, "num_attention_heads": 7, "hidden_act": "silu", "type_vocab_size": 1},
    },
    "Albert": {
        "odd": {"hidden_size": 21, "num_attention_heads": 3, "embedding_size": 10},
        "groups": {
            "hidden_size": 20, "num_attention_heads": 4, "embedding_size": 20, "num_hidden_layers": 5,
            "num_hidden_groups": 2, "inner_group_num": 2,
        },
    },
    "Electra": {
        "odd": {"hidden_size": 21, "num_attention_heads": 3, "embedding_size": 10},
        "equal": {"hidden_size": 20, "num_attention_heads": 5, "embedding_size": 20, "hidden_act": "relu"},
    },
    "XLNet": {
        "odd": {"d_model": 18, "n_head": 3, "n_layer": 2, "d_inner": 31},
        "wide": {"d_model": 20, "n_head": 5, "n_layer": 3, "d_inner": 33, "ff_activation": "relu"},
    },
    "GPT2": {
        "odd": {"n_embd": 21, "n_head": 3, "n_layer": 2, "n_positions": 64},
        "wide": {"n_embd": 20, "n_head": 5, "n_layer": 3, "n_positions": 64, "n_inner": 33, "activation_function": "relu"},
    },
    "T5": {
        "1.0": {"d_model": 20, "d_kv": 7, "num_heads": 3, "d_ff": 30, "num_layers": 2, "feed_forward_proj": "relu"},
        "1.1": {
            "d_model": 21, "d_kv": 6, "num_heads": 3, "d_ff": 31, "num_layers": 3, "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
    },
    "XLMRoberta": {"odd": {"hidden_size": 21, "num_attention_heads": 3, "type_vocab_size": 1, "layer_norm_eps": 1e-5}},
    "Camembert": {"odd": {"hidden_size": 18, "num_attention_heads": 3, "type_vocab_size": 1}},
    "MT5": {
        "odd": {"d_model": 21, "d_kv": 6, "num_heads": 3, "d_ff": 31, "num_layers": 3, "num_decoder_layers": 2},
    },
    "ModernBert": {
        "odd": {"hidden_size": 18, "num_attention_heads": 3, "local_attention": 8, "num_hidden_layers": 5},
        "biased": {
            "hidden_size": 20, "num_attention_heads": 5, "local_attention": 6, "num_hidden_layers": 4, "norm_bias": True,
            "mlp_bias": True, "attention_bias": True, "classifier_bias": True, "classifier_pooling": "mean",
        },
    },
    "DebertaV2": {
        "xlarge": {
            "hidden_size": 24, "num_attention_heads": 3, "relative_attention": True, "pos_att_type": "p2c|c2p",
            "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
            "type_vocab_size": 0, "pooler_hidden_size": 24, "conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2,
        },
        "wide": {
            "hidden_size": 20, "num_attention_heads": 5, "relative_attention": True, "pos_att_type": ["c2p"],
            "position_biased_input": True, "type_vocab_size": 2, "pooler_hidden_size": 20, "conv_kernel_size": 5,
        },
        "v3": {
            "hidden_size": 21, "num_attention_heads": 3, "relative_attention": True, "pos_att_type": "p2c|c2p",
            "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
            "type_vocab_size": 0, "pooler_hidden_size": 21,
        },
        "other": {
            "hidden_size": 20, "num_attention_heads": 5, "relative_attention": True, "pos_att_type": ["c2p"],
            "position_buckets": -1, "share_att_key": False, "position_biased_input": True, "type_vocab_size": 2,
            "pooler_hidden_size": 20,
        },
    },
}  # fmt: skip
"""Settings of small models of each family, of odd and of other shapes."""

HEADS: dict[str, tuple[str, ...]] = {
    "Bert": ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification"),
    "Roberta": ("Model", "ForMaskedLM", "ForSequenceClassification"),
    "Albert": ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification"),
    "Electra": ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification"),
    "XLNet": ("Model", "LMHeadModel", "ForSequenceClassification"),
    "GPT2": ("Model", "LMHeadModel", "ForSequenceClassification"),
    "T5": ("EncoderModel", "ForConditionalGeneration"),
    "MT5": ("EncoderModel", "ForConditionalGeneration"),
    "XLMRoberta": ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    "Camembert": ("Model", "ForMaskedLM", "ForSequenceClassification"),
    "ModernBert": ("Model", "ForMaskedLM", "ForSequenceClassification"),
    "DebertaV2": ("Model", "ForMaskedLM", "ForSequenceClassification"),
}
"""The classes with a head for which there is a place here."""
LABELS = ["no", "yes", "不知道"]
SIZES = {"num_hidden_layers": 2, "intermediate_size": 40, "max_position_embeddings": 64}


def published(folder: Path, family: str, shape: str, head: str, **more: Any) -> Any:
    """Write a checkpoint with random weights that are unlike fresh ones, and its tokenizer; the model in evaluation mode."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_files(family, folder)
    settings = {
        **({} if family in ("XLNet", "GPT2", "T5", "MT5") else SIZES),
        **({"id2label": dict(enumerate(LABELS))} if head.endswith("Classification") else {}),
        **SHAPES[family][shape],
        **more,
    }
    config_class = getattr(transformers, f"{family}Config")
    (folder / "config.json").write_text(json.dumps({"model_type": config_class.model_type}), encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    named = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    named |= {"cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id} if family == "ModernBert" else {}
    ids = {f"{role}_token_id": id for role, id in named.items() if id is not None}
    ids |= {"decoder_start_token_id": 0} if family in ("T5", "MT5") else {}
    ids |= {"pad_token_id": 0} if family == "GPT2" else {}
    torch.manual_seed(1)
    model = getattr(transformers, family + head)(config_class(vocab_size=len(tokenizer) + 3, **{**settings, **ids}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.25)
    model.tie_weights()
    if family == "MT5" and head == "ForConditionalGeneration":  # published with a head of its own, though it says tied
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight) / 4)
    model.eval().save_pretrained(folder)
    return model
