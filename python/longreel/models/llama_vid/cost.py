"""What LLaMA-VID takes, by formula."""

from longreel.models import cost
from longreel.models.cost import Setting, StageCost, SystemCost
from longreel.models.llama_vid.presets import LlamaVidPreset
from longreel.ops._qformer_attention import absorbed_flops, projected_flops

# As `longreel.models.llama_vid.qformer` and `longreel.nn.qformer` have them, on a CPU.
_FRAMES, _SAMPLES = 32, 16


def system_cost(preset: LlamaVidPreset, setting: Setting, prefix: int, content: int) -> SystemCost:
    """prefix: CLS tokens of the features. content: tokens of a frame besides the context token."""
    tower, language = preset.tower, preset.language
    features = tower.patches + prefix
    cached = setting.frames * (1 + content)
    width = language.width * setting.itemsize
    tokens_bytes = cached * width * setting.questions
    stages = (
        cost.tower(tower, setting, features, 2).beside(tokens_bytes * (setting.done > 0)),
        _query(preset, setting, features, tokens_bytes * (setting.done > 0)),
        _compress(preset, setting, features, content, tokens_bytes),
        cost.answer_behind(language, setting, setting.before + cached, tokens_bytes),
    )
    cache = cost.kv_bytes(language, setting.itemsize) * (cached + setting.text)
    return SystemCost(cached, tokens_bytes, cache, 0, cached + setting.text, language.positions, stages)


def _query(preset: LlamaVidPreset, setting: Setting, features: int, held: int) -> StageCost:
    size, channels, asked = preset.qformer, preset.qformer.reads or preset.tower.width, setting.after
    rows, questions, item = size.queries, setting.questions, setting.itemsize
    absorbed = absorbed_flops(1, rows * questions, features, channels, size.width, size.heads, False)
    projected = projected_flops(1, rows * questions, features, channels, size.width)
    reads = -(-size.layers // 2)
    own = 2 * (4 * size.width + 2 * size.mlp) * size.width * (rows + asked)
    each = size.layers * (own + 4 * (rows + asked) ** 2 * size.width) * questions
    each += reads * (min(absorbed, projected) + 4 * rows * questions * size.width**2)
    normed = cost.features_bytes(preset.tower, setting, features) * (size.norm + (size.reads is not None))
    at_once = setting.held if setting.gpu else min(setting.held, _SAMPLES)
    # The MLP of the queries beside the text's rows, or the other way round.
    of_queries = rows * 2 * (size.mlp + size.width) + asked * (size.mlp + 2 * size.width)
    of_text = asked * 2 * (size.mlp + size.width) + rows * 4 * size.width
    working = at_once * max(of_queries, of_text) + setting.held * rows * questions * size.width
    if projected <= absorbed:
        working += 2 * reads * (setting.held if setting.gpu else min(setting.held, _FRAMES)) * features * size.width
    live = held + cost.features_bytes(preset.tower, setting, features) + normed + item * working
    moved = 2 * setting.frames * features * preset.tower.width * item
    return StageCost("query", each * setting.frames, moved, live)


def _compress(preset: LlamaVidPreset, setting: Setting, features: int, content: int, held: int) -> StageCost:
    tower, size, language, item = preset.tower, preset.qformer, preset.language, setting.itemsize
    rows = size.queries * setting.questions
    each = 2 * rows * size.width * tower.width + 2 * rows * features * tower.width + 2 * features * tower.width
    each += 2 * (1 + content) * (tower.width + language.width) * language.width
    queries = setting.held * rows * (size.width + tower.width)
    made = setting.held * (1 + content) * (2 * language.width + tower.width)
    live = held + cost.features_bytes(tower, setting, features) + item * (queries + made)
    moved = setting.frames * (features * tower.width + rows * size.width + (1 + content) * language.width) * item
    return StageCost("compress", each * setting.frames, moved, live)
