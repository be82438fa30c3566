"""A run as a line of JSON."""

import hashlib
import math
from typing import Any

from longreel.bench.check import Verdict
from longreel.files.tensors import bytes_of
from longreel.measure import machine
from longreel.models.record import REFERENCE, RunRecord


def checksum(record: RunRecord, question: int) -> str:
    """Eight hex digits of the ids chosen for a question."""
    return hashlib.sha256(str(record.ids[record.paths[0]][question]).encode()).hexdigest()[:8]


def differs(record: RunRecord, stage: str) -> bool:
    return REFERENCE in record.seconds.get(stage, ())


def json_line(
    record: RunRecord, source: str, verdict: Verdict | None, compared: RunRecord | None = None
) -> dict[str, Any]:
    """One flat line of JSON; seconds, bytes. `compared`: what `verdict` is of; where that is another, shorter run, its line
    stands under "compared"."""
    if compared is not None and compared is not record:
        part = json_line(compared, source, verdict, compared)
        passed = {name: part[name] for name in ("error_over_budget", "passed")}
        return json_line(record, source, None) | passed | {"compared": part}
    paths = record.paths
    line: dict[str, Any] = {
        "command": "run" if record.questions else "extract",
        "system": record.system,
        "preset": record.preset,
        "weights": record.weights,
        "dtype": record.dtype,
        "source": source,
        "frames": record.frames,
        "patches": record.patches,
        "tokens": record.tokens,
        "tokens_bytes": record.tokens_bytes,
        "rows": record.rows,
        "startup_s": record.startup,
        "total_s": {path: record.total(path) for path in paths},
        "stages_s": {path: {name: record.stage(name, path) for name in record.seconds} for path in paths},
        "cpu_s": {path: record.total_cpu(path) for path in paths},
        "stages_cpu_s": {path: {name: record.cpu(name, path) for name in record.stages} for path in paths},
        "aside_s": dict(record.aside),
        "aside_cpu_s": record.aside_cpu,
        "process_cpu_s": record.ledger.process,
        "process_cpu_before_s": record.ledger.before,
        "peak_memory_bytes": {path: record.peak(path) for path in paths},
        "frames_per_s": {path: record.ingest_rate(path) for path in paths},
        "first_token_s": {path: record.until_first_id(path) for path in paths},
        "tokens_per_s": {path: rates[0] if (rates := record.id_rate[path]) else None for path in paths},
        "memory_by_frames": [[frames, *(peaks.get(path) for path in paths)] for frames, peaks in record.memory],
        "backend": record.backend,
        "questions": [
            {
                "question": question,
                "ids": record.ids[paths[0]][index],
                "checksum": checksum(record, index),
                "answer": record.answers[index] if record.answers else None,
                "seconds": record.answer_seconds[index] if record.answer_seconds else None,
            }
            for index, question in enumerate(record.questions)
        ],
        # To the bit: of other chunks, or on another machine, they differ where the ids do not.
        "logits_checksums": [
            hashlib.sha256(bytes_of(logits)).hexdigest()[:16] for logits in record.logits.get(paths[0], [])
        ],
        **machine.describe(record.device),
    }
    if verdict is not None:
        line["end_to_end_ratio"] = record.total(REFERENCE) / record.total()
        line["stage_ratios"] = {
            name: record.stage(name, REFERENCE) / record.stage(name) for name in record.seconds if differs(record, name)
        }
        # JSON has no infinity
        line["error_over_budget"] = verdict.error if math.isfinite(verdict.error) else None
        line["passed"] = verdict.why is None
    return line
