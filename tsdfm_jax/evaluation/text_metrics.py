"""Text metrics: pure functions of arrays, in float64, without JAX.

Letters: N texts of L tokens, D features, K buckets. From the texts: `entropy_nats_N`, `distinct`, `repetition_N`. From a
judge's NLL: `perplexity`, `bits_per_byte`. From the features of two sets of texts: `frechet`, `mauve`. From one model at
several temperatures: `frontier`, `at_entropy`.
"""

import warnings

import numpy as np
import scipy.cluster.vq
import scipy.optimize
import scipy.special

LLOYD = 30  # updates of the k-means
EQUAL = 1e-12  # squared distance of two rows of length 1 that differ only by float32 rounding
VARIANCE = 0.9  # share that the principal components keep
SET_KEYS = {"temperature", "entropy_N", "nll_N", "tokens_N"}


def entropy_nats_N(x_NL, valid_NL=None):
    """Entropy of each text's own histogram of tokens, in nats: [N]; 0 for a text without a token.

    `valid_NL` marks the positions that belong to the text (all if None). ValueError if its shape differs.
    """
    x_NL, valid_NL = _texts(x_NL, valid_NL)
    entropy_N = np.zeros(len(x_NL))
    for i, (x_L, valid_L) in enumerate(zip(x_NL, valid_NL)):
        count = np.unique(x_L[valid_L], return_counts=True)[1]
        entropy_N[i] = scipy.special.entr(count / max(count.sum(), 1)).sum()
    return entropy_N


def distinct(x_NL, n, valid_NL=None):
    """Different n-grams over all n-grams of a set of texts (distinct-n, arXiv 1510.03055).

    An n-gram lies within one text and only on valid positions. None if no text has one.
    """
    gram_MN, _ = _grams(x_NL, n, valid_NL)
    if not len(gram_MN):
        return None
    return len(np.unique(gram_MN, axis=0)) / len(gram_MN)


def repetition_N(x_NL, n=4, valid_NL=None):
    """Share of each text's n-grams that occur earlier in it: 1 - different / all (seq-rep-n, arXiv 1908.04319): [N].

    An n-gram lies only on valid positions. 0 for a text that is too short.
    """
    gram_MN, text_M = _grams(x_NL, n, valid_NL)
    all_N = np.bincount(text_M, minlength=len(x_NL))
    different = np.unique(np.column_stack([text_M, gram_MN]), axis=0)[:, 0]
    first_N = np.bincount(different, minlength=len(x_NL))
    return (all_N - first_N) / np.maximum(all_N, 1)


def perplexity(nll_N, tokens_N):
    """Both formulas of a judge's perplexity: {"ppl_token", "ppl_sample"}.

    `nll_N` is the sum over a text's tokens in nats, `tokens_N` their number. ppl_token = exp(mean over all tokens of all texts);
    ppl_sample = mean over texts of exp(mean over the text's own tokens), the formula of FS-DFM (arXiv 2509.20624). ValueError for
    a text without a token and for an NLL that is not finite.
    """
    nll_N, tokens_N = _finite_nll(nll_N), np.asarray(tokens_N)
    if nll_N.shape != tokens_N.shape or nll_N.ndim != 1 or not len(nll_N):
        raise ValueError(f"NLL of shape {nll_N.shape} and tokens of shape {tokens_N.shape} must both be one a text")
    if not (tokens_N > 0).all():
        raise ValueError(
            f"text {int(np.argmin(tokens_N))} has no token to judge: give every text one at least, such as an end token"
        )
    return {"ppl_token": float(np.exp(nll_N.sum() / tokens_N.sum())), "ppl_sample": float(np.exp(nll_N / tokens_N).mean())}


def bits_per_byte(nll_N, size):
    """A judge's bits per byte of text: sum of NLL / ln 2 / bytes.

    `nll_N` is a text's sum in nats; `size` is the bytes of all decoded texts in UTF-8. ValueError if that is 0, and for an NLL
    that is not finite.
    """
    if not size > 0:
        raise ValueError(f"the texts have {size} bytes of UTF-8 together: there must be one at least")
    return float(_finite_nll(nll_N).sum() / np.log(2) / size)


def padded(rows, number=None, length=None):
    """Texts of any length as (x_NL, valid_NL), padded with 0 at the end; N and L are as small as possible unless given."""
    x_NL = np.zeros((number or len(rows), length or max(map(len, rows))), np.int32)
    valid_NL = np.zeros(x_NL.shape, bool)
    for i, row in enumerate(rows):
        x_NL[i, : len(row)], valid_NL[i, : len(row)] = row, True
    return x_NL, valid_NL


def frechet(a_ND, b_ND):
    """Fréchet distance of the Gaussians fitted to two sets of features (arXiv 1706.08500): |m_a - m_b|² + tr(A + B - 2 (A B)^½).

    tr (A B)^½ is the sum of the singular values of R_a R_bᵀ, where R_aᵀ R_a = A: real and at least 0, also if N < D and A and
    B are singular. The estimate is too high: by s² D (D + 5) / (2 N) for two sets of N >> D rows of one distribution with
    covariance s² 1 [D]. So compare only distances of equal N. ValueError for fewer than 2 rows, different D, and values that
    are not finite.
    """
    a_ND, b_ND = _features(a_ND, b_ND)
    root_a, root_b = (np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1) for x in (a_ND, b_ND))
    shift = ((a_ND.mean(axis=0) - b_ND.mean(axis=0)) ** 2).sum()
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(max(0.0, shift + (root_a**2).sum() + (root_b**2).sum() - 2 * shared))


def mauve(a_ND, b_ND, seed, buckets=None, repeats=5):
    """Area under the divergence frontier of two sets of features (arXiv 2102.01454): (mean, sample std. deviation) over k-means.

    Rows are scaled to length 1, reduced to the principal components that hold 90 % of the variance of both sets together, and
    put into `buckets` buckets by one k-means of both sets; `frontier_area` compares the two histograms. The k-means is repeated
    `repeats` times, each with its own seed. `buckets` is a tenth of the smaller set's rows, from 2 to 500, if None. The
    histograms are not smoothed: each is only compared with mixtures of both, which are above 0 wherever it is.

    0.004 for sets that share no bucket, 1 for equal sets. Few rows make it too high: compare equal numbers of rows. ValueError
    for fewer than 2 rows, different D, values that are not finite, fewer than 2 buckets, and no repeat.
    """
    a_ND, b_ND = _features(a_ND, b_ND)
    buckets = max(2, min(500, min(len(a_ND), len(b_ND)) // 10)) if buckets is None else buckets
    if buckets < 2 or repeats < 1:
        raise ValueError(f"{buckets} buckets and {repeats} repeats: 2 buckets and 1 repeat are the least")
    z_ND, areas = _reduced(np.concatenate([a_ND, b_ND])), []
    for rng in np.random.default_rng(seed).spawn(repeats):
        bucket_N = _buckets(rng, z_ND, buckets)
        p_K, q_K = (np.bincount(part, minlength=buckets) / len(part) for part in np.split(bucket_N, [len(a_ND)]))
        areas.append(frontier_area(p_K, q_K))
    return float(np.mean(areas)), float(np.std(areas, ddof=1)) if repeats > 1 else 0.0


def frontier_area(p_K, q_K, scale=5.0, weights=1001):
    """Area under the curve (exp(-c KL(q|r)), exp(-c KL(p|r))) of the mixtures r = w p + (1 - w) q (arXiv 2102.01454, section 2).

    `p_K` and `q_K` are probabilities; c is `scale`; w runs over `weights` values from 0 to 1, joined by straight lines, and the
    end points (1, 0) and (0, 1) are added. Symmetric; c B(c + 1, c) = 1/252 for histograms that share no bucket, 1 for equal
    ones. The authors' program uses 25 values of w, which changes the area by up to 0.002. ValueError if the arguments are not
    two distributions on the same buckets.
    """
    p_K, q_K = np.asarray(p_K, np.float64), np.asarray(q_K, np.float64)
    for law in (p_K, q_K):
        if law.shape != p_K.shape or law.ndim != 1 or not (law >= 0).all() or abs(law.sum() - 1) > 1e-6:
            raise ValueError(f"{law.tolist()[:5]} is no law on {p_K.shape} buckets: give two histograms that sum to 1")
    weight_W1 = np.linspace(0, 1, weights)[:, None]
    r_WK = weight_W1 * p_K + (1 - weight_W1) * q_K
    x_W, y_W = (np.exp(-scale * scipy.special.rel_entr(law, r_WK).sum(axis=1)) for law in (q_K, p_K))
    x_W, y_W = np.concatenate([[1], x_W, [0]]), np.concatenate([[0], y_W, [1]])
    return float(np.clip(-np.trapezoid(y_W, x_W), 0, 1))


def frontier(sets, draws=1000, seed=0):
    """Perplexity against entropy, one point a temperature, with 95 % percentile intervals of a bootstrap over texts.

    `sets`: dicts of `temperature`, `entropy_N` (nats), `nll_N` (nats, sums over a text's tokens under one judge) and `tokens_N`.
    Returns dicts {temperature, entropy_nats, entropy_low, entropy_high, ppl_token, ppl_low, ppl_high} in order of temperature.
    ValueError for a set that lacks a key, has a value that is not finite, or has the temperature of another set. [D]
    """
    points = []
    for text_set, rng in _with_rng(sets, seed):
        entropy_R, log_ppl_R = _resampled(text_set, draws, rng)
        point = {"temperature": text_set["temperature"]}
        point |= dict(zip(("entropy_nats", "entropy_low", "entropy_high"), _interval(entropy_R)))
        point |= dict(zip(("ppl_token", "ppl_low", "ppl_high"), np.exp(_interval(log_ppl_R)).tolist()))
        points.append(point)
    return points


def at_entropy(sets, entropy, draws=1000, seed=0):
    """Perplexity at a given entropy (nats) between the temperatures of `sets` (as in `frontier`): {ppl_token, low, high, reached}.

    The logarithm of ppl_token is interpolated linearly in entropy between neighbouring temperatures, and never extrapolated:
    `ppl_token`, `low` and `high` are None if the entropy is not reached. Where entropy does not rise with temperature,
    neighbours are pooled until it does: their entropies and their log perplexities are averaged, weighted by their texts
    (isotonic regression). `low` and `high` are the 95 % percentiles of a bootstrap over texts within each temperature, over
    the draws that reach the entropy: `reached` is their share. The entropy counts as known. ValueError as in `frontier`. [D]
    """
    size_T, *parts = zip(
        *((len(text_set["entropy_N"]), *_resampled(text_set, draws, rng)) for text_set, rng in _with_rng(sets, seed))
    )
    entropy_RT, log_ppl_RT = (np.stack(columns, axis=1) for columns in parts)
    size_T = np.array(size_T, np.float64)
    matched_R = np.array([_interpolated(e_T, l_T, size_T, entropy) for e_T, l_T in zip(entropy_RT, log_ppl_RT)])
    reached = matched_R[1:][~np.isnan(matched_R[1:])]
    result = {"ppl_token": None, "low": None, "high": None, "reached": len(reached) / draws}
    if not np.isnan(matched_R[0]):
        result["ppl_token"] = float(np.exp(matched_R[0]))
        if len(reached):
            result |= dict(zip(("low", "high"), np.exp(np.percentile(reached, [2.5, 97.5])).tolist()))
    return result


def _texts(x_NL, valid_NL):
    x_NL = np.asarray(x_NL)
    valid_NL = np.ones(x_NL.shape, bool) if valid_NL is None else np.asarray(valid_NL, bool)
    if x_NL.ndim != 2 or valid_NL.shape != x_NL.shape or not len(x_NL):
        raise ValueError(
            f"texts of shape {x_NL.shape} with valid positions of shape {valid_NL.shape}: both must be [N, L], N at least 1"
        )
    return x_NL, valid_NL


def _grams(x_NL, n, valid_NL):
    """All n-grams on valid positions, and the text of each: ([M, n], [M])."""
    x_NL, valid_NL = _texts(x_NL, valid_NL)
    if n < 1:
        raise ValueError(f"n-grams of {n} tokens: n must be at least 1")
    if n > x_NL.shape[1]:
        return np.zeros((0, n), x_NL.dtype), np.zeros(0, np.int64)
    window = lambda array_NL: np.lib.stride_tricks.sliding_window_view(array_NL, n, axis=1)
    whole = window(valid_NL).all(axis=-1)
    return window(x_NL)[whole], np.nonzero(whole)[0]


def _finite_nll(nll_N):
    """NLL in float64; ValueError for one that is not finite."""
    nll_N = np.asarray(nll_N, np.float64)
    if not (finite_N := np.isfinite(nll_N)).all():
        raise ValueError(f"the judge's NLL of text {int(np.argmin(finite_N))} is not finite: look at its weights and precision")
    return nll_N


def _features(*sets):
    sets = [np.asarray(x_ND, np.float64) for x_ND in sets]
    shapes = [x_ND.shape for x_ND in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"features of shapes {shapes[0]} and {shapes[1]}: both must be [N, D] with N of at least 2 and one D")
    if not all(np.isfinite(x_ND).all() for x_ND in sets):
        raise ValueError("a feature is not finite: look at the judge's weights and precision")
    return sets


def _reduced(x_ND):
    """Rows scaled to length 1, on the fewest principal components that hold VARIANCE of their variance."""
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    x_ND = x_ND / np.where(length_N1 > 0, length_N1, 1)
    x_ND = x_ND - x_ND.mean(axis=0)
    variance_D, axes_DD = np.linalg.eigh(x_ND.T @ x_ND)
    cumulative_D = np.cumsum(variance_D[::-1])
    components = int(np.searchsorted(cumulative_D, VARIANCE * cumulative_D[-1])) + 1
    return x_ND @ axes_DD[:, ::-1][:, :components]


def _buckets(rng, z_ND, buckets):
    """The bucket of each row, by k-means from k-means++ (Arthur and Vassilvitskii, 2007): [N]; fewer where rows are equal."""
    chosen = [z_ND[rng.integers(len(z_ND))]]
    distance_N = np.full(len(z_ND), np.inf)
    while len(chosen) < buckets:
        distance_N = np.minimum(distance_N, ((z_ND - chosen[-1]) ** 2).sum(axis=1))
        apart_N = np.where(distance_N > EQUAL, distance_N, 0)
        if not apart_N.any():
            break
        chosen.append(z_ND[rng.choice(len(z_ND), p=apart_N / apart_N.sum())])
    with warnings.catch_warnings(action="ignore"):  # empty buckets: they are 0 in both histograms
        return scipy.cluster.vq.kmeans2(z_ND, np.array(chosen), iter=LLOYD, minit="matrix")[1]


def _with_rng(sets, seed):
    """Check the sets; return them by temperature, with arrays in float64, each with its own random generator."""
    if not sets:
        raise ValueError("a frontier of no set: give one for each temperature")
    for text_set in sets:
        if lacking := sorted(SET_KEYS - set(text_set)):
            raise ValueError(f"a set of the frontier lacks {', '.join(lacking)}")
    sets = [{k: np.asarray(v, np.float64) if k.endswith("_N") else v for k, v in text_set.items()} for text_set in sets]
    for text_set in sets:
        shapes = {text_set[key].shape for key in ("entropy_N", "nll_N", "tokens_N")}
        if len(shapes) > 1 or not text_set["nll_N"].ndim == 1 or not text_set["nll_N"].size:
            raise ValueError(
                f"temperature {text_set['temperature']}: entropy_N, nll_N and tokens_N must be [N] alike, not {sorted(shapes)}"
            )
        if (
            not (text_set["tokens_N"] > 0).all()
            or not np.isfinite(text_set["nll_N"]).all()
            or not np.isfinite(text_set["entropy_N"]).all()
        ):
            raise ValueError(f"temperature {text_set['temperature']}: every text needs a token, a finite NLL and a finite entropy")
    sets = sorted(sets, key=lambda text_set: text_set["temperature"])
    for left, right in zip(sets, sets[1:]):
        if left["temperature"] == right["temperature"]:
            raise ValueError(f"temperature {left['temperature']} stands twice in a frontier: put its texts into one set")
    return zip(sets, np.random.default_rng(seed).spawn(len(sets)))


def _resampled(text_set, draws, rng):
    """Mean entropy and log ppl_token of the texts (first) and of `draws` bootstrap samples: ([1 + draws], [1 + draws])."""
    if draws < 1:
        raise ValueError(f"{draws} draws of the bootstrap: at least 1")
    number = len(text_set["entropy_N"])
    index_RN = np.concatenate([np.arange(number)[None], rng.integers(number, size=(draws, number))])
    take = lambda name: text_set[name][index_RN].sum(axis=1)
    return take("entropy_N") / number, take("nll_N") / take("tokens_N")


def _interval(value_R):
    """[value of the texts (the first), and the 95 % percentile interval of the draws (the rest)]."""
    return [float(value_R[0]), *np.percentile(value_R[1:], [2.5, 97.5]).tolist()]


def _interpolated(entropy_T, log_ppl_T, size_T, entropy):
    """log ppl at an entropy, interpolated as `at_entropy` describes; nan if it is not reached."""
    if (np.diff(entropy_T) <= 0).any():
        starts = scipy.optimize.isotonic_regression(entropy_T, weights=size_T).blocks[:-1]
        pooled = lambda value_T: np.add.reduceat(value_T * size_T, starts) / np.add.reduceat(size_T, starts)
        entropy_T, log_ppl_T = pooled(entropy_T), pooled(log_ppl_T)
    if not entropy_T[0] <= entropy <= entropy_T[-1]:
        return np.nan
    return np.interp(entropy, entropy_T, log_ppl_T)
