"""Classifiers of transformers with random weights and a tokenizer of a few words, made here."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["red", "blue", "dog", "cat", "runs", "sleeps", "big", "small"]


def tiny_tokenizer():
    vocabulary = {w: n for n, w in enumerate(["[PAD]", "[UNK]", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


def write_family(place, labels, dtype=torch.bfloat16):
    """`labels`: {folder: its classes, or None for the base}; all but the base are moved from it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = BertForSequenceClassification(
        BertConfig(
            vocab_size=2 + len(WORDS), intermediate_size=32, max_position_embeddings=16, **sizes
        )
    )
    for name, classes in labels.items():
        model = BertForSequenceClassification(base.config)
        model.load_state_dict(base.state_dict())
        if classes:
            model.config.id2label = dict(enumerate(classes))
            model.config.label2id = {v: k for k, v in enumerate(classes)}
            with torch.no_grad():
                for w in model.parameters():
                    w.add_(torch.randn_like(w))
        model.to(dtype).save_pretrained(place / name)
        tiny_tokenizer().save_pretrained(place / name)
