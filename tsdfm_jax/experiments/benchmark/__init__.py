"""Every program of a training beside the bare passes of the networks that it is made of."""
