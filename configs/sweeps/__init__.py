"""Config files of many runs each: they have a get_hyper(hyper) beside get_config."""
