"""Cases by how a parameter is used: in products, convolutions, lookups, whole, and in several ways at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from zoo_case import B, Case, looked_up, of, of_matrix

# ---- products


def einsum(indices, shape, *example):
    return of_matrix(lambda W, x: jnp.einsum(indices, x, W), shape, *example)


def qkv(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v


def loop(W, x):
    for i in range(len(W)):
        x = jnp.tanh(W[i] @ x)
    return x


MASK = np.arange(10).reshape(2, 5) % 3 > 0

PRODUCTS = {
    "vector": lambda rnd: of(lambda p, x: p["W"] @ x + p["b"], {"W": rnd(3, 2), "b": rnd(3)}, rnd(B, 2)),
    "matrix": lambda rnd: of(lambda p, x: x @ p["W"] + p["b"], {"W": rnd(2, 3), "b": rnd(3)}, rnd(B, 5, 2)),
    "mlp": lambda rnd: of(
        lambda p, x: jnp.tanh(x @ p["A"] + p["a"]) @ p["C"],
        {"A": rnd(2, 3), "a": rnd(3), "C": rnd(3, 5)},
        rnd(B, 7, 2),
    ),
    "three_axes": of_matrix(lambda W, x: x @ W, (5, 6), 2, 3, 5),
    "one_position": of_matrix(lambda W, x: x @ W, (2, 3), 1, 2),
    "input_width_one": of_matrix(lambda W, x: x @ W, (1, 2), 3, 1),
    "output_width_one": of_matrix(lambda W, x: x @ W, (5, 1), 3, 5),
    "all_ones": of_matrix(lambda W, x: x @ W, (1, 1), 1, 1),
    "one_example": lambda rnd: of(lambda W, x: x @ W, rnd(2, 3), rnd(1, 5, 2)),
    "W_first": of_matrix(lambda W, x: W @ x, (3, 5), 5, 2),
    "x_WT": of_matrix(lambda W, x: x @ W.T, (3, 2), 5, 2),
    "WT_x": of_matrix(lambda W, x: W.T @ x, (5, 3), 5, 2),
    "two_contracted": einsum("thd,hdm->tm", (2, 5, 7), 3, 2, 5),
    "two_contracted_turned": einsum("thd,mdh->tm", (7, 5, 2), 3, 2, 5),
    "two_contracted_apart": einsum("thd,dmh->mt", (5, 7, 2), 3, 2, 5),
    "two_outputs": einsum("td,dhk->thk", (5, 2, 3), 6, 5),
    "two_outputs_turned": einsum("td,hkd->kth", (2, 3, 5), 6, 5),
    "two_outputs_apart": einsum("td,hdk->tkh", (2, 5, 3), 6, 5),
    "all_contracted": einsum("td,td->", (3, 5), 3, 5),
    "none_contracted": einsum("t,df->dtf", (5, 2), 3),
    "experts": einsum("etd,edf->etf", (3, 5, 6), 3, 2, 5),
    "experts_vector": einsum("ed,edf->ef", (3, 5, 6), 3, 5),
    "experts_inside": einsum("htd,dhf->thf", (5, 2, 6), 2, 3, 5),
    "two_batch_axes": einsum("aetd,edaf->eatf", (3, 5, 2, 6), 2, 3, 7, 5),
    "batch_without_output": einsum("etd,ed->te", (3, 5), 3, 2, 5),
    "batch_without_contraction": einsum("et,ef->etf", (3, 5), 3, 2),
    "summed_axis": einsum("td,dfs->tf", (5, 2, 3), 6, 5),
    "diagonal_of_leaf": einsum("td,dd->t", (5, 5), 3, 5),
    "three_operands": lambda rnd: of(
        lambda W, x, y: jnp.einsum("td,df,tf->t", x, W, y), rnd(5, 2), rnd(B, 3, 5), rnd(B, 3, 2)
    ),
    "bilinear": lambda rnd: of(lambda W, x, y: jnp.einsum("d,fde,e->f", x, W, y), rnd(3, 5, 2), rnd(B, 5), rnd(B, 2)),
    "two_params_one_einsum": lambda rnd: of(
        lambda p, x: jnp.einsum("td,dr,rf->tf", x, *p), (rnd(5, 2), rnd(2, 6)), rnd(B, 3, 5)
    ),
    "dot": of_matrix(lambda w, x: w @ x, (5,), 5),
    "dot_of_positions": of_matrix(lambda w, x: x @ w, (5,), 3, 5),
    "vdot": of_matrix(lambda W, x: jnp.vdot(W, x), (3, 5), 3, 5),
    "outer_product": of_matrix(jnp.outer, (3,), 5),
    "kron": of_matrix(jnp.kron, (2, 3), 5, 1),
    "merged": of_matrix(lambda W, x: x @ W.reshape(6, 5), (2, 3, 5), 7, 6),
    "split": of_matrix(lambda W, x: jnp.einsum("thk,hkd->td", x, W.reshape(2, 3, 5)), (6, 5), 7, 2, 3),
    "reshaped_2_3_to_3_2": of_matrix(lambda W, x: x @ W.reshape(3, 2), (2, 3), 5, 3),
    "ravelled": of_matrix(lambda W, x: x @ W.ravel(), (2, 3), 5, 6),
    "merged_columns_first": of_matrix(lambda W, x: x @ jnp.reshape(W, (6, 5), order="F"), (2, 3, 5), 7, 6),
    "reshaped_columns_first": of_matrix(lambda W, x: x @ jnp.reshape(W, (6, 4), order="F"), (4, 6), 7, 6),
    "split_by_jnp": of_matrix(
        lambda W, x: [k * x @ w for k, w in enumerate(jnp.split(W, (2, 5), axis=1), 1)], (3, 9), 7, 3
    ),
    "turned_then_reshaped": of_matrix(lambda W, x: x @ W.T.reshape(2, 3), (2, 3), 5, 2),
    "squeezed": of_matrix(lambda W, x: x @ W[0, :, 0], (1, 5, 1, 2), 3, 5),
    "expanded": of_matrix(lambda W, x: x @ W[None], (5, 2), 6, 3, 5),
    "fused_qkv_of_weights": of_matrix(lambda W, x: qkv(*(x @ V for V in jnp.split(W, 3, axis=1))), (5, 6), 3, 5),
    "fused_qkv_of_activations": of_matrix(lambda W, x: qkv(*jnp.split(x @ W, 3, axis=1)), (5, 6), 3, 5),
    "unequal_split": of_matrix(lambda W, x: (x @ W[:, :2]).sum(1) * (x @ W[:, 2:]).T, (5, 6), 3, 5),
    "slice": of_matrix(lambda W, x: W[1:4] @ x, (6, 5), 5, 2),
    "strided_slice": of_matrix(lambda W, x: W[1::2, ::3] @ x, (6, 7), 3, 2),
    "stack_in_a_loop": of_matrix(loop, (3, 5, 5), 5),
    "reversed": of_matrix(lambda W, x: W[::-1] @ x, (3, 5), 5, 2),
    "reversed_both": of_matrix(lambda W, x: W[::-1, ::-1] @ x, (3, 5), 5, 2),
    "rolled": of_matrix(lambda W, x: jnp.roll(W, 2, axis=1) @ x, (3, 5), 5, 2),
    "padded": of_matrix(lambda W, x: jnp.pad(W, ((1, 0), (2, 1))) @ x, (3, 2), 5, 7),
    "negative_pad": of_matrix(lambda W, x: lax.pad(W, 0.0, ((-1, 0, 0), (0, 1, 1))) @ x, (3, 2), 4, 7),
    "concatenated_rows": lambda rnd: of(lambda p, x: jnp.concatenate(p) @ x, (rnd(2, 5), rnd(3, 5)), rnd(B, 5, 6)),
    "concatenated_columns": lambda rnd: of(
        lambda p, x: jnp.concatenate(p, axis=1) @ x, (rnd(6, 2), rnd(6, 3)), rnd(B, 5)
    ),
    "concatenated_with_x": lambda rnd: of(
        lambda p, x: jnp.concatenate([p[0], x]) @ p[1], (rnd(2, 5), rnd(5, 6)), rnd(B, 3, 5)
    ),
    "stacked": lambda rnd: of(
        lambda p, x: jnp.einsum("td,sdf->tsf", x, jnp.stack(p)), (rnd(5, 2), rnd(5, 2)), rnd(B, 3, 5)
    ),
    "scaled": of_matrix(lambda W, x: x @ (W * 0.3), (5, 2), 3, 5),
    "scaled_by_data": of_matrix(lambda W, x: x @ (W * x[:, :1].mean()), (5, 2), 3, 5),
    "scaled_by_columns": of_matrix(lambda W, x: x @ (W * np.arange(1.0, 3)), (5, 2), 3, 5),
    "masked": of_matrix(lambda W, x: (W * MASK) @ x, (2, 5), 5, 3),
    "masked_by_where": of_matrix(lambda W, x: jnp.where(MASK, W, 0) @ x, (2, 5), 5, 3),
    "masked_by_data": of_matrix(lambda W, x: (W * (x[:, 0] > 0)) @ x, (2, 5), 5, 3),
    "negated": of_matrix(lambda W, x: -W @ x, (2, 5), 5, 3),
    "halved": of_matrix(lambda W, x: (W / 2) @ x, (2, 5), 5, 3),
    "added_to_data": of_matrix(lambda W, x: (W + x[:, :2].T) @ x, (2, 5), 5, 3),
    "lower_triangle": of_matrix(lambda W, x: jnp.tril(W) @ x, (5, 5), 5, 3),
    "diagonal": of_matrix(lambda w, x: jnp.diag(w) @ x, (5,), 5, 3),
    "read_diagonal": of_matrix(lambda W, x: jnp.diagonal(W) * x, (5, 5), 3, 5),
    "symmetric": of_matrix(lambda W, x: (W + W.T) @ x, (5, 5), 5, 3),
    "broadcast": of_matrix(lambda W, x: jnp.broadcast_to(W, (3, 2, 5)) @ x, (2, 5), 3, 5, 6),
    "tiled": of_matrix(lambda W, x: jnp.tile(W, (3, 2)) @ x, (2, 5), 10),
    "repeated": of_matrix(lambda W, x: jnp.repeat(W, 3, axis=0) @ x, (2, 5), 5),
    "centred": of_matrix(lambda W, x: (W - W.mean(0)) @ x, (2, 5), 5),
    "summed": of_matrix(lambda W, x: x * W.sum(0), (2, 5), 3, 5),
    "running_sum": of_matrix(lambda W, x: jnp.cumsum(W, axis=0) @ x, (2, 5), 5, 3),
    "toeplitz": of_matrix(lambda w, x: w[np.subtract.outer(np.arange(5), np.arange(3)) + 2] @ x, (7,), 3, 2),
}

# ---- convolutions


def convolved(x, W, dims, strides=None, padding="VALID", **more):
    """One example, without its batch axis, or with images where dims has none to add."""
    front = x.ndim < len(dims[0])
    rank = len(dims[0]) - 2
    x = x[None] if front else x
    z = lax.conv_general_dilated(x, W, strides or (1,) * rank, padding, dimension_numbers=dims, **more)
    return z[0] if front else z


ONE, TWO = ("NHC", "HIO", "NHC"), ("NHWC", "HWIO", "NHWC")
THREE = ("NHWDC", "HWDIO", "NHWDC")
NCHW = ("NCHW", "OIHW", "NCHW")


def conv(dims, shape, *example, **more):
    return of_matrix(lambda W, x: jnp.tanh(convolved(x, W, dims, **more)), shape, *example)


def transposed(W, x, **more):
    return lax.conv_transpose(x[None], W, (2, 3), "SAME", dimension_numbers=TWO, **more)


CONVOLUTIONS = {
    "conv_1d": conv(ONE, (3, 2, 5), 6, 2),
    "conv_2d": conv(TWO, (3, 2, 5, 4), 6, 7, 5),
    "conv_3d": conv(THREE, (2, 1, 3, 2, 5), 3, 4, 6, 2),
    "conv_with_bias": lambda rnd: of(
        lambda p, x: convolved(x, p["W"], ONE) + p["b"], {"W": rnd(3, 2, 5), "b": rnd(5)}, rnd(B, 6, 2)
    ),
    "conv_stride": conv(TWO, (3, 2, 5, 4), 7, 6, 5, strides=(2, 3)),
    "conv_last_pixels_unused": conv(ONE, (2, 3, 5), 9, 3, strides=(4,)),
    "conv_stride_beyond_kernel": conv(ONE, (2, 3, 5), 8, 3, strides=(3,)),
    "conv_rhs_dilation": conv(TWO, (2, 3, 5, 4), 5, 8, 5, rhs_dilation=(3, 2)),
    "conv_lhs_dilation": conv(TWO, (3, 2, 5, 4), 3, 4, 5, lhs_dilation=(2, 3), padding=[(0, 1), (2, 0)]),
    "conv_all_dilations": conv(
        ONE, (3, 2, 5), 7, 2, strides=(2,), padding=[(1, 3)], lhs_dilation=(3,), rhs_dilation=(2,)
    ),
    "conv_groups": conv(TWO, (2, 3, 2, 6), 5, 4, 6, feature_group_count=3),
    "conv_depthwise": conv(TWO, (2, 3, 1, 6), 5, 4, 3, feature_group_count=3),
    "conv_groups_nchw": conv(NCHW, (6, 2, 2, 3), 4, 5, 7, feature_group_count=2),
    "conv_groups_stride": conv(ONE, (3, 2, 6), 8, 4, strides=(2,), padding="SAME", feature_group_count=2),
    "conv_same": conv(TWO, (3, 2, 5, 4), 5, 6, 5, padding="SAME"),
    "conv_same_lower": conv(TWO, (2, 4, 5, 3), 5, 6, 5, padding="SAME_LOWER", strides=(2, 1)),
    "conv_explicit": conv(TWO, (3, 2, 5, 4), 5, 6, 5, padding=[(2, 0), (1, 3)]),
    "conv_negative_padding": conv(TWO, (3, 2, 5, 4), 7, 6, 5, padding=[(-1, 1), (0, -2)]),
    "conv_nchw": conv(NCHW, (4, 5, 3, 2), 5, 6, 7),
    "conv_odd_layout": conv(("HWNC", "IOHW", "CNHW"), (5, 4, 3, 2), 6, 7, 3, 5),
    "conv_odder_layout": conv(("CHWN", "WOHI", "NWCH"), (2, 4, 3, 5), 5, 6, 7, 3),
    "conv_1x1": conv(TWO, (1, 1, 5, 3), 2, 6, 5),
    "conv_1x1_stride": conv(TWO, (1, 1, 5, 3), 4, 6, 5, strides=(2, 3)),
    "conv_whole_image": conv(TWO, (3, 2, 5, 4), 3, 2, 5),
    "conv_one_channel": conv(ONE, (3, 1, 1), 7, 1),
    "conv_flipped": of_matrix(lambda W, x: convolved(x, W[::-1], ONE), (3, 2, 5), 6, 2),
    "conv_turned": of_matrix(lambda W, x: convolved(x, W.transpose(2, 1, 0), ONE), (5, 2, 3), 6, 2),
    "conv_images": conv(TWO, (3, 2, 5, 4), 3, 6, 7, 5),
    "conv_images_stride": conv(ONE, (3, 2, 5), 3, 6, 2, strides=(2,), padding="SAME"),
    "conv_transpose": of_matrix(transposed, (3, 2, 5, 4), 3, 2, 5),
    "conv_transpose_kernel": of_matrix(lambda W, x: transposed(W, x, transpose_kernel=True), (3, 2, 4, 5), 3, 2, 5),
    "conv_batch_groups": conv(ONE, (3, 2, 6), 4, 5, 2, batch_group_count=2),
    "conv_swapped": of_matrix(lambda W, x: convolved(W, x, ONE), (7, 2), 3, 2, 5),
    "conv_both_params": lambda rnd: of(
        lambda p, x: x @ convolved(p[0], p[1], ONE), (rnd(5, 2), rnd(3, 2, 6)), rnd(B, 7, 3)
    ),
    "convolve_1d": of_matrix(lambda w, x: jnp.convolve(x, w), (3,), 7),
    "convolve_1d_longer": of_matrix(lambda w, x: jnp.convolve(x, w, mode="same"), (7,), 3),
    "conv_vmapped_kernels": of_matrix(lambda W, x: jax.vmap(lambda K: convolved(x, K, ONE))(W), (2, 3, 2, 5), 6, 2),
    "conv_vmapped_images": of_matrix(
        lambda W, x: jax.vmap(lambda image: convolved(image, W, ONE))(x), (3, 2, 5), 4, 6, 2
    ),
    "conv_vmapped_both": of_matrix(
        lambda W, x: jax.vmap(lambda K, image: convolved(image, K, ONE))(W, x), (3, 3, 2, 5), 3, 6, 2
    ),
    "conv_after_patches": of_matrix(
        lambda W, x: lax.conv_general_dilated_patches(x[None], (3,), (1,), "SAME", dimension_numbers=ONE) @ W,
        (6, 5),
        7,
        2,
    ),
    "conv_then_pool": of_matrix(
        lambda W, x: lax.reduce_window(convolved(x, W, ONE), -jnp.inf, lax.max, (2, 1), (2, 1), "VALID"),
        (2, 3, 5),
        7,
        3,
    ),
}

# ---- lookups


def moved(f, shape, below, *example):
    """f(W, start, x) with a start of rows."""
    return lambda rnd: of(f, rnd(*shape), rnd.ids(below, B), rnd(B, *example))


def both_read(p, ids):
    """Two tables read by one array of ids, which reach beyond the shorter one."""
    index, rows = ids[:, None], lax.GatherDimensionNumbers((1,), (0,), (0,))
    return [lax.gather(p[name], index, rows, (1, 3), mode="clip") for name in ("few", "many")]


LOOKUPS = {
    "lookup": looked_up(lambda W, ids: W[ids], (7, 3), 7, 5),
    "lookup_repeated": looked_up(lambda W, ids: W[ids] * W[ids][::-1], (7, 3), 2, 5),
    "lookup_scalar": looked_up(lambda W, i: W[i], (7, 3), 7),
    "lookup_one": looked_up(lambda W, ids: W[ids], (7, 3), 7, 1),
    "lookup_2d": looked_up(lambda W, ids: W[ids], (7, 3), 7, 2, 5),
    "lookup_of_3d": looked_up(lambda W, ids: W[ids], (7, 2, 3), 7, 5),
    "lookup_out_of_range": looked_up(lambda W, ids: W[ids], (7, 3), 12, 5),
    "lookup_negative": looked_up(lambda W, ids: W[ids], (7, 3), 7, 5, low=-7),
    "lookup_far_negative": looked_up(lambda W, ids: W[ids], (7, 3), 7, 5, low=-20),
    "lookup_clip": looked_up(lambda W, ids: jnp.take(W, ids, axis=0, mode="clip"), (7, 3), 12, 5, low=-5),
    "lookup_wrap": looked_up(lambda W, ids: jnp.take(W, ids, axis=0, mode="wrap"), (7, 3), 12, 5, low=-12),
    "lookup_fill": looked_up(
        lambda W, ids: jnp.take(W, ids, axis=0, mode="fill", fill_value=0.5), (7, 3), 12, 5, low=-12
    ),
    "lookup_promised": looked_up(
        lambda W, ids: W.at[ids].get(mode="promise_in_bounds", unique_indices=False), (7, 3), 7, 5
    ),
    "lookup_1d_leaf": looked_up(lambda w, ids: w[ids], (7,), 7, 5),
    "lookup_columns": looked_up(lambda W, ids: W[:, ids], (3, 7), 7, 5),
    "lookup_take_columns": looked_up(lambda W, ids: jnp.take(W, ids, axis=1), (3, 7, 2), 7, 5),
    "lookup_column": looked_up(lambda W, i: W[:, i], (3, 7), 7),
    "lookup_middle": looked_up(lambda W, ids: W[:, ids], (3, 7, 2), 7, 2, 5),
    "lookup_turned": looked_up(lambda W, ids: W.T[ids], (3, 7), 7, 5),
    "lookup_part": looked_up(lambda W, ids: W[ids, 1:3], (7, 5), 7, 6),
    "lookup_pairs": looked_up(lambda W, ids: W[ids[0], ids[1]], (7, 6), 6, 2, 5),
    "lookup_codebooks": looked_up(lambda W, ids: W[jnp.arange(3), ids], (3, 7, 2), 7, 3),
    "lookup_along_axis": looked_up(lambda W, ids: jnp.take_along_axis(W, ids, axis=1), (3, 7), 7, 3, 5),
    "two_tables_one_index": lambda rnd: of(both_read, {"few": rnd(5, 3), "many": rnd(9, 3)}, rnd.ids(9, B, 6)),
    "lookup_reshaped": looked_up(lambda W, ids: W.reshape(6, 5)[ids], (2, 3, 5), 6, 7),
    "lookup_scaled": looked_up(lambda W, ids: (W * 5**0.5)[ids], (7, 5), 7, 6),
    "lookup_sliced": looked_up(lambda W, ids: W[2:][ids], (7, 3), 5, 6),
    "lookup_concatenated": lambda rnd: of(
        lambda p, ids: jnp.concatenate(p)[ids], (rnd(2, 3), rnd(5, 3)), rnd.ids(7, B, 6)
    ),
    "lookup_padding": looked_up(lambda W, ids: W[ids] * (ids != 0)[:, None], (7, 3), 3, 5),
    "lookup_bag": looked_up(lambda W, ids: jnp.mean(W[ids], axis=0), (7, 3), 7, 5),
    "lookup_vmapped": looked_up(lambda W, ids: jax.vmap(lambda i: W[i])(ids), (7, 3), 7, 5),
    "lookup_vmapped_tables": looked_up(lambda W, ids: jax.vmap(lambda V, i: V[i])(W, ids), (2, 7, 3), 7, 2, 5),
    "lookup_in_scan": looked_up(
        lambda W, ids: lax.scan(lambda c, i: (jnp.sin(c) + W[i], c), jnp.zeros(3), ids), (7, 3), 7, 5
    ),
    "lookup_uint8": looked_up(lambda W, ids: W[ids.astype(jnp.uint8)], (7, 3), 7, 5),
    "lookup_boolean": of_matrix(lambda W, x: W[MASK] * x, (2, 5, 3), int(MASK.sum()), 3),
    "lookup_float_fn": of_matrix(lambda W, x: W[jnp.abs(2 * x).astype(int)], (7, 3), 5),
    "one_hot": looked_up(lambda W, ids: jax.nn.one_hot(ids, 7, dtype=W.dtype) @ W, (7, 3), 7, 5),
    "dynamic_rows": moved(
        lambda W, i, x: lax.dynamic_slice(W, (i, 0), (3, 5)) @ x,
        (7, 5),
        5,
        5,
        2,
    ),
    "dynamic_rows_clamped": moved(lambda W, i, x: lax.dynamic_slice_in_dim(W, i, 3) @ x, (7, 5), 12, 5),
    "dynamic_block": moved(lambda W, i, x: lax.dynamic_slice(W, (i, 2 - i), (3, 2)) @ x, (7, 5), 3, 2),
    "dynamic_index": moved(lambda W, i, x: lax.dynamic_index_in_dim(W, i, 0, keepdims=False) @ x, (3, 5, 2), 3, 2),
    "updated_by_data": moved(lambda W, i, x: W.at[i].set(x), (7, 5), 7, 5),
    "added_to_by_data": moved(lambda W, i, x: W.at[i].add(x), (7, 5), 7, 5),
    "added_into_data": lambda rnd: of(lambda W, ids, x: x.at[ids].add(W), rnd(3, 5), rnd.ids(7, B, 3), rnd(B, 7, 5)),
    "update_slice_of_data": moved(lambda W, i, x: lax.dynamic_update_slice(x, W, (i, 0)), (3, 5), 9, 7, 5),
    "update_slice_of_leaf": moved(lambda W, i, x: lax.dynamic_update_slice(W, x, (i, 0)), (7, 5), 9, 3, 5),
}

# ---- added, scaled


def normed(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5)


def group_norm(p, x):
    return normed(x.reshape(3, 2, 5), (0, 2)).reshape(3, 10) * p["s"] + p["b"]


def affine(f, width=5):
    """f({"s", "b"}, x) over positions."""
    return lambda rnd: of(f, {"s": rnd(width), "b": rnd(width)}, rnd(B, 3, width))


WHOLE = {
    "bias": of_matrix(lambda b, x: x + b, (5,), 5),
    "bias_of_positions": of_matrix(lambda b, x: x + b, (5,), 3, 5),
    "bias_of_columns": of_matrix(lambda b, x: x + b[:, None], (3,), 3, 5),
    "bias_kept_axis": of_matrix(lambda b, x: x + b, (3, 1), 2, 3, 5),
    "scale": of_matrix(lambda s, x: x * s, (5,), 3, 5),
    "scale_left": of_matrix(lambda s, x: s[:, None] * x, (3,), 3, 5),
    "scale_matrix": of_matrix(lambda W, x: x * W, (3, 5), 3, 5),
    "layer_norm": affine(lambda p, x: normed(x) * p["s"] + p["b"]),
    "rms_norm": of_matrix(lambda s, x: x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * (1 + s), (5,), 3, 5),
    "group_norm": affine(group_norm, width=10),
    "positional": of_matrix(lambda P, x: x + P[: len(x)], (7, 5), 3, 5),
    "temperature": of_matrix(lambda t, x: jax.nn.softmax(x / t), (), 3, 5),
    "scalar": of_matrix(lambda s, x: s * x + s, (), 3, 5),
    "one_number": of_matrix(lambda s, x: s * x, (1,), 3, 5),
    "prelu": of_matrix(lambda s, x: jnp.where(x > 0, x, s * x), (), 3, 5),
    "prelu_of_channels": of_matrix(lambda s, x: jnp.maximum(x, 0) + s * jnp.minimum(x, 0), (5,), 3, 5),
    "sub": of_matrix(lambda b, x: x - b, (5,), 3, 5),
    "sub_from": of_matrix(lambda b, x: b - x, (5,), 3, 5),
    "div": of_matrix(lambda s, x: x / s, (5,), 3, 5),
    "divided": of_matrix(lambda s, x: s / (2 + x**2), (5,), 3, 5),
    "power": of_matrix(lambda s, x: (1 + x**2) ** s, (5,), 3, 5),
    "maximum": of_matrix(jnp.maximum, (5,), 3, 5),
    "clamped": affine(lambda p, x: jnp.clip(x, -jnp.abs(p["s"]), jnp.abs(p["b"]))),
    "gate": affine(lambda p, x: x * jax.nn.sigmoid(p["s"]) + p["b"] * (1 - jax.nn.sigmoid(p["s"]))),
    "where": of_matrix(lambda b, x: jnp.where(x > 0, x, b), (5,), 3, 5),
    "where_by_row": of_matrix(lambda b, x: jnp.where((x[:, 0] > 0)[:, None], b, x), (5,), 3, 5),
    "class_token": of_matrix(lambda c, x: jnp.concatenate([c[None], x]), (5,), 3, 5),
    "initial_state": of_matrix(lambda h, x: lax.scan(lambda h, x: (jnp.tanh(h + x), h), h, x), (5,), 3, 5),
    "queries": of_matrix(lambda Q, x: qkv(Q, x, x), (2, 5), 3, 5),
    "layer_scale": lambda rnd: of(lambda p, x: x + p[0] * (x @ p[1]), (rnd(5), rnd(5, 5)), rnd(B, 3, 5)),
    "param_alone": of_matrix(lambda s, x: (jnp.sum(x), jnp.exp(s)), (5,), 3),
    "linear_loss": lambda rnd: Case(lambda w, x: jnp.sum(x @ w), rnd(5, 2), (rnd(B, 3, 5),)),
}

# ---- several uses of one leaf


def rnn(p, x):
    h = jnp.zeros(len(p["U"]))
    for step in x:
        h = jnp.tanh(p["W"] @ step + p["U"] @ h + p["b"])
    return h


def rnn_params(rnd):
    return {"W": rnd(5, 2), "U": rnd(5, 5), "b": rnd(5)}


def ab(f, *example):
    """f({"A", "C"}, x) of a narrow pair of matrices."""
    return lambda rnd: of(f, {"A": rnd(2, 5), "C": rnd(6, 2)}, rnd(B, *example))


def frozen_lora(merged):
    def f(p, x, W0):
        return (W0 + p["C"] @ p["A"]) @ x if merged else W0 @ x + p["C"] @ (p["A"] @ x)

    def case(rnd):
        W0 = rnd(6, 5)
        return of(lambda p, x: f(p, x, W0), {"A": rnd(2, 5), "C": rnd(6, 2)}, rnd(B, 5))

    return case


def hyper(p, z, x):
    """A data-made matrix."""
    return (p["H"] @ z).reshape(3, 5) @ x


SHARED = {
    "tied": looked_up(lambda E, ids: jnp.tanh(E[ids]) @ E.T, (7, 3), 7, 5),
    "tied_sliced_head": looked_up(lambda E, ids: jnp.tanh(E[ids]) @ E[:5].T, (7, 3), 7, 6),
    "tied_next_word": looked_up(
        lambda E, ids: jnp.take_along_axis(jax.nn.log_softmax(E[ids] @ E.T), ids[:, None], 1), (7, 3), 7, 5
    ),
    "thrice": of_matrix(lambda W, x: jnp.tanh(W @ jnp.tanh(W @ jnp.tanh(W @ x))), (5, 5), 5),
    "thrice_of_positions": of_matrix(lambda W, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ W) @ W) @ W), (5, 5), 3, 5),
    "both_ways": of_matrix(lambda W, x: W.T @ jnp.tanh(W @ x), (3, 5), 5),
    "both_ways_of_positions": of_matrix(lambda W, x: jnp.tanh(x @ W) @ W.T, (5, 2), 3, 5),
    "outer_and_elementwise": of_matrix(lambda W, x: jnp.tanh(x @ W)[:, None] * W, (5, 2), 3, 5),
    "outer_and_power": of_matrix(lambda W, x: (W @ x)[:, None] + W**3, (3, 5), 5),
    "rnn": lambda rnd: of(rnn, rnn_params(rnd), rnd(B, 3, 2)),
    "two_views": of_matrix(lambda W, x: W.reshape(3, 10) @ jnp.tanh(W.reshape(10, 3) @ x), (6, 5), 3),
    "whole_and_slice": of_matrix(lambda W, x: W[:2] @ jnp.tanh(W.T @ (W @ x)), (3, 5), 5),
    "overlapping_slices": of_matrix(lambda W, x: (W[:4] @ x) * (W[2:] @ x), (6, 5), 5),
    "bias_and_its_slice": of_matrix(lambda b, x: jnp.sin(x + b)[:, :2] + b[3:], (5,), 3, 5),
    "conv_two_maps": of_matrix(
        lambda W, x: (convolved(x, W, ONE), convolved(jnp.tanh(x[::2]), W, ONE)), (2, 3, 5), 6, 3
    ),
    "conv_twice": of_matrix(
        lambda W, x: convolved(jnp.tanh(convolved(x, W, ONE)), W, ONE, strides=(2,)), (2, 3, 3), 7, 3
    ),
    "conv_and_product": of_matrix(lambda W, x: convolved(x, W, ONE) @ W[0].T, (2, 3, 5), 6, 3),
    "shared_expert": of_matrix(
        lambda W, x: jnp.einsum("etd,edf->etf", x, W) + jnp.einsum("etd,df->etf", x, W[0]), (3, 5, 2), 3, 6, 5
    ),
    "siamese": lambda rnd: of(lambda W, x, y: jnp.tanh(W @ x) * jnp.tanh(W @ y), rnd(3, 5), rnd(B, 5), rnd(B, 5)),
    "lookup_twice": looked_up(lambda E, ids: jnp.sin(E[ids[0]]) * E[ids[1]], (7, 3), 7, 2, 5),
    "lookup_nested": looked_up(lambda E, ids: E[ids] + E[(ids * 2) % 7] + E[3], (7, 3), 7, 5),
    "lookup_and_transposed": lambda rnd: of(
        lambda E, ids, x: (E[ids] @ x) * (E.T @ (E @ x)).sum(), rnd(7, 3), rnd.ids(7, B, 5), rnd(B, 3)
    ),
    "lookup_rows_and_columns": looked_up(lambda W, ids: W[ids] * W[:, ids].T, (5, 5), 5, 6),
    "squared": of_matrix(lambda W, x: (W * W) @ x, (3, 5), 5),
    "cubed": of_matrix(lambda W, x: W**3 @ x, (3, 5), 5),
    "W_of_W": of_matrix(lambda W, x: (W @ W) @ x, (5, 5), 5),
    "gram_of_leaf": of_matrix(lambda W, x: x @ (W.T @ W), (3, 5), 2, 5),
    "quadratic_form": of_matrix(lambda W, x: x @ W.T @ W @ x, (3, 5), 5),
    "quadratic_of_W": of_matrix(lambda W, x: x @ W @ x, (5, 5), 5),
    "lora_merged": frozen_lora(merged=True),
    "lora_unmerged": frozen_lora(merged=False),
    "merged_first": ab(lambda p, x: (p["C"] @ p["A"]) @ x, 5, 3),
    "merged_and_apart": ab(lambda p, x: (p["C"] @ p["A"]) @ x + p["C"] @ jnp.tanh(p["A"] @ x), 5),
    "two_leaves_added": lambda rnd: of(lambda p, x: (p[0] + p[1].T) @ x, (rnd(3, 5), rnd(5, 3)), rnd(B, 5, 2)),
    "two_leaves_times": lambda rnd: of(lambda p, x: (p[0] * p[1]) @ x, (rnd(3, 5), rnd(3, 1)), rnd(B, 5, 2)),
    "hypernetwork": lambda rnd: of(hyper, {"H": rnd(15, 2)}, rnd(B, 2), rnd(B, 5)),
    "same_leaf_object_twice": lambda rnd: (
        lambda W: of(lambda p, x: p["A"] @ jnp.tanh(p["C"] @ x), {"A": W, "C": W}, rnd(B, 5))
    )(rnd(5, 5)),
}
