"""The training pass of a decoder of two layers: what the questions read of a video, and nothing else.

Nobody reads a visual token's own result of the last two layers (`VSTDecoder(skip_unread=)` does so at inference): of two layers
the first gives it keys and values only, and the last nothing. The numbers are those of the plain pass.
"""

from functools import lru_cache

import torch
from torch import Tensor

from longreel import VideoLayout, block_sparse_attention, vst_rotate
from longreel.layout import PlannedLayout, global_positions, query_positions
from longreel.layout.part import planned_from
from longreel.models.video_xl import VSTDecoder
from longreel.rotary import rotary_tables, rotated


class Plan:
    """Of a video of so many chunks, and so many questions behind it: plans and positions, rows grouped [video, asked | VST]."""

    def __init__(self, chunks: int, chunk: int, ratio: int, asked: int) -> None:
        layout = VideoLayout.vst(visual=chunks * chunk, chunk=chunk, ratio=ratio, text=asked).grouped()
        self.raw, self.asked = chunks * chunk + asked, asked
        self.vst = layout.length - self.raw
        self.whole, self.read = layout.to("cpu"), planned_from(layout, self.raw - asked, "cpu")
        # [R], in position order the row there, and of each row its place.
        self.place = self.whole.bounds[0, :, 1].long() - 1
        self.row_at = self.place.argsort()
        self.at = torch.from_numpy(query_positions(layout)[0])
        self.final = torch.from_numpy(global_positions(layout)[0])
        self.text: PlannedLayout = VideoLayout.causal(self.vst + asked).rows(self.vst, self.vst + asked).to("cpu")
        # Which chunk each row is of; the questions are behind all.
        own, behind = torch.arange(chunks), torch.full((asked,), chunks)
        self.chunk_of = torch.cat([own.repeat_interleave(chunk), behind, own.repeat_interleave(self.vst // chunks)])


plan_of = lru_cache(maxsize=64)(Plan)


def answers(decoder: VSTDecoder, raw: Tensor, asked: Tensor, plan: Plan, skipped: Tensor | None = None) -> Tensor:
    """Logits [B, Q, V] behind each question.

    raw: visual tokens [B, tokens, E]; asked: ids [B, Q], one after the other behind the video. skipped: positions [B, chunks + 1]
    that are left out before each chunk and before the questions, as if there had been more video; they never get fewer.
    """
    batch, language = len(raw), decoder.language
    first, last = language.model.layers
    q_rows = slice(plan.raw - plan.asked, None)
    at, final = plan.at.expand(batch, -1), plan.final.expand(batch, -1)
    if skipped is not None:
        at, final = at + skipped[:, plan.chunk_of], final + skipped[:, plan.chunk_of[plan.raw :]]
    # [B, R, D/2]
    cos, sin = rotary_tables(decoder.inv_freq, at)
    x = torch.cat([raw, language.get_input_embeddings()(asked), decoder.vst.expand(batch, plan.vst, -1)], 1)

    own, normed = first.self_attn, first.input_layernorm(x)
    _, k, v = own.project_vst(normed, plan.raw)
    q, _, _ = own.project(normed[:, q_rows], plan.asked)
    q = rotated(q, cos[:, q_rows, None], sin[:, q_rows, None])
    _, moved_k, moved_v = vst_rotate(k, k, v, cos[:, plan.row_at], sin[:, plan.row_at], plan.whole)
    final_cos, final_sin = (t[:, :, None] for t in rotary_tables(decoder.inv_freq, final))
    memory_k, memory_v = rotated(k[:, plan.raw :], final_cos, final_sin), v[:, plan.raw :]
    out = block_sparse_attention(q, moved_k, moved_v, plan.read, global_k=memory_k, global_v=memory_v)
    x = x[:, q_rows] + own.o_proj(out.flatten(2))
    x = x + first.mlp(first.post_attention_layernorm(x))

    own = last.self_attn
    q, k, v = own.project(last.input_layernorm(x), plan.asked)
    turn = cos[:, q_rows, None][:, : plan.asked], sin[:, q_rows, None][:, : plan.asked]
    q, text_k = rotated(q[:, : plan.asked], *turn), rotated(k[:, : plan.asked], *turn)
    # [B, VST and questions, H, D], in position order.
    k = torch.cat([rotated(k[:, plan.asked :], final_cos, final_sin), text_k], 1)
    v = torch.cat([v[:, plan.asked :], v[:, : plan.asked]], 1)
    x = x[:, : plan.asked] + own.o_proj(block_sparse_attention(q, k, v, plan.text).flatten(2))
    x = x + last.mlp(last.post_attention_layernorm(x))
    return decoder.logits(language.model.norm(x))
