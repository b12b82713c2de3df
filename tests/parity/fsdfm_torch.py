"""FS-DFM's network in PyTorch, written from its description, with its tensor names; for comparison only."""

import torch
from torch import nn
from torch.nn import functional as F


def features(t_B):
    """Cosine, then sine of the time at 128 frequencies: [B, 256]."""
    angle_BF = t_B[:, None] * 10_000.0 ** (-torch.arange(128) / 128)
    return torch.cat([angle_BF.cos(), angle_BF.sin()], dim=1)


def mlp(inner, hidden, outer, activation):
    return nn.Sequential(nn.Linear(inner, hidden), activation, nn.Linear(hidden, outer))


class Embedding(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = mlp(256, width, width, nn.SiLU())

    def forward(self, t_B):
        return self.mlp(features(t_B))


class Rotary(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10_000.0 ** (torch.arange(0, size, 2) / size))

    def forward(self, x_BHLd):
        angle_Ld = torch.outer(torch.arange(x_BHLd.shape[2]).float(), self.inv_freq)
        cos, sin = angle_Ld.cos(), angle_Ld.sin()
        first, second = x_BHLd.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Modulated(nn.Module):
    """The conditioning of a block or the output; a student first fuses time and step size."""

    def __init__(self, width, cond, parts, student):
        super().__init__()
        self.adaLN_modulation = nn.Linear(cond, parts * width)
        self.parts = parts
        if student:
            self.condition_fuser = nn.Linear(2 * cond, cond)

    def modulation(self, cond_BC, stepped):
        if stepped:
            cond_BC = F.silu(self.condition_fuser(cond_BC))
        return self.adaLN_modulation(cond_BC)[:, None].chunk(self.parts, dim=-1)


class Block(Modulated):
    def __init__(self, width, heads, cond, ratio, student):
        super().__init__(width, cond, 6, student)
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qw, self.kw, self.vw, self.attn_out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mlp = mlp(width, ratio * width, width, nn.GELU(approximate="tanh"))

    def forward(self, x_BLD, cond_BC, stepped, rotary):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(cond_BC, stepped)
        y_BLD = self.norm1(x_BLD) * (1 + scale_a) + shift_a
        q, k, v = (w(y_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.qw, self.kw, self.vw))
        y_BHLd = F.scaled_dot_product_attention(rotary(q), rotary(k), v)
        x_BLD = x_BLD + gate_a * self.attn_out(y_BHLd.transpose(1, 2).flatten(2))
        return x_BLD + gate_m * self.mlp(self.norm2(x_BLD) * (1 + scale_m) + shift_m)


class Output(Modulated):
    def __init__(self, width, cond, vocab, student):
        super().__init__(width, cond, 2, student)
        self.norm_final = nn.LayerNorm(width, bias=False)
        self.linear = nn.Linear(width, vocab)

    def forward(self, x_BLD, cond_BC, stepped):
        shift, scale = self.modulation(cond_BC, stepped)
        return self.linear(self.norm_final(x_BLD) * (1 + scale) + shift)


class Network(nn.Module):
    """A teacher or a student; `forward(x_BL, t_B, h_B)` gives logits, without step size where h_B is None."""

    def __init__(self, vocab, width, heads, cond, blocks, student, ratio=4):
        super().__init__()
        self.vocab_embed = nn.Embedding(vocab, width)
        self.time_embedding = Embedding(cond)
        if student:
            self.dt_embedding, self.time_condition_fuser = Embedding(cond), nn.Linear(2 * cond, 2 * cond)
        self.rotary_emb = Rotary(width // heads)
        self.blocks = nn.ModuleList(Block(width, heads, cond, ratio, student) for _ in range(blocks))
        self.output_layer = Output(width, cond, vocab, student)

    def forward(self, x_BL, t_B, h_B=None):
        cond_BC, stepped = self.time_embedding(t_B), h_B is not None
        if stepped:
            cond_BC = self.time_condition_fuser(torch.cat([cond_BC, self.dt_embedding(h_B)], dim=1))
        cond_BC, x_BLD = F.silu(cond_BC), self.vocab_embed(x_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, cond_BC, stepped, self.rotary_emb)
        return self.output_layer(x_BLD, cond_BC, stepped)


def born(seed=0, **shape):
    """A random network with no parameter at its initial value, and logits of a few units."""
    network, draw = Network(**shape).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if weight.ndim == 1:
                weight.copy_((0.0 if name.endswith("bias") else 1.0) + 0.3 * noise)
            else:
                weight.copy_(noise if name.startswith("vocab") else noise / weight.shape[1] ** 0.5)
    return network
