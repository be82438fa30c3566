"""A stand-in for the Q-Former module of BLIP-2's, LLaMA-VID's and Video-LLaMA's repositories: their class, attribute, argument
and parameter names, written for these tests."""

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BertSelfAttention(nn.Module):
    def __init__(self, config: Any, is_cross_attention: bool) -> None:
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = config.hidden_size
        seen = config.encoder_width if is_cross_attention else config.hidden_size
        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key, self.value = nn.Linear(seen, self.all_head_size), nn.Linear(seen, self.all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.position_embedding_type = "absolute"
        self.save_attention = False

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
    ):
        cross = encoder_hidden_states is not None
        seen, mask = (encoder_hidden_states, encoder_attention_mask) if cross else (hidden_states, attention_mask)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        query, key, value = heads(self.query(hidden_states)), heads(self.key(seen)), heads(self.value(seen))
        scores = query @ key.mT / math.sqrt(self.attention_head_size)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        dropped = self.dropout(weights)
        mixed = ((dropped if head_mask is None else dropped * head_mask) @ value).transpose(1, 2).flatten(2)
        return (mixed, *([weights] if output_attentions else []), (key, value))


class BertSelfOutput(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


class BertAttention(nn.Module):
    def __init__(self, config: Any, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, is_cross_attention)
        self.output = BertSelfOutput(config)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
    ):
        found = self.self(
            hidden_states,
            attention_mask,
            head_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_value,
            output_attentions,
        )
        return (self.output(found[0], hidden_states), *found[1:])


class BertIntermediate(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = F.gelu

    def forward(self, hidden_states):
        return self.intermediate_act_fn(self.dense(hidden_states))


class BertOutput(BertSelfOutput):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)


class BertLayer(nn.Module):
    def __init__(self, config: Any, layer_num: int) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.has_cross_attention = layer_num % config.cross_attention_freq == 0
        if self.has_cross_attention:
            self.crossattention = BertAttention(config, is_cross_attention=True)
        text = config.vocab_size > 0
        self.intermediate, self.output = (BertIntermediate(config), BertOutput(config)) if text else (None, None)
        self.intermediate_query, self.output_query = BertIntermediate(config), BertOutput(config)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_value=None,
        output_attentions=False,
        query_length=0,
    ):
        found = self.attention(hidden_states, attention_mask, head_mask, output_attentions=output_attentions)
        rows, text, outputs = found[0][:, :query_length], found[0][:, query_length:], found[1:-1]
        if self.has_cross_attention:
            crossed = self.crossattention(
                rows,
                attention_mask,
                head_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                output_attentions=output_attentions,
            )
            rows, outputs = crossed[0], outputs + crossed[1:-1]
        rows = self.output_query(self.intermediate_query(rows), rows)
        if text.shape[1]:
            rows = torch.cat([rows, self.output(self.intermediate(text), text)], dim=1)
        return (rows, *outputs, found[-1])


class BertEncoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, i) for i in range(config.num_hidden_layers))


class BertEmbeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.vocab_size > 0:
            self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, input_ids=None, position_ids=None, query_embeds=None, past_key_values_length=0):
        rows = query_embeds
        if input_ids is not None:
            at = self.position_ids[:, : input_ids.shape[1]]
            rows = torch.cat([rows, self.word_embeddings(input_ids) + self.position_embeddings(at)], 1)
        return self.dropout(self.LayerNorm(rows))


class BertModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings, self.encoder = BertEmbeddings(config), BertEncoder(config)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        head_mask=None,
        query_embeds=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        is_decoder=False,
    ):
        rows = self.embeddings(input_ids=input_ids, query_embeds=query_embeds)
        if attention_mask is None:
            attention_mask = rows.new_ones(rows.shape[:2])
        masks = [
            (1.0 - mask[:, None, None].to(rows.dtype)) * -10000.0 for mask in (attention_mask, encoder_attention_mask)
        ]
        attentions = ()
        for layer in self.encoder.layer:
            found = layer(
                rows, masks[0], None, encoder_hidden_states, masks[1], None, output_attentions, query_embeds.shape[1]
            )
            rows, attentions = found[0], attentions + found[1:-1]
        return SimpleNamespace(last_hidden_state=rows, attentions=attentions)


class BertLMHeadModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.bert, self.cls = BertModel(config), None


def config(**sizes: Any) -> SimpleNamespace:
    """A BertConfig: without words where the vocabulary is empty."""
    given = {
        "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 48, "encoder_width": 32,
        "cross_attention_freq": 2, "vocab_size": 0, "max_position_embeddings": 64, "layer_norm_eps": 1e-12,
        "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**(given | sizes))
