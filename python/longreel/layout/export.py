"""The layout for other attention kernels: FlexAttention's mask_mod and BlockMask, FlashMask's row indices."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreel.layout._ranges import ranges, row_bounds
from longreel.layout.global_keys import global_index
from longreel.layout.video_layout import VideoLayout


def flex_mask_mod(layout: VideoLayout, device: torch.device | str = "cpu", gathered: bool = False) -> Any:
    """`mask_mod(b, h, q, k)` for torch's flex_attention over q [B, H, Sq, D] and k, v [B, Hkv, Sk, D].

    Holds five int32 arrays of one number per row or key, no mask; a layout of one sample serves any batch. gathered: k and v are
    [B, Hkv, Sk + G, D], with the global keys behind all keys once more, where those that a row attends to stand side by side:
    four arrays.
    """
    bounds = row_bounds(layout)
    lo, hi, glo, ghi = (torch.from_numpy(array).to(device) for array in bounds)
    shared, keys = layout.batch_size == 1, layout.keys
    if gathered:

        def apart(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            s = b * 0 if shared else b
            return ((lo[s, q] <= k) & (k < hi[s, q])) | ((keys + glo[s, q] <= k) & (k < keys + ghi[s, q]))

        return apart
    place = torch.from_numpy(_places(layout)).to(device)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        s = b * 0 if shared else b
        local = (lo[s, q] <= k) & (k < hi[s, q])
        global_ = (glo[s, q] <= place[s, k]) & (place[s, k] < ghi[s, q])
        return local | global_

    return mask_mod


def flex_block_mask(
    layout: VideoLayout,
    device: torch.device | str = "cpu",
    block_size: int | tuple[int, int] = 128,
    gathered: bool = False,
) -> Any:
    """torch's BlockMask of the layout, from the ranges: blocks are visited, never a mask. gathered: see `flex_mask_mod`.

    Its own index tensors hold one int32 per pair of blocks (that is FlexAttention's format).
    """
    from torch.nn.attention.flex_attention import BlockMask

    q_size, k_size = (block_size, block_size) if isinstance(block_size, int) else block_size
    some, full = _gathered_blocks(layout, q_size, k_size) if gathered else _blocks(layout, q_size, k_size)
    more = global_index(layout).shape[1] if gathered else 0
    return BlockMask.from_kv_blocks(
        *_listed(some & ~full, device),
        *_listed(full, device),
        (q_size, k_size),
        flex_mask_mod(layout, device, gathered),
        (layout.queries, layout.keys + more),
    )


def flashmask_row_indices(layout: VideoLayout) -> NDArray[np.int32]:
    """[B, 1, Sk, 2] for FlashMask with causal=True: key k is hidden from query rows first .. last - 1 below the diagonal.

    Needs every row in position order, and one hidden interval a key: packed VoCo videos of several independent frames
    have two and raise.
    """
    if layout.window is not None or layout.order != "position":
        raise ValueError("FlashMask indices are for whole layouts in position order")
    if any(document.rule.attention == "ranges" for documents in layout.samples for document in documents):
        raise ValueError("FlashMask indices are of causal layouts: rows of a block attend to later ones")
    out = np.zeros((layout.batch_size, 1, layout.keys, 2), np.int32)
    for b in range(layout.batch_size):
        out[b, 0] = _hidden_rows(layout, b)
    return out


def _listed(blocks: NDArray[np.bool_], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Counts [B, 1, rows] and indices [B, 1, rows, columns] of the blocks that are set, those first and in order."""
    counts = blocks.sum(-1).astype(np.int32)
    indices = np.argsort(~blocks, axis=-1, kind="stable").astype(np.int32)
    return torch.from_numpy(counts[:, None]).to(device), torch.from_numpy(indices[:, None]).to(device)


def _places(layout: VideoLayout) -> NDArray[np.int32]:
    """[B, Sk]: the place of every key in G, -1 for a key that is not global."""
    out = np.full((layout.batch_size, layout.keys), -1, np.int32)
    for b, keys in enumerate(global_index(layout)):
        keys = keys[keys >= 0]
        out[b, keys] = np.arange(len(keys))
    return out


def _blocks(layout: VideoLayout, q_size: int, k_size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool [B, blocks of rows, blocks of keys]: some pair visible, and every pair visible. Rows and keys beyond the end
    count as hidden, as torch has it."""
    batch, queries, keys = layout.batch_size, layout.queries, layout.keys
    q_blocks, k_blocks = -(-queries // q_size), -(-keys // k_size)
    some, full = (np.zeros((batch, q_blocks, k_blocks), np.bool_) for _ in range(2))
    bounds, index = row_bounds(layout), global_index(layout)
    edges = np.arange(k_blocks) * k_size
    for b in range(batch):
        own = index[b][index[b] >= 0]
        # [k_blocks + 1], how many global keys stand before each block
        before = np.searchsorted(own, np.append(edges, keys))
        for i in range(q_blocks):
            lo, hi, glo, ghi = (array[b, i * q_size : (i + 1) * q_size, None] for array in bounds)
            # [rows, k_blocks], keys of the block that the row attends to
            local = np.minimum(hi, edges + k_size) - np.maximum(lo, edges)
            global_ = np.minimum(ghi, before[1:]) - np.maximum(glo, before[:-1])
            count = np.maximum(local, 0) + np.maximum(global_, 0)
            some[b, i] = (count > 0).any(0)
            full[b, i] = (count == k_size).all(0) & (len(count) == q_size)
    return some, full


def _gathered_blocks(layout: VideoLayout, q_size: int, k_size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same over [keys; global keys]."""
    keys = layout.keys
    q_blocks, k_blocks = -(-layout.queries // q_size), -(-(keys + global_index(layout).shape[1]) // k_size)
    some, full = (np.zeros((layout.batch_size, q_blocks, k_blocks), np.bool_) for _ in range(2))
    edges = np.arange(k_blocks) * k_size
    bounds = row_bounds(layout)
    for b in range(layout.batch_size):
        for i in range(q_blocks):
            lo, hi, glo, ghi = (array[b, i * q_size : (i + 1) * q_size, None] for array in bounds)
            # [rows, k_blocks], keys of the block that the row attends to
            local = np.minimum(hi, edges + k_size) - np.maximum(lo, edges)
            global_ = np.minimum(keys + ghi, edges + k_size) - np.maximum(keys + glo, edges)
            count = np.maximum(local, 0) + np.maximum(global_, 0)
            some[b, i] = (count > 0).any(0)
            full[b, i] = (count == k_size).all(0) & (len(count) == q_size)
    return some, full


def _hidden_rows(layout: VideoLayout, sample: int) -> NDArray[np.int32]:
    """[Sk, 2] for one sample."""
    keys, r = layout.keys, ranges(layout)
    own = [i for i in range(len(r.rows)) if r.sample[i] == sample]
    # Rows that attend to the key locally are key .. local; as a global key, global_ .. last.
    local = np.arange(keys)
    places = global_index(layout)[sample]
    places = places[places >= 0]
    global_, last, count = (np.full(len(places), fill, np.int64) for fill in (keys, 0, 0))
    for i in own:
        row, rows, lo = int(r.row[i]), int(r.rows[i]), int(r.lo[i])
        if r.lo_step[i] == 0:
            _require_contiguous(local, lo, row)
            local[lo : row + rows] = row + rows
        elif lo < r.hi[i]:
            window = np.arange(lo, row + rows)
            local[lo : row + rows] = np.minimum(window + (row - lo) + 1, row + rows)
        g = slice(int(r.glo[i]), int(r.ghi[i]))
        global_[g] = np.minimum(global_[g], row)
        last[g] = row + rows
        count[g] += rows
    hidden = np.stack([local, np.full(keys, keys)], axis=1)
    for place, key in enumerate(places):
        if count[place] == 0:
            continue
        if count[place] != last[place] - global_[place] or not (global_[place] == local[key] or last[place] == keys):
            raise ValueError(
                f"key {key} of sample {sample} is hidden from two intervals of rows: FlashMask has room for one"
            )
        hidden[key] = (last[place], keys) if global_[place] == local[key] else (local[key], global_[place])
    return hidden.astype(np.int32)


def _require_contiguous(local: NDArray[np.int64], lo: int, row: int) -> None:
    """Keys lo .. row that rows from `row` on attend to must have been visible to all rows before."""
    if not (local[lo:row] >= row).all():
        key = lo + int(np.flatnonzero(local[lo:row] < row)[0])
        raise ValueError(f"key {key} is hidden from two intervals of rows: FlashMask has room for one")
