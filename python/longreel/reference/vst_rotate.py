"""vst_rotate by its definition: rotary positions for grouped rows; keys and values change to position order."""

from torch import Tensor

from longreel.rotary import rotated


def vst_rotate(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, R, H, D], k and v [B, R, Hkv, D] in the order of the layout's rows, cos and sin [1 or B, R, D/2] in position order.

    Row i is the token at place bounds[..., i, 1] - 1 (see `block_sparse_attention`). Returns q rotated, in its order; k rotated
    and v in position order.
    """
    batch = q.shape[0]
    # [B, R]
    place = (bounds[..., 1].long() - 1).expand(batch, -1)
    # [B, R, 1, D/2], of every row
    angles = [
        t.expand(batch, -1, -1).gather(1, place[..., None].expand(-1, -1, t.shape[-1]))[:, :, None] for t in (cos, sin)
    ]
    row_at = place.argsort(1)[..., None, None].expand(k.shape)
    return rotated(q, *angles), rotated(k, *angles).gather(1, row_at), v.gather(1, row_at)
