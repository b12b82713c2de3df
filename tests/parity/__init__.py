"""Our networks beside other implementations of the same."""
