"""A program is shared only by functions that are the same to the last byte behind them."""

import functools

import jax
import numpy as np
import pytest

from tests.histories import memo, mini


def scale(factor):
    return lambda x: x * factor


def same(a, b):
    return memo.content(a) == memo.content(b)


def test_functions_of_one_content_are_one():
    """Closures made anew, with equal numbers, arrays and partial arguments."""
    assert same(scale(2.0), scale(2.0))
    assert same(scale(np.arange(3)), scale(np.arange(3)))
    assert same(functools.partial(scale(2), 3), functools.partial(scale(2), 3))


@pytest.mark.parametrize(
    "a, b", [(2.0, 3.0), (2, 2.0), (np.arange(3), np.arange(3) + 1), (np.float32(1), 1.0), ((1,), [1]), (scale(1), scale(2))]
)
def test_anything_else_behind_them_tells_them_apart(a, b):
    assert not same(scale(a), scale(b))


def test_a_config_tells_apart_by_what_programs_read():
    """The compass's kind does; the number of trajectories, an argument of no program, does not."""
    start = mini.start("shaped")
    config = lambda **changes: mini.get_config(start | {key.replace("__", "."): value for key, value in changes.items()})
    assert same(scale(config()), scale(config(trajectories__count=24, evaluate__samples=3)))
    assert not same(scale(config()), scale(config(compass__kind="nce")))
    assert not same(scale(config()), scale(config(data__length=16)))


def test_a_program_may_not_read_what_does_not_tell_it_apart():
    """Else a run would take the program of another number of trajectories."""
    config = mini.get_config(mini.start("shaped"))
    with memo.installed():
        assert jax.jit(scale_by(lambda: config.data.length))(2) == 16
        for read in (lambda: config.trajectories.count, lambda: config["rounds"], lambda: config.evaluate.samples):
            with pytest.raises(AssertionError, match="take it out of UNREAD"):
                jax.jit(scale_by(read))(2)


def scale_by(read):
    def program(x):
        return x * read()

    program.__module__ = "tsdfm_jax.test"
    return program


def test_what_cannot_be_told_is_not_kept():
    with pytest.raises(memo.Unknown):
        memo.content(scale(object()))
    with pytest.raises(memo.Unknown):
        memo.content(scale(jax.random.key(0)))
