"""What Video-LLaMA takes, by formula."""

from longreel.models import cost
from longreel.models.cost import Setting, StageCost, SystemCost
from longreel.models.video_llama.presets import BranchSize, VideoLlamaPreset
from longreel.ops._qformer_attention import absorbed_flops, projected_flops

# As `longreel.nn.qformer` and `longreel.models.video_llama.spool` have them.
_SAMPLES, _PART = 16, 64


def system_cost(preset: VideoLlamaPreset, setting: Setting, clips: int) -> SystemCost:
    """clips: of sound."""
    tower, language, item, held = preset.tower, preset.language, setting.itemsize, setting.held
    features = cost.features_bytes(tower, setting, tower.tokens)
    frame, video, listen = preset.frame, preset.video, preset.listen
    heard = listen.queries * (clips > 0)
    cached = video.queries + heard
    cached_bytes = cached * language.width * item
    at_once = held if setting.gpu else min(held, _SAMPLES)
    working = at_once * frame.queries * 2 * (frame.mlp + frame.width) + held * frame.queries * frame.width
    spooled = frame.queries * frame.width
    part = min(_PART, setting.frames) * spooled
    table = setting.frames * frame.width
    stages = (
        cost.tower(tower, setting, tower.tokens, 2),
        StageCost(
            "frame",
            setting.frames * _flops(frame, tower.tokens, tower.width),
            item * setting.frames * (tower.tokens * tower.width + spooled),
            2 * features + item * working,
        ),
        # Positions in float32 on the way, and a part of the frames twice.
        StageCost(
            "video",
            _flops(video, setting.frames * frame.queries, frame.width),
            item * setting.frames * spooled * -(-video.layers // video.every),
            item * (2 * part + 3 * table),
        ),
        *_listen(preset, setting, clips),
        cost.answer_behind(language, setting, setting.before + cached, cached_bytes),
    )
    cache = cost.kv_bytes(language, item) * (cached + setting.text)
    return SystemCost(cached, cached_bytes, cache, 0, cached + setting.text, language.positions, stages)


def _flops(size: BranchSize, keys: int, channels: int) -> int:
    """Of one sample with so many keys."""
    rows, reads = size.queries, -(-size.layers // size.every)
    absorbed = absorbed_flops(1, rows, keys, channels, size.width, size.heads, False)
    read = min(absorbed, projected_flops(1, rows, keys, channels, size.width)) + 4 * rows * size.width**2
    own = 2 * (4 * size.width + 2 * size.mlp) * size.width * rows + 4 * rows**2 * size.width
    return size.layers * own + reads * read


def _listen(preset: VideoLlamaPreset, setting: Setting, clips: int) -> tuple[StageCost, ...]:
    """The audio tower, eight clips at a time on a CPU, and its Q-Former."""
    size, item = preset.audio, setting.itemsize
    if not clips:
        return ()
    each = size.layers * 2 * (4 * size.width + 2 * size.mlp) * size.width * size.tokens
    each += 4 * size.layers * size.tokens**2 * size.width
    rows = (clips if setting.gpu else min(clips, 8)) * size.tokens
    live = item * (rows * (4 * size.width + 2 * size.mlp) + clips * size.mels * size.length)
    weights = size.layers * (4 * size.width + 2 * size.mlp) * size.width * item
    listen = StageCost(
        "listen", _flops(preset.listen, clips, size.out), item * clips * size.out, item * clips * size.out
    )
    return StageCost("audio", each * clips, weights * -(-clips // 8), live), listen
