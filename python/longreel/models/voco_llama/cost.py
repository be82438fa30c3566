"""What VoCo-LLaMA takes, by formula."""

from longreel.models import cost
from longreel.models.cost import Setting, StageCost, SystemCost
from longreel.models.voco_llama.presets import VoCoPreset


def system_cost(preset: VoCoPreset, setting: Setting, voco: int, causal: bool, absolute: bool) -> SystemCost:
    """voco: VoCo tokens of a frame. causal: a frame attends to those of earlier ones. absolute: every token has a position."""
    tower, language, item = preset.tower, preset.language, setting.itemsize
    frame, cached, frames = tower.patches + setting.between + voco, setting.frames * voco, setting.frames
    token = cost.kv_bytes(language, item)
    # The buffers begin with one pass and are doubled when they are full; one layer at a time has both.
    first = min(preset.at_once, frames) * voco
    room = first
    while room < cached:
        room *= 2
    buffers = room * token + (room > first) * room // 2 * token // language.layers
    features = cost.features_bytes(tower, setting, tower.patches)
    at_once, width = min(preset.at_once, setting.held), language.width
    rows = at_once * frame + setting.before
    own, kv = language.heads * language.head, language.kv_heads * language.head
    visible = rows + cached * causal
    # Embeddings before and behind the prefix, a layer's input, the sum, its norm; cosines and sines; the MLP or the attention.
    layer = rows * (5 * width + 2 * language.head + 3 * language.mlp)
    attention = rows * (4 * width + 2 * language.head + 3 * own) + 2 * kv * (rows + visible)
    projected = at_once * tower.patches * width
    working = max(projected + max(layer, attention), 2 * projected)
    pairs = frame * (frame + 1) // 2 * frames + causal * voco * frame * (frames * (frames - 1) // 2)
    flops = frames * (frame * cost.linear_flops(language) + 2 * tower.patches * (tower.width + width) * width)
    passes = -(-frames // preset.at_once)
    moved = item * (passes * language.parameters + frames * (tower.patches * tower.width + 4 * frame * width))
    vision = StageCost("vision", flops + pairs * cost.pair_flops(language), moved, buffers + features + item * working)
    # A fork's first token makes buffers of its own, twice as long.
    asked = room * token + 2 * cached * token + item * setting.after * (3 * language.mlp + 4 * width)
    stages = (
        cost.tower(tower, setting, tower.patches, 3).beside(room * token * (setting.done > 0)),
        vision,
        cost.answer_of_memory(language, setting, cached, asked),
    )
    positions = setting.text + (frames * frame if absolute else (frames - 1) * voco + frame)
    read = setting.before + frames * frame
    return SystemCost(cached, cached * token, room * token, read, positions, language.positions, stages)
