"""Networks only: init and apply, with parameters as an explicit pytree with logical axes."""
