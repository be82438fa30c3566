"""The systems that `--system` names: what each needs of the command line, and how it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreel.cli.session import ANSWER, IDS, SYSTEMS, Part, Setup, device_of

if TYPE_CHECKING:
    from longreel.models.feed import Source
    from longreel.models.llama_vid import Questions
    from longreel.models.questions import Prompts
    from longreel.models.record import Record


class LlamaVidSetup(Setup):
    """Two tokens a frame, or more."""

    name = "llama-vid"
    own = ("tokens_per_frame", "token_budget", "text_decoder", "equation", "drop_cls")

    @classmethod
    def presets(cls) -> dict[str, Any]:
        from longreel.models.llama_vid import PRESETS

        return PRESETS

    @classmethod
    def sized(cls, preset: Any, folder: Path) -> Any:
        from longreel.models.llama_vid.checkpoint import sized

        return sized(preset, folder)

    @property
    def prefix(self) -> int:
        return int("drop_cls" not in self.options)

    def questions(self, texts: list[str], length: int | None) -> "Questions":
        from longreel.models.llama_vid import by_bytes, by_vocabulary

        positions = self.preset.qformer.positions
        if self.checkpoint is not None:
            asked = by_vocabulary(texts, self.checkpoint, positions, length or ANSWER)
            if asked is not None:
                return asked
        return by_bytes(texts, positions, length or IDS)

    def model(self, prefix: int, source: "Source", questions: "Prompts | None" = None) -> Any:
        from longreel.models.llama_vid import LlamaVid
        from longreel.models.llama_vid.checkpoint import load

        given: dict[str, Any] = {
            name: self.options[name] for name in ("text_decoder", "equation", "backend") if name in self.options
        }
        if questions is not None:
            given["compress"] = self._content_tokens(source, questions.longest)
        model = LlamaVid(self.preset, device=self.device, num_prefix_tokens=prefix, **given)
        if self.checkpoint is not None:
            load(model, self.checkpoint)
        return model

    def run(self, model: Any, source: "Source", questions: "Prompts", **options: Any) -> "Record":
        from longreel.models.llama_vid import stream

        return stream.run(model, source, questions, **options)  # type: ignore[arg-type]

    def _content_tokens(self, source: "Source", taken: int) -> str | None:
        """`compress` for --tokens-per-frame, where the question and its answer take `taken` positions."""
        from longreel.models.feed import is_still
        from longreel.models.llama_vid import choose_compress

        size, wanted, budget = self.preset, self.options.get("tokens_per_frame"), self.options.get("token_budget")
        if wanted is None:
            return None if is_still(source) else size.compress
        if wanted != "auto" and not wanted.isdecimal():
            raise ValueError(f"--tokens-per-frame {wanted!r}: give a number, or auto")
        if wanted == "auto" and is_still(source):
            return None
        left = size.language.positions - taken
        return choose_compress(
            "auto" if wanted == "auto" else int(wanted), side=size.tower.image // size.tower.patch,
            frames=source.expected, budget=min(budget or left, left),
        )  # fmt: skip


class VoCoSetup(Setup):
    """Keys and values of a frame's VoCo tokens."""

    name = "voco-llama"
    own = ("voco", "mode", "positions", "keep")

    @classmethod
    def presets(cls) -> dict[str, Any]:
        from longreel.models.voco_llama import PRESETS

        return PRESETS

    @classmethod
    def sized(cls, preset: Any, folder: Path) -> Any:
        from longreel.models.voco_llama.checkpoint import sized

        return sized(preset, folder)

    @property
    def prefix(self) -> int:
        return 0

    def questions(self, texts: list[str], length: int | None) -> "Prompts":
        from longreel.models.voco_llama.questions import by_bytes, by_vocabulary

        asked = None if self.checkpoint is None else by_vocabulary(texts, self.checkpoint, length or ANSWER)
        return asked or by_bytes(texts, length or IDS)

    def model(self, prefix: int, source: "Source", questions: "Prompts | None" = None) -> Any:
        from longreel.models.voco_llama import VoCoLlama
        from longreel.models.voco_llama.checkpoint import load
        from longreel.models.voco_llama.kept import Kept

        options = self.options
        if isinstance(source, Kept):
            for name, made in source.options.items():
                if options.get(name, made) != made:
                    raise ValueError(f"{source.path}: made with --{name} {made}, this run has {options[name]}")
            if questions is None:
                raise ValueError(f"{source.path}: keeps no frames")
            options = options | source.options
        for name, allowed in (("mode", ("independent", "causal")), ("positions", ("compact", "absolute"))):
            if options.get(name, allowed[0]) not in allowed:
                raise ValueError(f"--{name} {options[name]!r}: there is {' or '.join(allowed)}")
        model = VoCoLlama(
            self.preset, count=options.get("voco", 1), mode=options.get("mode", "independent"), shared=False,
            absolute=options.get("positions") == "absolute", separator=questions.between if questions else (),
            backend=options.get("backend"), device=self.device,
        ).eval()  # fmt: skip
        if self.checkpoint is not None:
            load(model, self.checkpoint)
        return model

    def run(self, model: Any, source: "Source", questions: "Prompts", **options: Any) -> "Record":
        from longreel.models.voco_llama import stream

        return stream.run(model, source, questions, weights=self.weights, **options)

    def open(self, inputs: list[Path], frames: str | None, chunk: int | None) -> tuple[Any, int]:
        from longreel.models.voco_llama.kept import Kept

        kept = Kept.of(inputs[0], self.preset, self.weights) if len(inputs) == 1 else None
        if kept is None:
            return super().open(inputs, frames, chunk)
        for option, value in (("frames", frames), ("chunk", chunk)):
            if value is not None:
                raise ValueError(f"--{option} {value}: {kept.path} holds kept rows, its frames were seen before")
        return kept, 0

    def comparable(self, model: Any, expected: int | None, questions: "Prompts") -> Part | None:
        from longreel.models.voco_llama import dense

        fit, there = dense.frames_that_fit(model, questions), expected
        if there is not None and there <= fit:
            return None
        rows, takes = dense.mask_rows(model, questions, fit), dense.mask_bytes(model, questions, fit)
        why = (
            f"their dense mask of {rows:,} x {rows:,} takes {takes / 2**20:,.0f} of the {dense.MASK_BYTES / 2**20:,.0f} MiB"
            " that it may"
        )
        if there is not None:
            why += f"; {there:,} frames' would take {dense.mask_bytes(model, questions, there) / 2**30:,.1f} GiB"
        return Part(fit, why)


_SETUPS: dict[str, type[Setup]] = {setup.name: setup for setup in (LlamaVidSetup, VoCoSetup)}


def setup_of(
    system: str, preset: str, checkpoint: Path | None, device: str | None, options: dict[str, Any] | None = None
) -> Setup:
    """`options`: of the command line, None or False where they were not given; ValueError for anything that is not there."""
    if system not in _SETUPS:
        raise ValueError(f"--system {system!r}: there is {', '.join(SYSTEMS)}")
    kind = _SETUPS[system]
    given = {name: value for name, value in (options or {}).items() if value is not None and value is not False}
    for name in given:
        owner = next((other.name for other in _SETUPS.values() if name in other.own), None)
        if name not in kind.own and owner is not None:
            raise ValueError(f"--{name.replace('_', '-')}: an option of {owner}, this run is {system}")
    presets = kind.presets()
    if preset not in presets:
        raise ValueError(f"--preset {preset!r}: {system} has {', '.join(presets)}")
    size = presets[preset] if checkpoint is None else kind.sized(presets[preset], checkpoint)
    return kind(size, checkpoint, device_of(device), given)
