"""From patches and a question to the tokens that the language model reads.

LLaMA-VID, arXiv 2311.17043, section 3; where paper and released code differ, the released code.
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.models.llama_vid.bert import build_bert
from longreel.models.llama_vid.presets import QFormerSize, TextDecoder
from longreel.models.llama_vid.qformer import build_qformer, published_frames, qformer_frames
from longreel.models.published_qformer import released_qformer_name
from longreel.models.record import Ops
from longreel.nn import ContextAttention
from longreel.ops._adaptive_pool import adaptive_pool
from longreel.ops._compress_frames import compress_frames

Equation = Literal["released", "paper"]


class Adapter(nn.Module):
    """The text decoder and the context attention, with the pooling and the projections into the language model.

    C is the width of the patches, H that of the language model, E that of the text decoder, M its rows.

    Args:
        size: the text decoder. vision_width: C. language_width: H.
        text_decoder: "qformer": learned queries read the frame, every released checkpoint has it; "bert": the question's
            own tokens are the queries of a causal BERT that attends to the CLS-free patches in every layer.
        average_padding: of a BERT, rows of a question's padding count in the mean over its rows, as in the released code, so
            that an answer depends on what else is in the batch; by default they take no part.
        compress, projector: content tokens, as in `longreel.nn.ContextAttention`.
        num_prefix_tokens: leading tokens (CLS) that the Q-Former reads and the context attention does not; 0 where the
            features come without, as the released code's long videos do.
        equation: "released" scores Wp q . Wk x / sqrt(C); "paper" is the paper's equation 1, Wp q . x, without a scale
            and without Wk (whose weights stay in the state dict).
        backend: as in `longreel.compress_frames`.

    Raises:
        ValueError: `text_decoder`, `equation`, `compress` or `projector` is something else.
    """

    def __init__(
        self,
        size: QFormerSize,
        vision_width: int,
        language_width: int,
        *,
        text_decoder: TextDecoder = "qformer",
        average_padding: bool = False,
        compress: str | None = "mean",
        projector: str = "mlp2x_gelu",
        num_prefix_tokens: int = 1,
        equation: Equation = "released",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if equation not in get_args(Equation):
            raise ValueError(f"equation must be 'released' or 'paper', got {equation!r}")
        if text_decoder not in get_args(TextDecoder):
            raise ValueError(f"text decoder must be 'qformer' or 'bert', got {text_decoder!r}")
        self.equation, self.text_decoder, self.average_padding = equation, text_decoder, average_padding
        if text_decoder == "qformer":
            read = vision_width if size.reads is None else size.reads
            self.vlm_att_encoder: Any = build_qformer(size, read)
            self.vlm_att_query = nn.Parameter(torch.randn(1, size.queries, size.width))
            self.vlm_att_bert_proj = nn.Linear(vision_width, read) if size.reads is not None else None
            self.vlm_att_ln = nn.LayerNorm(read) if size.norm else None
            self.register_load_state_dict_pre_hook(_rename_older)
        else:
            self.vlm_att_encoder = build_bert(size)
            self.vlm_att_bert_proj = nn.Linear(vision_width, size.width)
        self.attention = ContextAttention(
            size.width,
            vision_width,
            language_width,
            compress=compress,
            projector=projector,
            num_prefix_tokens=num_prefix_tokens,
            backend=backend,
        )
        with torch.no_grad():
            for linear in (self.attention.vlm_att_projector, self.attention.vlm_att_key_projector):
                assert linear is not None
                linear.weight.normal_(std=linear.in_features**-0.5)

    def query(self, ids: Tensor, features: Tensor, mask: Tensor | None = None, *, ops: Ops = "longreel") -> Tensor:
        """What each question looks for in each frame: the rows of the text decoder.

        Questions are run one after the other without their padding, so that one question costs the same memory as many.

        Args:
            ids: int64 [P, T], the questions, padded on the right. mask: [P, T], nonzero for a real token; None: all are.
            features: [F, 1 + N, C], every token of the tower, CLS included where there is one.
            ops: "reference" runs transformers' Q-Former on every frame; "longreel" is `longreel.nn.QFormer`, which computes
                what no frame changes once and leaves out what nobody reads. The same mathematics.

        Returns:
            [P, F, M, E]; of a BERT M is T, and rows of padding are 0 (see `query_mask`).

        Raises:
            ValueError, TypeError: shapes or dtypes that do not fit.
        """
        _check_ops(ops)
        self._check_questions(ids, features, mask)
        if self.text_decoder == "bert":
            return self._bert_rows(ids, features, mask)
        questions = [row if mask is None else row[mask[index] != 0] for index, row in enumerate(ids)]
        encoded = features
        for part in (self.vlm_att_bert_proj, self.vlm_att_ln):
            encoded = encoded if part is None else part(encoded)
        run = qformer_frames if ops == "longreel" else published_frames
        return run(self.vlm_att_encoder, self.vlm_att_query[0], questions, encoded)

    def query_mask(self, mask: Tensor | None) -> Tensor | None:
        """`mask` of `compress` for questions whose padding `mask` [P, T] tells: a BERT's rows of padding take no part.

        None where all rows count: of a Q-Former, and with `average_padding`.
        """
        if mask is None or self.text_decoder == "qformer" or self.average_padding:
            return None
        return (mask != 0)[:, None]

    def compress(
        self, queries: Tensor, features: Tensor, *, mask: Tensor | None = None, ops: Ops = "longreel"
    ) -> Tensor:
        """The language model's tokens, a frame's context token before its content tokens.

        Args:
            queries: [P, F, M, E] from `query`. features: [F, 1 + N, C]. mask: bool [P, 1, M], rows that count; None: all.
            ops: "reference" is the released order of operations in plain PyTorch; "longreel" is `ContextAttention`,
                which folds both projections into the queries and reads the patches once. The same mathematics.

        Returns:
            [P, F * (1 + n), H].
        """
        _check_ops(ops)
        if ops == "reference":
            tokens = released_token_generation(self.attention, queries, features, self.equation, mask)
        elif self.equation == "paper":
            tokens = self._paper_tokens(queries, features, mask)
        else:
            tokens = self.attention(queries, features, mask)
        return tokens.flatten(1, 2)

    def _check_questions(self, ids: Tensor, features: Tensor, mask: Tensor | None) -> None:
        for name, given, dims in (("ids", ids, 2), ("features", features, 3), ("mask", mask, 2)):
            if given is None and name == "mask":
                continue
            if not isinstance(given, Tensor) or given.is_floating_point() is not (name == "features"):
                wanted = "floating" if name == "features" else "whole or boolean"
                kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
                raise TypeError(f"{name} must be a tensor of {wanted} numbers, given {kind}")
            if given.dim() != dims:
                raise ValueError(f"{name} must have {dims} dimensions, given {list(given.shape)}")
        if mask is not None and mask.shape != ids.shape:
            raise ValueError(f"mask must be {list(ids.shape)} as ids, given {list(mask.shape)}")
        if features.shape[-1] != self.attention.vision_width:
            raise ValueError(f"features must be [F, N, {self.attention.vision_width}], given {list(features.shape)}")

    def _bert_rows(self, ids: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        """[P, F, T, E]; the same code on every path."""
        assert self.vlm_att_bert_proj is not None
        patches = self.vlm_att_bert_proj(features[:, self.attention.num_prefix_tokens :])
        frames, rows = len(patches), []
        for index, row in enumerate(ids):
            valid = None if mask is None else mask[index] != 0
            # With its padding where that counts, else without.
            real = row if valid is None or self.average_padding else row[valid]
            states = self.vlm_att_encoder(
                input_ids=real.expand(frames, -1),
                attention_mask=valid.expand(frames, -1) if valid is not None and self.average_padding else None,
                encoder_hidden_states=patches,
                use_cache=False,
            ).last_hidden_state
            rows.append(F.pad(states, (0, 0, 0, len(row) - len(real))))
        return torch.stack(rows)

    def _paper_tokens(self, queries: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        attention = self.attention
        assert attention.vlm_att_projector is not None
        context, content, _ = compress_frames(
            attention.vlm_att_projector(queries), features, **attention.pooling, query_mask=mask,
            num_prefix_tokens=attention.num_prefix_tokens, scale=1.0, backend=attention.backend,
        )  # fmt: skip
        # [P, F, 1, H] and [F, n, H]
        first = attention.vlm_att_val_projector(context).unsqueeze(-2)
        return _join(first, attention.mm_projector(content))


def released_token_generation(
    attention: ContextAttention,
    queries: Tensor,
    features: Tensor,
    equation: Equation = "released",
    mask: Tensor | None = None,
) -> Tensor:
    """What `attention` computes, in the released order: keys for every patch, softmax, values, mean over the queries.

    queries [P, F, M, E], features [F, prefix + N, C], mask bool [P, 1, M] -> [P, F, 1 + n, H].
    """
    patches = features[:, attention.num_prefix_tokens :]
    # [P, F, M, C], [F, C, N], [P, F, M, N]
    text = attention.vlm_att_projector(queries) if attention.vlm_att_projector is not None else queries
    if equation == "paper":
        scores = text @ patches.transpose(-1, -2)
    else:
        scores = text @ attention.vlm_att_key_projector(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
    attended = scores.softmax(-1) @ patches
    if mask is None:
        context = attended.mean(-2, keepdim=True)
    else:
        context = (attended * mask[..., None]).sum(-2, keepdim=True) / mask.sum(-1)[..., None, None]
    content = attention.mm_projector(adaptive_pool(patches, **attention.pooling, backend="reference"))
    return _join(attention.vlm_att_val_projector(context), content)


def _check_ops(ops: str) -> None:
    if ops not in get_args(Ops):
        raise ValueError(f"ops must be 'reference' or 'longreel', got {ops!r}")


def _rename_older(adapter: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Entries saved while the Q-Former was transformers' own get the released names."""
    start = f"{prefix}vlm_att_encoder."
    for name in [name for name in state if name.startswith(start)]:
        state[start + released_qformer_name(name.removeprefix(start))] = state.pop(name)


def _join(first: Tensor, content: Tensor) -> Tensor:
    """Context tokens [P, F, 1, H] before the content tokens [F, n, H] that all questions share."""
    return torch.cat([first, content.expand(first.shape[0], -1, -1, -1)], -2)
