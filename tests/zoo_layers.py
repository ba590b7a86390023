"""Cases of the layers that people use: Flax NNX, Flax Linen, Equinox. A case skips its test where the package is missing.

Packages are imported in the cases, not before. Parameters are drawn anew in float64: biases that begin at 0 hide mistakes.
"""

import importlib
import warnings

import jax
import jax.numpy as jnp
from zoo_case import B, of

# ---- Flax NNX: split and merge


def package(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def nnx_case(build, apply, *example, keyed=False, **options):
    """build(nnx, rngs) gives a module; apply(module, x) or apply(module, x, key) its output for one example."""

    def case(rnd):
        nnx = package("flax.nnx")
        graph, params, rest = nnx.split(build(nnx, nnx.Rngs(0)), nnx.Param, ...)
        batch = (rnd(B, *example), rnd.keys()) if keyed else (rnd(B, *example),)
        return of(lambda p, *x: apply(nnx.merge(graph, p, rest), *x), rnd.like(params), *batch, **options)

    return case


def called(module, x):
    return module(x)


def nnx_layer(name, *sizes, example, **more):
    """One module on one example, its last axis the features."""
    return nnx_case(lambda nnx, rngs: getattr(nnx, name)(*sizes, rngs=rngs, **more), called, *example)


def state_of(cell):
    return (jnp.zeros(5), jnp.ones(5)) if "LSTM" in cell else jnp.zeros(5)


def nnx_rnn(cell, back=False):
    return nnx_case(
        lambda nnx, rngs: nnx.RNN(
            getattr(nnx, cell)(2, 5, dtype=jnp.float64, rngs=rngs), reverse=back, keep_order=back
        ),
        lambda rnn, x: rnn(x, initial_carry=state_of(cell)),
        6,
        2,
    )


def nnx_steps(cell):
    """Two steps by hand."""
    return nnx_case(
        lambda nnx, rngs: getattr(nnx, cell)(2, 5, dtype=jnp.float64, rngs=rngs),
        lambda module, x: module(module(state_of(cell), x[0])[0], x[1]),
        3,
        2,
    )


def nnx_wrapped(wrapper, **call):
    return nnx_case(
        lambda nnx, rngs: getattr(nnx, wrapper)(nnx.Linear(5, 2, rngs=rngs), rngs=rngs),
        lambda module, x: module(x, **call),
        6,
        5,
    )


def nnx_mlp(nnx, rngs):
    return nnx.Sequential(
        nnx.Linear(5, 2, rngs=rngs), nnx.LayerNorm(2, rngs=rngs), jnp.tanh, nnx.Linear(2, 3, rngs=rngs)
    )


def nnx_attention(nnx, rngs, **more):
    return nnx.MultiHeadAttention(2, 6, qkv_features=4, out_features=5, decode=False, rngs=rngs, **more)


def nnx_scan(module, x):
    """Three layers of one module, vmapped when made."""
    nnx = package("flax.nnx")
    return nnx.scan(lambda x, layer: jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, module)


def nnx_stack(nnx, rngs):
    return nnx.vmap(lambda key: nnx.Linear(5, 5, rngs=nnx.Rngs(key)))(jax.random.split(rngs(), 3))


def nnx_tied(module, x):
    return module.attend(jnp.tanh(module(jnp.abs(3 * x).astype(int) % 7)))


NNX = {
    "nnx_linear": nnx_layer("Linear", 5, 2, example=(6, 5)),
    "nnx_linear_vector": nnx_layer("Linear", 5, 2, example=(5,)),
    "nnx_mlp": nnx_case(nnx_mlp, called, 6, 5),
    "nnx_linear_general": nnx_layer("LinearGeneral", (2, 5), (3, 4), example=(6, 2, 5), axis=(-2, -1)),
    "nnx_linear_batch_axis": nnx_layer("LinearGeneral", 5, 2, example=(3, 6, 5), batch_axis={0: 3}, axis=-1),
    "nnx_conv_1d": nnx_layer("Conv", 2, 5, (3,), example=(6, 2)),
    "nnx_conv_2d": nnx_layer("Conv", 2, 6, (3, 2), example=(6, 7, 2), strides=(2, 1), feature_group_count=2),
    "nnx_conv_circular": nnx_layer("Conv", 2, 5, (3,), example=(6, 2), padding="CIRCULAR"),
    "nnx_conv_causal": nnx_layer("Conv", 2, 5, (3,), example=(6, 2), padding="CAUSAL", kernel_dilation=2),
    "nnx_conv_transpose": nnx_layer("ConvTranspose", 2, 5, (3,), example=(6, 2), strides=(2,)),
    "nnx_embed": nnx_case(
        lambda nnx, rngs: nnx.Embed(7, 3, dtype=jnp.float64, rngs=rngs),
        lambda m, x: m(jnp.abs(3 * x).astype(int) % 7),
        5,
    ),
    "nnx_embed_attend": nnx_case(lambda nnx, rngs: nnx.Embed(7, 3, dtype=jnp.float64, rngs=rngs), nnx_tied, 5),
    "nnx_layer_norm": nnx_layer("LayerNorm", 5, example=(6, 5)),
    "nnx_rms_norm": nnx_layer("RMSNorm", 5, example=(6, 5)),
    "nnx_group_norm": nnx_layer("GroupNorm", 6, 3, example=(5, 6)),
    "nnx_instance_norm": nnx_layer("InstanceNorm", 2, example=(1, 6, 2)),
    "nnx_batch_norm": nnx_layer("BatchNorm", 5, example=(6, 5), use_running_average=True),
    "nnx_attention": nnx_case(nnx_attention, called, 3, 6, tolerance=2e-5),  # its softmax is in float32
    "nnx_attention_normed": nnx_case(
        lambda nnx, rngs: nnx_attention(nnx, rngs, normalize_qk=True, use_bias=False), called, 3, 6, tolerance=2e-5
    ),
    "nnx_einsum": nnx_layer("Einsum", "td,dhk->thk", (5, 2, 3), (2, 3), example=(6, 5)),
    "nnx_lora": nnx_layer("LoRA", 5, 2, 3, example=(6, 5)),
    "nnx_lora_linear": nnx_layer("LoRALinear", 5, 3, example=(6, 5), lora_rank=2),
    "nnx_prelu": nnx_case(lambda nnx, _: nnx.PReLU(), called, 5),
    "nnx_simple_cell": nnx_steps("SimpleCell"),
    "nnx_gru_cell": nnx_steps("GRUCell"),
    "nnx_lstm_cell": nnx_steps("LSTMCell"),
    "nnx_optimized_lstm_cell": nnx_steps("OptimizedLSTMCell"),
    "nnx_rnn_simple": nnx_rnn("SimpleCell"),
    "nnx_rnn_lstm": nnx_rnn("LSTMCell"),
    "nnx_rnn_gru_reversed": nnx_rnn("GRUCell", back=True),
    "nnx_rnn_optimized_lstm": nnx_rnn("OptimizedLSTMCell"),
    "nnx_weight_norm": nnx_wrapped("WeightNorm"),
    "nnx_spectral_norm": nnx_wrapped("SpectralNorm", update_stats=False),
    "nnx_scan": nnx_case(nnx_stack, nnx_scan, 6, 5),
    "nnx_remat": nnx_case(
        nnx_mlp, lambda module, x: package("flax.nnx").remat(lambda module, x: module(x))(module, x), 6, 5
    ),
    "nnx_dropout": nnx_case(
        lambda nnx, rngs: nnx.List([nnx.Linear(5, 2, rngs=rngs), nnx.Dropout(0.5, deterministic=False)]),
        lambda m, x, key: m[1](m[0](x), rngs=package("flax.nnx").Rngs(dropout=key)),
        6,
        5,
        keyed=True,
    ),
}

# ---- Flax Linen: init and apply


def linen_case(build, *example, keyed=False, ids=0):
    """build(nn) gives a module; the parameters are those of module.init, the other collections stay as they are."""

    def case(rnd):
        module = build(package("flax.linen"))
        x = rnd.ids(ids, B, *example) if ids else rnd(B, *example)
        variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x[0])
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def f(p, x, *key):
            rngs = {"dropout": key[0]} if key else None
            return module.apply({"params": p, **rest}, x, rngs=rngs)

        return of(f, rnd.like(variables["params"]), x, *([rnd.keys()] if keyed else []))

    return case


def linen_mlp(nn, *between):
    return nn.Sequential([nn.Dense(2), *between, jnp.tanh, nn.Dense(3)])


def linen_tied(nn):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, ids):
            table = nn.Embed(7, 3)
            return table.attend(jnp.tanh(table(ids)))

    return Tied()


def linen_layers(nn, wrap=None, **more):
    """Three layers in one scan."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(nn.Dense(x.shape[-1])(x)), None

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.remat(Block) if wrap else Block
            return nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]

    return Layers()


def linen_attention(nn):
    return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4, out_features=5)


WIDE = {"param_dtype": jnp.float64}  # of the state too
LINEN = {
    "linen_dense": linen_case(lambda nn: nn.Dense(2), 6, 5),
    "linen_mlp": linen_case(linen_mlp, 6, 5),
    "linen_dense_general": linen_case(lambda nn: nn.DenseGeneral((3, 4), axis=(-2, -1)), 6, 2, 5),
    "linen_dense_batch_dims": linen_case(lambda nn: nn.DenseGeneral(4, axis=-1, batch_dims=(0,)), 3, 2, 5),
    "linen_einsum": linen_case(lambda nn: nn.Einsum((5, 2, 3), "td,dhk->thk"), 6, 5),
    "linen_conv_1d": linen_case(lambda nn: nn.Conv(5, (3,)), 6, 2),
    "linen_conv_2d": linen_case(lambda nn: nn.Conv(6, (3, 2), strides=(2, 1), feature_group_count=2), 6, 7, 2),
    "linen_conv_local": linen_case(lambda nn: nn.ConvLocal(5, (3,)), 6, 2),
    "linen_conv_transpose": linen_case(lambda nn: nn.ConvTranspose(5, (3,), strides=(2,)), 6, 2),
    "linen_embed": linen_case(lambda nn: nn.Embed(7, 3), 5, ids=7),
    "linen_embed_attend": linen_case(linen_tied, 5, ids=7),
    "linen_attention": linen_case(linen_attention, 3, 6),
    "linen_layer_norm": linen_case(lambda nn: linen_mlp(nn, nn.LayerNorm()), 6, 5),
    "linen_rms_norm": linen_case(lambda nn: linen_mlp(nn, nn.RMSNorm()), 6, 5),
    "linen_group_norm": linen_case(lambda nn: nn.GroupNorm(3), 5, 6),
    "linen_batch_norm": linen_case(lambda nn: nn.BatchNorm(use_running_average=True), 6, 5),
    "linen_prelu": linen_case(lambda nn: nn.PReLU(), 5),
    "linen_rnn_simple": linen_case(lambda nn: nn.RNN(nn.SimpleCell(5, **WIDE)), 6, 2),
    "linen_rnn_lstm": linen_case(lambda nn: nn.RNN(nn.LSTMCell(5, **WIDE)), 6, 2),
    "linen_rnn_optimized_lstm": linen_case(lambda nn: nn.RNN(nn.OptimizedLSTMCell(5, **WIDE)), 6, 2),
    "linen_rnn_gru": linen_case(lambda nn: nn.RNN(nn.GRUCell(5, **WIDE), reverse=True, keep_order=True), 6, 2),
    "linen_rnn_conv_lstm": linen_case(lambda nn: nn.RNN(nn.ConvLSTMCell(2, (3,), **WIDE), return_carry=False), 3, 5, 2),
    "linen_bidirectional": linen_case(
        lambda nn: nn.Bidirectional(nn.RNN(nn.GRUCell(5, **WIDE)), nn.RNN(nn.SimpleCell(3, **WIDE))), 6, 2
    ),
    "linen_scan": linen_case(linen_layers, 6, 5),
    "linen_scan_remat": linen_case(lambda nn: linen_layers(nn, wrap="remat"), 6, 5),
    "linen_remat": linen_case(lambda nn: linen_mlp(nn, nn.remat(nn.Dense)(4)), 6, 5),
    "linen_vmap": linen_case(
        lambda nn: nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)(2), 3, 6, 5
    ),
    "linen_weight_norm": linen_case(lambda nn: nn.WeightNorm(nn.Dense(2)), 6, 5),
    "linen_dropout": linen_case(lambda nn: linen_mlp(nn, nn.Dropout(0.5, deterministic=False)), 6, 5, keyed=True),
}

# ---- Equinox: partition and combine


def eqx_case(build, apply, *example, keyed=False, ids=0):
    """build(nn, key) gives a module; apply(module, x) or apply(module, x, key) its output for one example."""

    def case(rnd):
        eqx = package("equinox")
        params, static = eqx.partition(build(eqx.nn, jax.random.key(0)), eqx.is_inexact_array)
        x = rnd.ids(ids, B, *example) if ids else rnd(B, *example)
        return of(
            lambda p, *x: apply(eqx.combine(p, static), *x), rnd.like(params), x, *([rnd.keys()] if keyed else [])
        )

    return case


def eqx_layer(name, *sizes, example, apply=called, **more):
    return eqx_case(lambda nn, key: getattr(nn, name)(*sizes, key=key, **more), apply, *example)


def over_positions(module, x):
    return jax.vmap(module)(x)


def eqx_unkeyed(name, *sizes, example, **more):
    return eqx_case(lambda nn, _: getattr(nn, name)(*sizes, **more), called, *example)


def gru_over_time(cell, x):
    return jax.lax.scan(lambda h, x: (cell(x, h),) * 2, jnp.zeros(5), x)


def lstm_over_time(cell, x):
    def step(state, x):
        state = cell(x, state)
        return state, state[0]

    return jax.lax.scan(step, (jnp.zeros(5), jnp.zeros(5)), x)


def rotary(module, x):
    """Attention whose queries and keys are turned by their positions."""
    attention, turn = module
    return attention(x, x, x, process_heads=lambda q, k, v: (*(jax.vmap(turn, 1, 1)(a) for a in (q, k)), v))


def eqx_rotary(nn, key):
    return nn.MultiheadAttention(2, 8, use_key_bias=True, key=key), nn.RotaryPositionalEmbedding(4)


def eqx_tied(nn, key):
    table = nn.Embedding(7, 3, key=key)
    return nn.Shared((table, nn.Linear(3, 7, use_bias=False, key=key)), lambda m: m[1].weight, lambda m: m[0].weight)


def apply_tied(module, ids):
    table, head = module()
    return jax.vmap(head)(jnp.tanh(jax.vmap(table)(ids)))


EQUINOX = {
    "eqx_linear": eqx_layer("Linear", 5, 2, example=(5,)),
    "eqx_linear_positions": eqx_layer("Linear", 5, 2, example=(6, 5), apply=over_positions),
    "eqx_linear_scalar": eqx_layer("Linear", "scalar", "scalar", example=()),
    "eqx_mlp": eqx_layer("MLP", 5, 2, 3, 2, example=(5,)),
    "eqx_mlp_positions": eqx_layer("MLP", 5, 2, 3, 1, example=(6, 5), apply=over_positions),
    "eqx_conv_1d": eqx_layer("Conv1d", 2, 5, 3, example=(2, 6)),
    "eqx_conv_2d": eqx_layer("Conv2d", 2, 6, (3, 2), example=(2, 6, 7), stride=(2, 1), groups=2, padding=1),
    "eqx_conv_3d": eqx_layer("Conv3d", 2, 5, (2, 1, 3), example=(2, 3, 4, 6)),
    "eqx_conv_circular": eqx_layer("Conv1d", 2, 5, 3, example=(2, 6), padding="SAME", padding_mode="CIRCULAR"),
    "eqx_conv_transpose": eqx_layer("ConvTranspose1d", 2, 5, 3, example=(2, 6), stride=2, output_padding=1),
    "eqx_conv_transpose_2d": eqx_layer("ConvTranspose2d", 2, 6, (3, 2), example=(2, 3, 4), groups=2, dilation=2),
    "eqx_embedding": eqx_case(lambda nn, key: nn.Embedding(7, 3, key=key), over_positions, 5, ids=7),
    "eqx_embedding_tied": eqx_case(eqx_tied, apply_tied, 5, ids=7),
    "eqx_layer_norm": eqx_unkeyed("LayerNorm", 5, example=(5,)),
    "eqx_layer_norm_positions": eqx_case(lambda nn, _: nn.LayerNorm(5), over_positions, 6, 5),
    "eqx_rms_norm": eqx_unkeyed("RMSNorm", 5, example=(5,)),
    "eqx_group_norm": eqx_unkeyed("GroupNorm", 3, 6, example=(6, 5)),
    "eqx_attention": eqx_case(
        lambda nn, key: nn.MultiheadAttention(2, 6, use_query_bias=True, use_output_bias=True, key=key),
        lambda m, x: m(x, x[:2], x[:2]),
        3,
        6,
    ),
    "eqx_attention_causal": eqx_case(
        lambda nn, key: nn.MultiheadAttention(2, 6, key=key), lambda m, x: m(x, x, x, mask=jnp.tri(3) > 0), 3, 6
    ),
    "eqx_rotary": eqx_case(eqx_rotary, rotary, 3, 8),
    "eqx_gru_cell": eqx_case(lambda nn, key: nn.GRUCell(2, 5, key=key), gru_over_time, 6, 2),
    "eqx_lstm_cell": eqx_case(lambda nn, key: nn.LSTMCell(2, 5, key=key), lstm_over_time, 6, 2),
    "eqx_prelu": eqx_unkeyed("PReLU", example=(5,)),
    "eqx_weight_norm": eqx_case(lambda nn, key: nn.WeightNorm(nn.Linear(5, 2, key=key)), called, 5),
    "eqx_weight_norm_conv": eqx_case(lambda nn, key: nn.WeightNorm(nn.Conv1d(2, 5, 3, key=key)), called, 2, 6),
    "eqx_dropout": eqx_case(
        lambda nn, key: (nn.Linear(5, 2, key=key), nn.Dropout(0.5)),
        lambda m, x, key: m[1](m[0](x), key=key),
        5,
        keyed=True,
    ),
    "eqx_sequential": eqx_case(
        lambda nn, key: nn.Sequential([nn.Linear(5, 2, key=key), nn.Lambda(jnp.tanh), nn.Linear(2, 3, key=key)]),
        called,
        5,
    ),
}
