"""Networks only: init and apply, parameters an explicit pytree with logical axes."""
