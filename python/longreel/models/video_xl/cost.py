"""What Video-XL takes, by formula."""

from collections.abc import Sequence

from longreel.layout.ratios import RatioDraw, chunk_lengths
from longreel.models import cost
from longreel.models.cost import FLOAT, Setting, StageCost, SystemCost
from longreel.models.video_xl.presets import VideoXLPreset


def windows(preset: VideoXLPreset, frames: int, ratios: Sequence[int], draw: str) -> list[tuple[int, int]]:
    """Of so many frames: visual tokens, and the VST tokens behind them."""
    drawn, carry, out = RatioDraw(ratios, draw), 0, []
    for length in chunk_lengths(frames * preset.frame, preset.window):
        ratio = drawn.next(length)
        out.append((length, (length + carry) // ratio))
        carry = (length + carry) % ratio
    return out


def system_cost(preset: VideoXLPreset, setting: Setting, ratios: Sequence[int], draw: str) -> SystemCost:
    tower, language, item = preset.tower, preset.language, setting.itemsize
    parts = windows(preset, setting.frames, ratios, draw)
    vst = sum(count for _, count in parts)
    cached, token, width = setting.before + vst, cost.kv_bytes(language, item), language.width
    room = (cached, setting.text)
    tables = FLOAT * sum(room) * language.head
    memory = cached * token + tables
    features, held = cost.features_bytes(tower, setting, tower.patches), setting.held
    waiting = 0 if held * preset.frame % preset.window == 0 else preset.window * width
    few, tokens = setting.tower_frames, held * preset.frame * width
    # The MLP's two tensors of as many frames as go together, beside what came of all of them.
    hidden = 2 * few * tower.patches * width + tokens * (few < held)
    flops = 2 * setting.frames * (tower.patches * tower.width + preset.frame * width) * width
    moved = item * setting.frames * (tower.patches * (tower.width + 2 * width) + preset.frame * width)
    # The memory is there from the first window on.
    there = memory * (setting.done * preset.frame >= preset.window) + item * waiting * (setting.done > 0)
    project = StageCost("project", flops, moved, there + features + item * hidden)
    stages = (
        cost.tower(tower, setting, tower.patches, 3).beside(there),
        project,
        _memory(preset, setting, parts, memory + features + item * (2 * tokens + waiting)),
        cost.answer_of_memory(
            language,
            setting,
            cached,
            memory + setting.text * token + item * setting.after * (3 * language.mlp + 4 * width),
        ),
    )
    read = setting.before + setting.frames * preset.frame
    return SystemCost(
        cached, cached * token, (cached + setting.text) * token, read, vst + setting.text, language.positions, stages
    )


def _memory(preset: VideoXLPreset, setting: Setting, parts: Sequence[tuple[int, int]], held: int) -> StageCost:
    """Window after window; of the last two layers one makes VST rows alone, the other keys and values alone."""
    size, item = preset.language, setting.itemsize
    own, kv = 2 * size.heads * size.head, 2 * size.kv_heads * size.head
    row, pair = 2 * size.width * (own + kv + 3 * size.mlp), 4 * size.heads * size.head
    whole, before, flops = size.layers - 2, setting.before, 0
    for visual, vst in parts:
        rows, ratio = visual + vst, visual / max(vst, 1)
        # Raw tokens attend to those before them in the window; a VST those of its own part, and the VSTs before it.
        inside = visual * (visual + 1) // 2 + int(visual * vst / 2) + int(vst * ratio) + vst * (vst + 1) // 2
        flops += whole * (row * rows + pair * (inside + rows * before))
        flops += 2 * size.width * (kv * rows + (own + 3 * size.mlp + kv) * vst) + pair * vst * (before + visual // 2)
        before += vst
    visual, vst = max(parts)
    working = (visual + vst) * (4 * size.width + 3 * size.mlp)
    # Every pass reads the weights and the memory so far.
    read = len(parts) * size.parameters * item + cost.kv_bytes(size, item) * before * len(parts) // 2
    return StageCost("memory", flops, read, held + item * working)
