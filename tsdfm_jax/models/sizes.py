"""Numbers of parameters by arithmetic, to choose a network of a given size without making one."""


def transformer(cfg):
    """Parameters of the teacher of a TransformerConfig (without step-size conditioning)."""
    v, d, c, mlp = cfg.vocab, cfg.width, cfg.cond_width, cfg.mlp_ratio * cfg.width
    time = (256 * c + c) + (c * c + c)
    block = (6 * c * d + 6 * d) + 2 * d + 4 * d * d + (d * mlp + mlp) + (mlp * d + d)
    head = (2 * c * d + 2 * d) + d + (d * v + v)
    return v * d + time + cfg.blocks * block + head


def causal(cfg):
    """Parameters of a CausalConfig (GPT-2's architecture)."""
    d, mlp = cfg.width, cfg.mlp_width or 4 * cfg.width
    block = 4 * d + 4 * (d * d + d) + (d * mlp + mlp) + (mlp * d + d)
    return cfg.vocab * d + cfg.length * d + cfg.blocks * block + 2 * d


def nearest_blocks(one_block, target):
    """Number of blocks, at least one, that brings `one_block`, a CausalConfig of one block, nearest to `target` parameters."""
    size = causal(one_block)
    block = size - one_block.width * (one_block.vocab + one_block.length + 2)
    return 1 + max(0, round((target - size) / block))


def patches(cfg):
    """Parameters of a PatchConfig."""
    d, c, mlp, size = cfg.width, cfg.cond_width, cfg.mlp_ratio * cfg.width, cfg.width // cfg.heads
    told = cfg.times * ((256 * c + c) + (c * c + c)) + (c if cfg.classes or cfg.vector else 0)
    told += cfg.classes * c + (cfg.vector * c + c if cfg.vector else 0)
    attention = 2 * d * d + 2 * d * cfg.groups * size
    block = (6 * c * d + 6 * d) + 2 * d + attention + (d * mlp + mlp) + (mlp * d + d)
    outputs = (1 + cfg.scale) * cfg.features + cfg.mix * cfg.features * (cfg.features - 1) // 2
    ends = (cfg.features * d + d) + (2 * c * d + 2 * d) + d + outputs * (d + 1)
    return told + cfg.patches * d + cfg.blocks * block + ends


def trajectory_model(predictor, flow, flows):
    """Parameters of a trajectory model, of its predictor's PatchConfig and that of each of `flows` flow blocks."""
    return patches(predictor) + flows * patches(flow)
