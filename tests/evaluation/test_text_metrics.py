"""Text metrics: values by hand, properties, and coverage of intervals."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from tsdfm_jax.evaluation import text_metrics

X = np.array([[1, 1, 2, 2], [3, 3, 3, 3]])
SHORT = np.array([[1, 1, 1, 0], [1, 0, 1, 1]], bool)


def test_entropy_by_hand():
    """Two equal shares give ln 2, one token alone 0; only valid positions count, and a text without any has 0."""
    assert text_metrics.entropy_nats_N(X) == pytest.approx([np.log(2), 0])
    third = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert text_metrics.entropy_nats_N(X, SHORT) == pytest.approx([third, 0])
    assert text_metrics.entropy_nats_N(X, np.zeros_like(SHORT)) == pytest.approx([0, 0])


def test_n_grams_by_hand():
    """n-grams lie within one text and contain no invalid position."""
    assert text_metrics.distinct(X, 1) == 3 / 8
    assert text_metrics.distinct(X, 2) == 4 / 6  # 11 12 22 | 33 33 33
    assert text_metrics.distinct(X, 2, SHORT) == 1  # 11 12 | 33, and none across the hole
    assert text_metrics.repetition_N(X, 1) == pytest.approx([1 / 2, 3 / 4])
    assert text_metrics.repetition_N(X, 2) == pytest.approx([0, 2 / 3])
    assert text_metrics.repetition_N(X, 2, SHORT) == pytest.approx([0, 0])
    assert text_metrics.repetition_N(X, 5) == pytest.approx([0, 0])  # too short for one
    long = np.tile([5, 6, 7], 4)[None]  # 9 of its 4-grams, 3 of them different
    assert text_metrics.repetition_N(long) == pytest.approx([6 / 9])
    assert text_metrics.distinct(X, 5) is None
    with pytest.raises(ValueError, match="n must be at least 1"):
        text_metrics.repetition_N(X, 0)


def test_perplexity_by_hand():
    """ppl_token weights every token equally, ppl_sample every text."""
    nll, tokens = np.log([8.0, 8]), np.array([3, 1])
    assert text_metrics.perplexity(nll, tokens) == pytest.approx({"ppl_token": 2**1.5, "ppl_sample": 5.0})  # 64^(1/4); (2 + 8) / 2
    assert text_metrics.bits_per_byte(nll, 6) == pytest.approx((3 + 3) / 6)
    with pytest.raises(ValueError, match="text 1 has no token"):
        text_metrics.perplexity(nll, [3, 0])
    with pytest.raises(ValueError, match="text 0 is not finite"):
        text_metrics.perplexity([np.nan, 1], tokens)
    with pytest.raises(ValueError, match="0 bytes of UTF-8"):
        text_metrics.bits_per_byte(nll, 0)
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        text_metrics.perplexity(nll, tokens[:1])


def gauss(seed, shape, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, shape)


def with_covariance(seed, rows, covariance_DD):
    """Rows with exactly this sample covariance and mean 0."""
    x_ND = gauss(seed, (rows, len(covariance_DD)))
    x_ND -= x_ND.mean(axis=0)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(x_ND.T)))
    return x_ND @ whiten.T @ np.linalg.cholesky(covariance_DD).T


def test_frechet_by_hand():
    """The Fréchet distance is |m|² + Σ (s_a - s_b)² for diagonal Gaussians, else by eigenvalues of A B; symmetric; 0 to itself."""
    a, b = with_covariance(0, 50, np.diag([1.0, 4.0])), with_covariance(1, 30, np.diag([9.0, 16.0])) + [3, 4]
    assert text_metrics.frechet(a, b) == pytest.approx(25 + 2**2 + 2**2)
    first, second = (m @ m.T + np.eye(4) for m in (gauss(2, (4, 4)), gauss(3, (4, 4))))
    a, b = with_covariance(4, 40, first), with_covariance(5, 40, second)
    by_eigenvalues = np.trace(first + second) - 2 * np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    assert text_metrics.frechet(a, b) == pytest.approx(by_eigenvalues) == pytest.approx(text_metrics.frechet(b[::-1], a))
    assert 0 <= text_metrics.frechet(a, a) < 1e-9


def test_frechet_of_few_rows():
    """With fewer rows than features it is at least 0, 0 to itself, and finds a shift; with many rows its bias is D (D + 5) / 2N."""
    a = gauss(0, (10, 40))
    assert 0 <= text_metrics.frechet(a, a) < 1e-9
    assert text_metrics.frechet(a, a + 2.0) == pytest.approx(4.0 * 40)
    rows, wide = 400, 12
    found = [text_metrics.frechet(gauss(i, (rows, wide)), gauss(1000 + i, (rows, wide))) for i in range(100)]
    assert np.mean(found) == pytest.approx(wide * (wide + 5) / (2 * rows), rel=0.05)


@pytest.mark.parametrize("measure", [text_metrics.frechet, lambda a, b: text_metrics.mauve(a, b, 0)], ids=["frechet", "mauve"])
def test_features_that_are_none(measure):
    """One row, different widths and values that are not finite are refused."""
    for a, b, said in [((1, 3), (5, 3), r"\(1, 3\) and \(5, 3\)"), ((5, 3), (5, 4), "one D"), ((5, 3), (5, 3), "not finite")]:
        a, b = np.zeros(a), np.zeros(b)
        b[0, 0] = np.nan if said == "not finite" else 0
        with pytest.raises(ValueError, match=said):
            measure(a, b)


def test_frontier_area_by_hand():
    """Two buckets: p = (1, 0) against (1/2, 1/2) is 17/24 at c = 2, by the integral at c = 5; no common bucket is 1/252."""
    assert text_metrics.frontier_area([1, 0], [0.5, 0.5], scale=2) == pytest.approx(17 / 24, abs=1e-6)
    # x = (1 - w²)^(c/2), y = ((1 + w)/2)^c
    integral = scipy.integrate.quad(lambda w: ((1 + w) / 2) ** 5 * 5 * w * (1 - w * w) ** 1.5, 0, 1)[0]
    assert text_metrics.frontier_area([1, 0], [0.5, 0.5]) == pytest.approx(integral, abs=1e-6)
    assert text_metrics.frontier_area([1, 0], [0, 1]) == pytest.approx(1 / 252, abs=1e-6)
    assert text_metrics.frontier_area([0.3, 0.7], [0.3, 0.7]) == pytest.approx(1, abs=1e-12)


def test_frontier_area_properties():
    """The area is symmetric, in [0, 1], independent of bucket order and empty buckets, and falls from p towards another law."""
    for seed in range(20):
        p, q = np.random.default_rng(seed).dirichlet(np.full(6, 0.5), 2)
        area = text_metrics.frontier_area(p, q)
        assert 0 <= area <= 1 and area == pytest.approx(text_metrics.frontier_area(q, p), abs=1e-9)
        assert area == pytest.approx(text_metrics.frontier_area(np.append(p[::-1], 0), np.append(q[::-1], 0)), abs=1e-12)
        away = [text_metrics.frontier_area(p, (1 - s) * p + s * q) for s in (0, 0.25, 0.5, 0.75, 1)]
        assert (np.diff(away) < 0).all()
    for p, q in ([[0.5, 0.5], [1.0]], [[0.5, 0.6], [0.5, 0.5]], [[1.5, -0.5], [0.5, 0.5]]):
        with pytest.raises(ValueError, match="sum to 1"):
            text_metrics.frontier_area(p, q)


def test_mauve_of_known_buckets():
    """Clusters far apart become the buckets: MAUVE is the frontier area of their shares, without spread."""
    corners = np.eye(3) * 10
    at = lambda counts, seed: np.repeat(corners, counts, axis=0) + gauss(seed, (sum(counts), 3), 0.01)
    mean, spread = text_metrics.mauve(at((20, 20, 0), 0), at((10, 20, 10), 1), seed=0, buckets=3)
    assert mean == pytest.approx(text_metrics.frontier_area([0.5, 0.5, 0], [0.25, 0.5, 0.25]), abs=1e-12) and spread < 1e-12
    mean, _ = text_metrics.mauve(at((30, 0, 0), 0), at((0, 0, 30), 1), seed=0)
    assert mean == pytest.approx(1 / 252, abs=1e-6)
    # equal rows make fewer buckets than asked for, and row length does not matter
    assert text_metrics.mauve(np.ones((30, 3)), 7 * np.ones((30, 3)), seed=0) == (1.0, 0.0)


def test_mauve_properties():
    """MAUVE is 1 to itself, falls with distance, is fixed by its seed, and symmetric and order-free within its spread."""
    a = gauss(0, (200, 8), shift=1.0)
    assert text_metrics.mauve(a, a[::-1], seed=0) == (1.0, 0.0)
    moved = [gauss(1, (200, 8), shift=1.0) + np.eye(8)[0] * far for far in (0, 1, 2, 4)]
    areas = [text_metrics.mauve(a, b, seed=0, repeats=8) for b in moved]
    means, spreads = np.array(areas).T
    assert (np.diff(means) < 0).all() and means[0] > 0.8 and means[-1] < 0.1 and (spreads[:3] > 0).all()
    assert areas[1] == text_metrics.mauve(a, moved[1], seed=0, repeats=8) != text_metrics.mauve(a, moved[1], seed=1, repeats=8)
    order = np.random.default_rng(2).permutation(200)
    for again in (text_metrics.mauve(a[order], moved[1][order[::-1]], 0, repeats=8), text_metrics.mauve(moved[1], a, 0, repeats=8)):
        assert abs(again[0] - means[1]) < 4 * np.hypot(spreads[1], again[1]) / np.sqrt(8)
    assert text_metrics.mauve(a, moved[1], seed=0, repeats=1)[1] == 0
    with pytest.raises(ValueError, match="1 buckets"):
        text_metrics.mauve(a, a, 0, buckets=1)


def test_mauve_drops_what_varies_little(monkeypatch):
    """A direction with 2 % of the variance makes no difference, though k-means could separate by it; one with more does."""
    angle = gauss(0, (100,), scale=10)
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    aside = lambda far: text_metrics.mauve(circle, circle + [0, 0, far], seed=0, buckets=20)[0]
    assert aside(0.25) > 0.8 and aside(2.0) < 0.1
    monkeypatch.setattr(text_metrics, "VARIANCE", 1.0)
    assert aside(0.25) < 0.6


def texts(rng, temperatures, number, slope=2.0):
    """Sets with a straight frontier: entropy 3 + T, log ppl `slope`·T, and shared noise."""
    for temperature in temperatures:
        noise, tokens = rng.normal(size=(2, number)), rng.integers(20, 60, number)
        nll = (slope * temperature + 0.3 * noise[0] + 0.2 * noise[1]) * tokens
        yield {"temperature": temperature, "entropy_N": 3 + temperature + 0.3 * noise[0], "nll_N": nll, "tokens_N": tokens}


def test_frontier_by_hand():
    """A point is mean entropy and exp(sum of NLL / sum of tokens), by temperature; equal texts have an interval of width 0."""
    even = {"temperature": 1.0, "entropy_N": [2.0, 4.0], "nll_N": [np.log(2.0), 3 * np.log(4.0)], "tokens_N": [1, 3]}
    alike = {"temperature": 0.5, "entropy_N": [1.5] * 3, "nll_N": [np.log(9.0)] * 3, "tokens_N": [2] * 3}
    low, high = text_metrics.frontier([even, alike], draws=200)
    assert low == pytest.approx({"temperature": 0.5, "entropy_nats": 1.5, "entropy_low": 1.5, "entropy_high": 1.5,
                                 "ppl_token": 3, "ppl_low": 3, "ppl_high": 3})  # fmt: skip
    assert (high["entropy_nats"], high["ppl_token"]) == pytest.approx((3, 2 ** (7 / 4)))
    assert (high["entropy_low"], high["entropy_high"]) == (2, 4) and (high["ppl_low"], high["ppl_high"]) == pytest.approx((2, 4))


def test_at_entropy_by_hand():
    """The matched perplexity is log-linear between points, none beyond the ends; points out of order are pooled by texts."""

    def curve(*points):
        number = lambda point: point[3] if len(point) > 3 else 2
        return [{"temperature": t, "entropy_N": [h] * number(p), "nll_N": [np.log(ppl)] * number(p), "tokens_N": [1] * number(p)}
                for p in points for t, h, ppl in [p[:3]]]  # fmt: skip

    line = curve((0.5, 1, 10), (1.5, 4, 90), (1.0, 2, 40))
    for entropy, ppl in ((1, 10), (1.5, 20), (2, 40), (3, 60), (4, 90)):
        assert text_metrics.at_entropy(line, entropy, draws=20) == pytest.approx(
            {"ppl_token": ppl, "low": ppl, "high": ppl, "reached": 1}
        )
    for entropy in (0.99, 4.01, np.inf, -np.inf, np.nan):
        told = {"ppl_token": None, "low": None, "high": None, "reached": 0}
        assert text_metrics.at_entropy(line, entropy, draws=20) == told
    # 3 then 2, three texts and one: one point at entropy 2.75 and log ppl of 3/4 and 1/4
    bent = curve((0.5, 1, 10), (0.7, 3, 16, 3), (0.9, 2, 256, 1), (1.1, 4, 90))
    assert text_metrics.at_entropy(bent, 2.75, draws=5)["ppl_token"] == pytest.approx(32)
    assert text_metrics.at_entropy(bent, 1 + 1.75 / 2, draws=5)["ppl_token"] == pytest.approx(np.sqrt(320))
    # 3 and 1 pool to 2.5, by their texts, which is above 2.2: all three are one point at entropy 2.35
    chain = curve((0.5, 1, 10), (0.7, 3, 16, 3), (0.9, 1, 16, 1), (1.1, 2.2, 64, 4), (1.3, 4, 90))
    assert text_metrics.at_entropy(chain, 2.35, draws=5)["ppl_token"] == pytest.approx(32)
    falling = curve((0.5, 3, 16), (0.7, 1, 64))
    assert text_metrics.at_entropy(falling, 2, draws=5)["ppl_token"] == pytest.approx(32)
    assert text_metrics.at_entropy(falling, 2.5, draws=5)["ppl_token"] is None
    level = curve((0.5, 1, 4), (0.7, 2, 16), (0.9, 2, 64))
    assert text_metrics.at_entropy(level, 2, draws=5)["ppl_token"] == pytest.approx(32)
    assert text_metrics.at_entropy(curve((1.0, 2, 7)), 2, draws=5)["ppl_token"] == pytest.approx(7)


def test_at_entropy_near_an_end():
    """Where only some draws reach the entropy, `reached` is their share; beyond the end there is no point and no interval."""
    sets = list(texts(np.random.default_rng(0), (0.0, 1.0), 50))
    top = sets[1]["entropy_N"].mean()
    inside, outside = (text_metrics.at_entropy(sets, top + shift, draws=400) for shift in (-1e-9, 1e-9))
    assert 0.4 < inside["reached"] < 0.6 and inside["low"] < inside["high"]
    assert outside["ppl_token"] is outside["low"] is outside["high"] is None and outside["reached"] == inside["reached"]


def test_intervals_cover():
    """Over 400 sets of texts, 95 % intervals of both means and of the matched perplexity cover the truth in 95 %."""
    runs, held = 400, np.zeros(3)
    for seed in range(runs):
        sets = list(texts(np.random.default_rng(seed), (0.6, 1.0, 1.4), 200))
        point = text_metrics.frontier(sets[1:2], draws=250, seed=seed)[0]
        told = text_metrics.at_entropy(sets, 4.15, draws=250, seed=seed)
        assert told["reached"] == 1
        ppl = lambda low, high, truth: low <= np.exp(truth) <= high
        held += (
            point["entropy_low"] <= 4 <= point["entropy_high"],
            ppl(point["ppl_low"], point["ppl_high"], 2.0),
            ppl(told["low"], told["high"], 2.3),
        )
    for count in held:
        assert scipy.stats.binomtest(int(count), runs, 0.95).pvalue > 1e-3, held


def test_bootstrap_keeps_a_text_whole():
    """Entropy and NLL of a text are drawn together: if all texts lie on the frontier, the matched interval has width 0."""
    rng = np.random.default_rng(0)
    sets = [
        {"temperature": t, "entropy_N": (h := t + rng.normal(size=60)), "nll_N": 30 * h, "tokens_N": np.full(60, 30)}
        for t in (1, 5)
    ]
    told = text_metrics.at_entropy(sets, 3.0, draws=100)
    assert (told["low"], told["high"]) == pytest.approx((np.exp(3.0), np.exp(3.0)))
    low, high = text_metrics.frontier(sets, draws=100)
    assert low["ppl_high"] / low["ppl_low"] > 1.2 and high["entropy_high"] - high["entropy_low"] > 0.2
    assert text_metrics.frontier(sets, draws=100) == [low, high] != text_metrics.frontier(sets, draws=100, seed=1)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"nll_N": None}, "lacks nll_N"),
        ({"tokens_N": [1, 1]}, "must be .N. alike"),
        ({"tokens_N": [1, 0, 1]}, "every text needs a token"),
        ({"nll_N": [1, np.inf, 1]}, "a finite NLL"),
        ({"temperature": 0.5}, "0.5 stands twice"),
    ],
)
def test_sets_that_are_none(change, said):
    """A frontier of damaged sets is refused in one line."""
    good = {"temperature": 0.5, "entropy_N": [1, 2, 3], "nll_N": [1, 2, 3], "tokens_N": [1, 1, 1]}
    bad = {key: value for key, value in (good | {"temperature": 1.0} | change).items() if value is not None}
    for ask in (text_metrics.frontier, lambda sets: text_metrics.at_entropy(sets, 1.0)):
        with pytest.raises(ValueError, match=said):
            ask([good, bad])
    with pytest.raises(ValueError, match="no set"):
        text_metrics.frontier([])
    with pytest.raises(ValueError, match="0 draws"):
        text_metrics.frontier([good], draws=0)
