"""The functions of `_host.so` through ctypes: numpy arrays and numbers in and out. The library holds no Python symbol."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

_SEGMENT_FIELDS, _TILE_FIELDS, _KV_BLOCK_FIELDS, _RANGE_FIELDS = 11, 12, 6, 4
# The product of three such is below 2^63.
_MOST = 1 << 20


class _Answer(ctypes.Structure):
    """csrc/bindings/host_answer.h has the same."""

    _fields_ = [
        ("data", ctypes.c_void_p * 3),
        ("size", ctypes.c_int64 * 3),
        ("number", ctypes.c_int64),
        ("why", ctypes.c_char * 256),
    ]


class Host:
    """Raises OSError where the library does not load, AttributeError where it is of another build."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        i64, pointer = ctypes.c_int64, ctypes.c_void_p
        arguments = {
            "query_tiles": (pointer, i64, i64, i64),
            "kv_blocks": (pointer, i64, pointer, pointer, i64, i64, i64, i64),
            "row_bounds": (pointer, i64, pointer),
            "executed_pairs": (pointer, pointer, i64, i64, i64, i64, i64, i64, i64),
        }
        self._calls: dict[str, Any] = {}
        for name, types in arguments.items():
            call = getattr(self._library, f"longreel_{name}")
            call.argtypes, call.restype = (ctypes.POINTER(_Answer), *types), ctypes.c_int32
            self._calls[name] = call
        self._library.longreel_release.argtypes = [ctypes.POINTER(_Answer)]
        self._library.longreel_release.restype = None
        self._library.longreel_frame_schedule.argtypes = [i64, i64, i64, i64, i64, pointer]
        self._library.longreel_frame_schedule.restype = None
        # Attributes, not items: ctypes makes an item anew each time, without its types.
        self._library.longreel_build_record.restype = ctypes.c_char_p
        self._library.longreel_cpu_isas.restype = ctypes.c_char_p

    def build_record(self) -> dict[str, str]:
        """compiler, torch, cuda and type: what the libraries were built from and for."""
        text: bytes = self._library.longreel_build_record()
        return dict(line.split("=", 1) for line in text.decode().splitlines())

    def cpu_isas(self) -> list[str]:
        """Instruction sets that this machine runs, best last."""
        text: bytes = self._library.longreel_cpu_isas()
        return text.decode().split()

    def frame_schedule(
        self, frames: int, tokens: int, channels: int, queries: int, threads: int
    ) -> tuple[int, int, int]:
        """How the frame pass is cut on the CPU: workers, frames that one takes at a time, chunks of the queries' gradient."""
        if not all(0 <= n <= _MOST for n in (frames, tokens, channels, queries)) or not 1 <= threads <= _MOST:
            raise ValueError(f"frames, tokens, channels and queries are 0 to {_MOST}, threads at least 1")
        cut = (ctypes.c_int64 * 3)()
        self._library.longreel_frame_schedule(frames, tokens, channels, queries, threads, cut)
        return cut[0], cut[1], cut[2]

    def query_tiles(self, ranges: Ints, tile_rows: int, tile_keys: int) -> tuple[Table, Table]:
        """Range segments int64 [R, 11] -> tiles int32 [T, 12] and their order int32 [T], heavy first."""
        table = _segments(ranges)
        tiles, order = self._arrays("query_tiles", 2, table.ctypes.data, len(table), tile_rows, tile_keys)
        return tiles.reshape(-1, _TILE_FIELDS), order

    def kv_blocks(
        self,
        ranges: Ints,
        keys: Sequence[int],
        global_keys: Sequence[int],
        tile_rows: int,
        tile_keys: int,
        block_rows: int,
    ) -> tuple[Table, Table, Table]:
        """Range segments; keys and global keys of every sample -> kv_blocks int32 [U, 6], query_ranges int32 [N, 4] and kv_order
        int32 [U], heavy first."""
        if len(keys) != len(global_keys):
            raise ValueError("keys and global_keys have one number a sample")
        table, local, places = _segments(ranges), np.array(keys, np.int64), np.array(global_keys, np.int64)
        blocks, query_ranges, order = self._arrays(
            "kv_blocks",
            3,
            table.ctypes.data,
            len(table),
            local.ctypes.data,
            places.ctypes.data,
            len(local),
            tile_rows,
            tile_keys,
            block_rows,
        )
        return blocks.reshape(-1, _KV_BLOCK_FIELDS), query_ranges.reshape(-1, _RANGE_FIELDS), order

    def row_bounds(self, ranges: Ints) -> Table:
        """Range segments -> int32 [rows, 4]: lo, hi, glo, ghi of every row."""
        table, answer = _segments(ranges), _Answer()
        self._call("row_bounds", answer, table.ctypes.data, len(table), None)
        bounds = np.empty((answer.number, 4), np.int32)
        self._call("row_bounds", answer, table.ctypes.data, len(table), bounds.ctypes.data)
        return bounds

    def executed_pairs(
        self,
        tiles: Table,
        order: Table,
        samples: int,
        queries: int,
        heads: int,
        kv_heads: int,
        channels: int,
        paired: bool = False,
    ) -> int:
        """(query row, key) pairs that the CPU's attention multiplies for one head over all samples, masked lanes among them;
        paired: the AMX kernel's."""
        tiles, order = np.ascontiguousarray(tiles, np.int32), np.ascontiguousarray(order, np.int32)
        if tiles.size != order.size * _TILE_FIELDS:
            raise ValueError("tiles is int32 [T, 12] and order int32 [T]")
        answer, sizes = _Answer(), (samples, queries, heads, kv_heads, channels, int(paired))
        self._call("executed_pairs", answer, tiles.ctypes.data, order.ctypes.data, order.size, *sizes)
        return int(answer.number)

    def _arrays(self, name: str, count: int, *given: int) -> list[Table]:
        answer = _Answer()
        try:
            self._call(name, answer, *given)
            found = [np.empty(answer.size[place], np.int32) for place in range(count)]
            for place, array in enumerate(found):
                ctypes.memmove(array.ctypes.data, answer.data[place], array.nbytes)
            return found
        finally:
            self._library.longreel_release(answer)

    def _call(self, name: str, answer: _Answer, *given: int | None) -> None:
        for number in given:
            # ctypes would cut it to 64 bits.
            if number is not None and not -(2**63) <= number < 2**63:
                raise OverflowError(f"{name}: {number} does not fit 64 bits")
        status = self._calls[name](answer, *given)
        if status == 1:
            raise ValueError(answer.why.decode())
        if status:
            raise MemoryError(f"no memory for {name}")


def _segments(ranges: Ints) -> Ints:
    if ranges.ndim != 2 or ranges.shape[1] != _SEGMENT_FIELDS:
        raise ValueError(f"ranges is int64 [R, {_SEGMENT_FIELDS}]")
    return np.ascontiguousarray(ranges, np.int64)
